"""The page of a study in Chromium: how soon its first slice is there, and how fast it scrolls.

    python -m bench.viewer [--from FOLDER] [--rounds N] [--quick]

Starts a results server of its own, gives it two explained studies (28 and 300 slices of 512 x 512,
synthetic heads with noise, or the DICOM files of a folder over and over), and opens them in a
browser without a graphics card. Times are the page's own, from the beginning of the navigation to
the frame that has the slice on it; a "cold" page is the first one that its browser opens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from scipy.ndimage import gaussian_filter

from limen.result import Phase
from tests.support import heads
from tests.support.browser import ARGUMENTS, executable
from tests.support.results_server import Server, document_part, post_parts, running
from tests.web import samples
from worker.study import render

SIDE = 512
SMALL, LARGE = 28, 300
POSITIVE = (10, 11, 12, 13, 14)
SCREENS = ((1280, 860), (1920, 1080), (3840, 2160))
# The frame that a slice is on has been made once the task after it runs.
WATCH = """
window.bench = { shown: [] };
new MutationObserver(() => {
  const { number } = document.getElementById("slice")?.dataset ?? {};
  if (!number || bench.shown.at(-1)?.number === number) return;
  const one = { number, at: 0 };
  bench.shown.push(one);
  const made = new MessageChannel();
  made.port1.onmessage = () => { one.at = performance.now(); made.port1.close(); };
  requestAnimationFrame(() => made.port2.postMessage(0));
}).observe(document, {
  subtree: true, childList: true, attributes: true, attributeFilter: ["data-number"],
});
"""
# One notch of the wheel in each frame, from the first slice to the last.
SCROLL = """async (count) => {
  const stage = document.getElementById("stage");
  const frame = () => new Promise(requestAnimationFrame);
  await frame();
  bench.shown.length = 0;
  const begun = await frame();
  const gaps = [];
  for (let n = 1, last = begun; n < count; n += 1) {
    const notch = new WheelEvent("wheel", { deltaY: 100, cancelable: true });
    Object.defineProperty(notch, "wheelDeltaY", { value: -120 });
    stage.dispatchEvent(notch);
    const now = await frame();
    gaps.push(now - last);
    last = now;
  }
  const took = performance.now() - begun;
  await new Promise((done) => setTimeout(done, 300));
  gaps.sort((a, b) => a - b);
  const slow = gaps.at(Math.floor(0.99 * gaps.length));
  return { frames: 1000 * (count - 1) / took, shown: bench.shown.length, slow };
}"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.viewer", description=__doc__)
    parser.add_argument("--from", dest="folder", type=Path, help="DICOM files of a head")
    parser.add_argument("--rounds", type=int, default=7, help="default 7")
    parser.add_argument("--quick", action="store_true", help="one round: does it work?")
    wanted = parser.parse_args()
    rounds = 1 if wanted.quick else wanted.rounds
    slice_of = _files(wanted.folder) if wanted.folder else _synthetic
    with tempfile.TemporaryDirectory(prefix="limen-bench-") as folder, running(Path(folder)) as web:
        small, large = (_post(web, n, count, slice_of) for n, count in ((1, SMALL), (2, LARGE)))
        with _browser() as browser:
            state = _logged_in(browser, web)
            _tell_first(browser, state, small, rounds)
            _tell_scrolling(browser, state, large, rounds)
    return 0


# ---- studies ----------------------------------------------------------------------------------


@cache
def _synthetic(number: int) -> np.ndarray:
    """Return (512, 512) float32, HU: a head with the noise of a scanner."""
    rng = np.random.default_rng(number)
    hu = heads.head_hu(float(number % SMALL * 5 - 60), bleeds=number % SMALL in POSITIVE, side=SIDE)
    noise = gaussian_filter(rng.normal(size=hu.shape), 0.7)
    return (hu + 5 / noise.std() * noise).astype(np.float32)


def _files(folder: Path) -> Callable[[int], np.ndarray]:
    """Return what gives slices of the files of a folder, over and over."""
    read = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    slices = [d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in read]
    return lambda number: slices[number % len(slices)].astype(np.float32)


