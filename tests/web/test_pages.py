"""Every kind and state of page: axe-core has nothing to say, in either theme, at any width.

``LIMEN_SCREENSHOTS=folder`` keeps what was seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright

from limen.result import Outcome
from tests.support.browser import ARGUMENTS, executable
from tests.web import samples
from tests.web.conftest import Server, post_to, unavailable

SIZE = {"width": 1280, "height": 860}
# 1280 at 200 %, and a large screen.
WIDTHS = (640, 3840)
# Everything that axe-core does as it ships, and targets of 24 px; colours again in the other theme.
ALL = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
CONTRAST = {"resultTypes": ["violations"], "runOnly": ["color-contrast"]}
HOSTILE = {
    "patient_name": "<img src=x onerror=alert(1)>^\u202eevil\u202c {{7*7}} '\"`=한국\u0301\u0489",
    "patient_id": "</td></tr></table><script>alert(2)</script>" + "9" * 200,
    "accession": "A" * 64,
    "description": "<b>bold</b>" + "\u200b" * 40 + "W" * 400,
    "referring_institution": "&lt;script&gt; javascript:alert(3)",
}
VERDICTS = {"a": "agree", "r": "disagree", "u": "unsure"}
# What Tab has to reach; the marks of where it was are kept on the elements.
REACHABLE = """() => [...document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, [tabindex='0']")]
  .filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled && e.tabIndex >= 0
    && e.type !== "hidden" && !e.dataset.reached && !e.closest(".skip"))
  .map((e) => e.outerHTML.slice(0, 90))"""
REACH = """() => {
  const e = document.activeElement;
  if (e === document.body) return null;
  e.dataset.reached = "1";
  const { outlineStyle, outlineWidth } = getComputedStyle(e);
  const { width, top, bottom, left, right } = e.getBoundingClientRect();
  const isSeen = width > 0 && bottom > 0 && top < innerHeight && right > 0 && left < innerWidth;
  return [e.outerHTML.slice(0, 90), isSeen && outlineStyle !== "none" && outlineWidth !== "0px"];
}"""


@dataclass
class Gallery:
    """A server with a study of every kind, and a browser that is logged in."""

    server: Server
    page: Page
    complaints: list[str]
    studies: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)

    def post(self, name: str, *documents: Any) -> None:
        """Give the server a study."""
        for document in documents:
            answer = post_to(self.server.url, self.server.token, document, size=64)
            assert answer.status_code == 201, answer.text
        self.studies[name] = answer.json()["page"]

    def tell(self, *awaited: dict[str, Any], **more: Any) -> None:
        """Tell how the receiver stands."""
        told = {
            "host": "reception", "alarms": [], "awaited": list(awaited),
            "awaited_total": len(awaited), **more,
        }  # fmt: skip
        headers = {"Authorization": f"Bearer {self.server.token}"}
        address = f"{self.server.url}/api/v1/bulletins"
        answer = requests.post(address, json=told, headers=headers, timeout=20)
        assert answer.status_code == 200, answer.text


def faults(page: Page, name: str) -> list[str]:
    """Return what is wrong with a page that is open."""
    found = []
    for theme, options in (("dark", ALL), ("light", CONTRAST)):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        answer = Axe().run(page, options=options)
        found += [
            f"{name}, {theme}: {fault['id']}: {node['html'][:160]} {node['any'][:1]}"
            for fault in answer.response["violations"]
            for node in fault["nodes"]
        ]
        _keep(page, f"{name}-{theme}")
    for width in WIDTHS:
        page.set_viewport_size({**SIZE, "width": width})
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if wide > 0:
            found.append(f"{name}: {wide} px wider than {width}")
        _keep(page, f"{name}-{width}")
    page.set_viewport_size(SIZE)
    return found


def _keep(page: Page, name: str) -> None:
    folder = os.environ.get("LIMEN_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name.replace(' ', '-')}.png", full_page=True)


@pytest.fixture(scope="module")
def hall(start_server) -> Iterator[Gallery]:
    """A server without a study, and a browser."""
    path = executable()
    if path is None:
        unavailable("no Chromium on this machine")
    server = start_server()
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        page = _listened(browser.new_context(viewport=SIZE).new_page(), complaints)
        yield Gallery(server, page, complaints)
        browser.close()


def _listened(page: Page, complaints: list[str]) -> Page:
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: complaints.append(str(e)))
    page.on("dialog", lambda d: complaints.append(f"a dialog: {d.message}"))
    return page


@pytest.fixture(scope="module")
def gallery(hall: Gallery) -> Gallery:
    """The same, with a study of every kind; what was empty before that was looked at."""
    page, url = hall.page, hall.server.url
    for name, where in {"login": "/login/", "a link that was used": "/login/x/"}.items():
        page.goto(url + where)
        hall.empty += faults(page, name)
    hall.complaints.clear()  # 410 is an error for the console
    page.goto(hall.server.login_url)
    hall.empty += faults(page, "login link")
    page.get_by_role("button", name="Log in").click()
    hall.empty += faults(page, "password")
    for name in ("worklist", "operations", "models", "audit"):
        page.goto(url + ("/" if name == "worklist" else f"/{name}/"))
        hall.empty += faults(page, f"empty {name}")
    _fill(hall)
    return hall


def _fill(hall: Gallery) -> None:
    positive = {"slices": 9, "positive": (4, 5, 6)}
    hall.post("positive", *samples.pair(1, **positive))
    hall.post("waits for its explanation", samples.result(2, **positive))
    hall.post("negative", samples.result(3, slices=9, positive=()))
    lost = "1 of 9 slices cannot be read"
    hall.post("partial", samples.result(4, slices=9, outcome=Outcome.PARTIAL, reason=lost))
    quiet = {"positive": (), "outcome": Outcome.PARTIAL, "reason": lost}
    hall.post("partial without a positive slice", samples.result(5, slices=9, **quiet))
    why = "no series that the model can look at: contrast-enhanced"
    not_run = {"positive": (), "outcome": Outcome.NOT_ANALYSED, "reason": why}
    hall.post("not analysed", samples.result(6, slices=0, **not_run))
    divided = samples.result(7, slices=9, positive=(), reason="the members disagree: 0.20 to 0.90")
    hall.post("undetermined", samples.ruled(divided, Outcome.UNDETERMINED, 0.64, (0.2, 0.9)))
    grey = samples.result(8, slices=9, positive=(2,), modality="MR")
    images = [replace(i, unit="", oriented=False, pixel_mm=None) for i in grey.images]
    hall.post("grey values and no sides", replace(grey, images=images))
    hall.post("hostile", *(samples.renamed(d, **HOSTILE) for d in samples.pair(9)))
    hall.post("two revisions", samples.result(10), samples.result(10, revision=2, positive=()))
    hall.post("a newer one comes", samples.result(11, positive=(1,)))
    hall.post("read by others", *samples.pair(12, **positive))
    now = datetime.now(UTC)
    hall.tell(
        _awaited(20, now, state="receiving"),
        _awaited(21, now - timedelta(minutes=40)),
        _awaited(3, now, revision=2, state="predicted", outcome="positive"),
        alarms=[{"kind": "missing", "about": "worker", "text": "no worker gives a sign of life"}],
        operations=_operations(now),
    )


def _awaited(number: int, at: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "study_uid": samples.study(number).study_uid, "revision": 1, "accession": f"A{number:06d}",
        "state": "complete", "outcome": "", "images": 28, "received_at": at.isoformat(),
        "last_image_at": at.isoformat(), **changes,
    }  # fmt: skip


def _operations(now: datetime) -> dict[str, Any]:
    lane = {"queued": 3, "running": 1, "dead": 1, "sent": 2, "oldest_s": 700.0}
    return {
        "lanes": [
            {"name": "predict", **lane, "away_s": None, "unwelcome": ""},
            {"name": "pacs/MAIN", **lane, "away_s": 320.0, "unwelcome": ""},
            {"name": "pacs/" + "N" * 50, **lane, "away_s": None, "unwelcome": "called AE title"},
        ],
        "dead": [
            {"key": "0a1b2c3d-1-prediction-archive", "lane": "archive", "attempts": 3, "error": e}
            for e in ("answered 409", "W" * 400)
        ],
        "workers": [
            {"name": "ct-host/42", "version": "0.1.0", "lanes": ["predict", "explain"],
             "started_at": now.isoformat(), "seen_s": 400.0, "late": True},
        ],
        "disk": {"total": 10**12, "free": 10**11, "least": 10**9},
        "peers": [{"name": "CT1", "last_at": now.isoformat()}, {"name": "CT2", "last_at": None}],
    }  # fmt: skip


def test_before_anything_came(gallery: Gallery) -> None:
    """Logging in, and pages that have nothing to show yet."""
    assert gallery.empty == []


@pytest.mark.parametrize(
    "where",
    ["/", "/?outcome=positive", "/?q=nobody", "/?state=waiting", "/?unread=1&received=7d",
     "/operations/", "/models/", "/audit/"],
)  # fmt: skip
def test_lists_and_what_stands_behind_them(gallery: Gallery, where: str) -> None:
    gallery.page.goto(gallery.server.url + where)
    name = where.strip("/?").replace("/", "") or "worklist"
    assert faults(gallery.page, name) == []
    assert gallery.complaints == []


@pytest.mark.parametrize(
    "name",
    ["positive", "waits for its explanation", "negative", "partial", "not analysed", "undetermined",
     "partial without a positive slice", "grey values and no sides", "hostile", "two revisions"],
)  # fmt: skip
def test_studies(gallery: Gallery, name: str) -> None:
    gallery.page.goto(gallery.studies[name])
    _wait_for_slices(gallery.page)
    assert faults(gallery.page, name) == []
    assert gallery.complaints == []


def _wait_for_slices(page: Page) -> None:
    if page.locator("#stage").count():
        page.wait_for_selector("#slice[data-number]")


def _older(page: Page, gallery: Gallery) -> None:
    page.goto(gallery.studies["two revisions"] + "?revision=1")
    expect(page.locator("main")).to_contain_text("Votes are taken on the newest revision")


def _keys(page: Page, gallery: Gallery) -> None:
    page.goto(gallery.studies["positive"])
    page.keyboard.press("?")
    expect(page.locator("dialog#keys")).to_be_visible()


def _side_by_side(page: Page, gallery: Gallery) -> None:
    page.goto(gallery.studies["positive"])
    page.wait_for_selector('#slice[data-explanation="contour"]')
    for key in "fb3i":
        page.keyboard.press(key)
    page.wait_for_selector('#slice[data-explanation="fill"][data-window="600/2800"]')


def _table(page: Page, gallery: Gallery) -> None:
    page.goto(gallery.studies["positive"])
    page.click("details summary")


def _read(page: Page, gallery: Gallery) -> None:
    """The reader voted, voted again and wrote; so did another."""
    address = gallery.studies["read by others"]
    other = page.context.browser.new_page()
    other.goto(_link(gallery, "rita", "reader"))
    other.get_by_role("button", name="Log in").click()
    for one, keys, note in ((other, "a", "I see none"), (page, "ur", HOSTILE["description"])):
        one.goto(address)
        for key in keys:
            one.keyboard.press(key)
            expect(one.locator("#voted")).to_have_text(f"You voted: {VERDICTS[key]}.")
        one.fill("#note", note)
        one.keyboard.press("Control+Enter")
        expect(one.locator("#saved")).to_have_text("Saved.")
    other.close()
    page.reload()
    page.click("text=Earlier votes")
    expect(page.locator(".votes").first).to_contain_text("rita")


def _conflict(page: Page, gallery: Gallery) -> None:
    address = gallery.studies["negative"]
    page.goto(address)
    other = page.context.new_page()
    other.goto(address)
    other.fill("#note", "from the other window")
    expect(other.locator("#saved")).to_have_text("Saved.")
    other.close()
    page.fill("#note", "from this window")
    expect(page.locator("#other")).to_have_text("from the other window")
    gallery.complaints.clear()  # 409 is an error for the console


def _newer(page: Page, gallery: Gallery) -> None:
    page.clock.install()
    page.goto(gallery.studies["a newer one comes"])
    newer = samples.result(11, positive=(), revision=2)
    assert post_to(gallery.server.url, gallery.server.token, newer).status_code == 201
    page.clock.run_for(5000)
    expect(page.locator("#newer")).to_contain_text("Revision 2 has come")


@pytest.mark.parametrize("state", [_older, _keys, _side_by_side, _table, _read, _conflict, _newer])
def test_states_of_a_study(gallery: Gallery, state: Callable[[Page, Gallery], None]) -> None:
    mine = gallery.page.context
    # Of its own: a clock that is set is set for a whole context.
    context = mine.browser.new_context(viewport=SIZE, storage_state=mine.storage_state())
    page = _listened(context.new_page(), gallery.complaints)
    state(page, gallery)
    assert faults(page, state.__name__.strip("_")) == []
    assert gallery.complaints == []
    context.close()


@pytest.mark.parametrize(
    ("where", "status"), [("/studies/0/", 404), ("/nothing", 404), ("/?outcome=benign", 400)]
)
def test_errors(gallery: Gallery, where: str, status: int) -> None:
    assert gallery.page.goto(gallery.server.url + where).status == status
    assert faults(gallery.page, f"error {status}") == []
    gallery.complaints.clear()  # the status is an error for the console


def test_what_an_account_sees_that_is_not_shown_patients(gallery: Gallery) -> None:
    page = _listened(gallery.page.context.browser.new_page(viewport=SIZE), gallery.complaints)
    page.goto(_link(gallery, "ina", "integrator"))
    page.get_by_role("button", name="Log in").click()
    found = []
    pages = {
        "masked worklist": gallery.server.url,
        "masked study": gallery.studies["positive"],
        "masked operations": f"{gallery.server.url}/operations/",
    }
    for name, where in pages.items():
        page.goto(where)
        found += faults(page, name)
        text = page.content()
        assert not any(word in text for word in ("Doe", "Jane", "P00001", "A000001", "/images/"))
    assert gallery.complaints == []
    page.goto(f"{gallery.server.url}/audit/")
    found += faults(page, "error 403")
    gallery.complaints.clear()
    assert found == []
    page.close()


def _link(gallery: Gallery, name: str, role: str) -> str:
    made = gallery.server.command("link", name, "--create", "--role", role)
    assert made.returncode == 0, made.stderr
    return made.stdout.split()[-1]


@pytest.mark.parametrize("where", ["worklist", "study", "operations"])
def test_tab_reaches_everything_and_shows_where_it_is(gallery: Gallery, where: str) -> None:
    page = gallery.page
    addresses = {"worklist": gallery.server.url, "study": gallery.studies["positive"]}
    page.goto(addresses.get(where, f"{gallery.server.url}/{where}/"))
    _wait_for_slices(page)
    page.evaluate("document.activeElement.blur()")
    stops = []
    for _ in range(250):
        page.keyboard.press("Tab")
        stop = page.evaluate(REACH)
        if stop is None:
            break
        stops.append(stop)
    assert [html for html, is_seen in stops if not is_seen] == []
    assert page.evaluate(REACHABLE) == []


def test_a_study_is_read_by_keys_alone(gallery: Gallery) -> None:
    """From the list through slices and windows to a vote and a note, and back to its row."""
    page = gallery.page
    page.goto(f"{gallery.server.url}/?outcome=positive")
    page.keyboard.press("j")
    key = page.locator("tr.at").get_attribute("data-key")
    page.keyboard.press("Enter")
    page.wait_for_selector("#slice[data-number]")
    for pressed, shown in (("Home", '[data-number="1"]'), ("3", '[data-window="600/2800"]')):
        page.keyboard.press(pressed)
        page.wait_for_selector(f"#slice{shown}")
    page.keyboard.press("a")
    expect(page.locator("#voted")).to_have_text("You voted: agree.")
    page.keyboard.press("n")
    page.keyboard.type("seen")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#saved")).to_have_text("Saved.")
    page.go_back()
    expect(page.locator("tr.at")).to_have_attribute("data-key", key)
    assert gallery.complaints == []