def _post(web: Server, number: int, count: int, slice_of: Callable[[int], np.ndarray]) -> str:
    """Give the server an explained study; return the address of its page."""
    document = samples.result(number, slices=count, positive=POSITIVE, phase=Phase.EXPLANATION)
    images = [replace(image, pixel_mm=0.45) for image in document.images]
    document = replace(document, images=images)
    began = time.process_time()
    bodies = {one.original: render.hu_jls(slice_of(one.index)) for one in images if one.original}
    seconds = time.process_time() - began
    kb = sum(map(len, bodies.values())) / 1000
    print(f"{count} slices: {kb / 1000:.2f} MB, {kb / count:.0f} kB each, made in {1000 * seconds / count:.0f} ms each")  # fmt: skip # noqa: E501
    overlay = samples.png(samples.overlay(SIDE))
    bodies |= {one.explanation: overlay for one in images if one.explanation}
    parts = [(name, (name, body, "application/octet-stream")) for name, body in bodies.items()]
    answer = post_parts(web.url, web.token, [document_part(document), *parts])
    assert answer.status_code == 201, answer.text
    return str(answer.json()["page"])


# ---- the browser ------------------------------------------------------------------------------


@contextmanager
def _browser() -> Iterator[Browser]:
    path = executable()
    if path is None:
        sys.exit("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def _logged_in(browser: Browser, web: Server) -> Any:
    context = browser.new_context()
    page = context.new_page()
    page.goto(web.login_url)
    page.get_by_role("button", name="Log in").click()
    state = context.storage_state()
    context.close()
    return state


def _context(browser: Browser, state: Any, width: int, height: int) -> BrowserContext:
    context = browser.new_context(storage_state=state, viewport={"width": width, "height": height})
    context.add_init_script(WATCH)
    return context


def _tell_first(browser: Browser, state: Any, address: str, rounds: int) -> None:
    times: dict[str, list[list[float]]] = {"cold": [], "again": []}
    for _ in range(rounds):
        context = _context(browser, state, 1280, 860)
        for taken in times.values():
            page = context.new_page()
            taken.append(_first(page, address))
            page.close()
        context.close()
    print(f"\n{'first slice, ms':18} {'page there':>11} {'parsed':>8} {'slice':>8} {'worst':>7}")
    for what, found in times.items():
        there, parsed, first = (statistics.median(column) for column in zip(*found, strict=True))
        worst = max(one[-1] for one in found)
        print(f"{what:18} {there:11.0f} {parsed:8.0f} {first:8.0f} {worst:7.0f}")


def _first(page: Page, address: str) -> list[float]:
    page.goto(address)
    page.wait_for_function("() => window.bench.shown[0]?.at > 0")
    return page.evaluate("""() => {
      const [own] = performance.getEntriesByType("navigation");
      return [own.responseEnd, own.domInteractive, bench.shown[0].at];
    }""")


def _tell_scrolling(browser: Browser, state: Any, address: str, rounds: int) -> None:
    print(f"\n{'scrolling':18} {'frames/s':>9} {'worst':>7} {'shown':>9} {'99 % of gaps, ms':>17}")
    for width, height in SCREENS:
        found: dict[str, list[Any]] = {"": [], ", again": []}
        for _ in range(max(1, rounds // 2)):
            context = _context(browser, state, width, height)
            page = context.new_page()
            page.goto(address)
            page.wait_for_function("() => window.bench.shown[0]?.at > 0")
            for runs in found.values():
                page.keyboard.press("Home")
                page.wait_for_selector('#slice[data-number="1"]')
                runs.append(page.evaluate(SCROLL, LARGE))
            context.close()
        for what, runs in found.items():
            frames, shown, slow = (
                statistics.median(run[key] for run in runs) for key in ("frames", "shown", "slow")
            )
            worst = min(run["frames"] for run in runs)
            name = f"{width} x {height}{what}"
            print(f"{name:18} {frames:9.1f} {worst:7.1f} {shown:5.0f}/{LARGE - 1} {slow:17.0f}")


if __name__ == "__main__":
    sys.exit(main())
