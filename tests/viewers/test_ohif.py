"""What OHIF shows of our objects: the report, its boxes, the segmentation, the pictures."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, TimeoutError, expect, sync_playwright
from scipy import ndimage

from limen import config
from tests.support import heads
from tests.support.explained import Studies, Study
from tests.support.services import program
from tests.support.synthetic import BrightBlood
from tests.viewers.stage import Stage, stage
from worker.dicom.decoder import Decoder
from worker.objects import Kind
from worker.serving.engine import Engine
from worker.study.render import FOR_RGB, grey_of

ARGUMENTS = [
    *("--no-sandbox", "--disable-background-networking", "--ignore-gpu-blocklist"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
]
DATED = {"StudyDate": "20260102", "StudyTime": "030405"}
POSITIVE, NEGATIVE, NOT_ANALYSED = "1.2.3.4", "1.2.3.5", "1.2.3.6"
SLOW_MS = 90_000
WHOLE, BESIDE_PANEL = 1100, 1000
"""Right end of what is looked at in the viewport, and where the list of segments is open."""
NOWHERE = (1140, 700)
"""Below the list of segments: what the pointer rests on looks different."""
NEXT_BOX = (1214, 67)
"""The arrow in the corner of the viewport; it has no name."""

pytestmark = pytest.mark.timeout(600)
SAID = logging.getLogger("tests.viewers")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Study, list[bytes]]]:
    """A positive study, a negative one, and one that no model looked at, with their objects."""
    chest = [
        heads.slice_of(heads.chest_hu(z), z, n, "3", StudyInstanceUID=NOT_ANALYSED, Modality="MR")
        for n, z in enumerate((0.0, 10.0), start=1)
    ]
    sent = {
        POSITIVE: heads.head(PatientName="Positive^Study", **DATED),
        NEGATIVE: heads.head("2", bleeds_mm=None, StudyInstanceUID=NEGATIVE, **DATED),
        NOT_ANALYSED: chest,
    }
    bundle = heads.head_bundle()
    found = {}
    with (
        Decoder(processes=1) as decoder,
        Engine(bundle, config.Engine(), backend=BrightBlood()) as engine,
    ):
        for uid, datasets in sent.items():
            study = Studies(tmp_path_factory.mktemp("study"), decoder, engine)(datasets)
            built = study.objects(wanted={Kind.SR, Kind.SEG, Kind.SC}).built
            found[uid] = study, [one.body for one in built]
    return found


@pytest.fixture(scope="module")
def positive(given: dict[str, tuple[Study, list[bytes]]]) -> Study:
    return given[POSITIVE][0]


@pytest.fixture(scope="module")
def viewer(
    given: dict[str, tuple[Study, list[bytes]]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("stage")) as running:
        for study, objects in given.values():
            for body in (*(i.path.read_bytes() for i in study.instances), *objects):
                running.store(body)
        yield running


@pytest.fixture
def chromium() -> Iterator[Any]:
    path = program("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, caplog: pytest.LogCaptureFixture) -> Iterator[Page]:
    """A page that was shown the tour; an error screen fails the test.

    What the viewer still waits for, and what it complained of, is told of a test that fails.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    page.add_init_script("localStorage.setItem('shownTours', '[\"basicViewerTour\"]')")
    broken: list[str] = []
    page.on("console", lambda m: broken.append(m.text) if "Error Boundary" in m.text else None)
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda m: SAID.info(m.text) if m.type == "error" else None)
    page.on("requestfailed", lambda asked: SAID.info("failed: %s %s", asked.url, asked.failure))
    awaited: dict[Any, str] = {}
    page.on("request", lambda asked: awaited.setdefault(asked, asked.url))
    for over in ("requestfinished", "requestfailed"):
        page.on(over, lambda asked: awaited.pop(asked, None))
    caplog.set_level(logging.INFO, SAID.name)
    page.set_default_timeout(SLOW_MS)
    yield page
    _keep(page.screenshot(), os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0])
    SAID.info("still awaited: %s", sorted(awaited.values()))
    context.close()
    assert broken == []


def opened(page: Page, viewer: Stage, study_uid: str, kind_number: int) -> Any:
    """Open a study, then one series of it; return where it is shown.

    A page that does not come up is asked for once more, as a reader would. Until its first picture
    is there nobody goes on: the viewer moves to a slice in a viewport that it has taken down.
    """
    series = page.locator(f'[data-series="{kind_number}"]').first
    page.goto(viewer.study_url(study_uid))
    try:
        series.wait_for(timeout=SLOW_MS / 3)
    except TimeoutError:
        page.reload()
        series.wait_for()
    expect(_place(page)).to_contain_text("I:", timeout=SLOW_MS)
    series.dblclick()
    return page.locator('[data-cy="viewport-grid"]')


def test_the_report_opens_at_the_slice_of_its_first_box_with_the_probability(
    page: Page, viewer: Stage, positive: Study
) -> None:
    shown = opened(page, viewer, POSITIVE, 9901)
    shown.get_by_role("button", name="No").click()
    _until_boxed(page, shown)
    explained = {one.sop_uid.split(".")[-1] for one in positive.explanation.explanations}
    numbers = re.compile(rf"I:\s*({'|'.join(sorted(explained))})\b")
    expect(_place(page)).to_contain_text(numbers, timeout=SLOW_MS)  # the box may be there first


def test_going_from_box_to_box_jumps_to_the_slice_of_each(
    page: Page, viewer: Stage, positive: Study
) -> None:
    shown = opened(page, viewer, POSITIVE, 9901)
    shown.get_by_role("button", name="No").click()
    _until_boxed(page, shown)
    explained = {one.sop_uid.split(".")[-1] for one in positive.explanation.explanations}
    seen = set()
    for _ in range(3 * len(explained)):
        seen.add(_place(page).inner_text().partition("I:")[2].split("(")[0].strip())
        page.mouse.click(*NEXT_BOX)
        page.wait_for_timeout(1500)
    assert seen >= explained


@pytest.mark.parametrize(
    ("study_uid", "said"),
    [
        (NEGATIVE, "Haemorrhage: analysed, none found. 13 of 13 slices analysed"),
        (NOT_ANALYSED, "Not analysed: nothing is said of any finding"),
    ],
    ids=["negative", "not analysed"],
)
def test_a_report_without_a_place_is_shown_as_text(
    study_uid: str, said: str, page: Page, viewer: Stage
) -> None:
    shown = opened(page, viewer, study_uid, 9901)
    expect(shown).to_contain_text(said, timeout=SLOW_MS)
    expect(shown).to_contain_text("Not for diagnostic use")


def test_the_pictures_open(page: Page, viewer: Stage) -> None:
    shown = opened(page, viewer, POSITIVE, 9903)
    expect(shown).to_contain_text("AI pictures fake 1 - NOT FOR DIAGNOSTIC USE", timeout=SLOW_MS)
    expect(_place(page)).to_contain_text("1/3")


def test_the_segmentation_covers_what_our_overlay_covers_within_a_pixel(
    page: Page, viewer: Stage, positive: Study
) -> None:
    shown = opened(page, viewer, POSITIVE, 9902)
    shown.get_by_text("Do you want to open this Segmentation?").wait_for()
    shown.get_by_role("button", name="Yes").click()
    picture, orange = _until_orange(page)
    number = int(_place(page).inner_text().partition("I:")[2].split("(")[0])
    (image,) = [i for i in positive.explanation.images if i.sop_uid.endswith(f".{number}")]
    assert image.explanation is not None
    with Image.open(positive.files[image.explanation]) as overlay:
        rgba = np.asarray(overlay)
    ours = (rgba[..., :3] == FOR_RGB).all(axis=-1) & (rgba[..., 3] > 0)
    head = _box(np.asarray(grey_of(positive.files[image.original].read_bytes())) > 0)
    theirs = _as_pixels(orange, _box(picture.max(axis=-1) > 40), head, ours.shape)
    square = np.ones((3, 3))
    assert theirs.any()
    assert not (theirs & ~ndimage.binary_dilation(ours, square)).any()
    assert not (ours & ~ndimage.binary_dilation(theirs, square)).any()


def test_the_segmentation_goes_and_comes_back(page: Page, viewer: Stage) -> None:
    shown = opened(page, viewer, POSITIVE, 9902)
    shown.get_by_text("Do you want to open this Segmentation?").wait_for()
    shown.get_by_role("button", name="Yes").click()
    _until_orange(page)
    page.locator('[data-cy="panelSegmentation-btn"]').click()
    toggle = page.locator('[data-cy="data-row-visibility-toggle"]')
    expect(toggle).to_have_attribute("aria-label", "Hide")
    page.mouse.move(*NOWHERE)
    _, before = _until_orange(page, BESIDE_PANEL)
    toggle.click()
    expect(toggle).to_have_attribute("aria-label", "Show")
    page.mouse.move(*NOWHERE)
    picture = _until_grey(page, BESIDE_PANEL)
    assert (picture.max(axis=-1) > 40).any()  # the slice is still there
    toggle.click()
    page.mouse.move(*NOWHERE)
    _, after = _until_orange(page, BESIDE_PANEL)
    assert (before ^ after).sum() <= 0.01 * before.sum()


def _until_boxed(page: Page, shown: Any) -> None:
    """Wait for a box with its probability.

    On a machine that is short of time the viewer opens a report at the right slice and draws no
    box until somebody goes on to the next (4 of 8 times with five busy processes on two cores).
    """
    boxed = "Probability: 0.99"
    try:
        expect(shown).to_contain_text(boxed, timeout=SLOW_MS / 6)
    except AssertionError:
        page.mouse.click(*NEXT_BOX)
        expect(shown).to_contain_text(boxed, timeout=SLOW_MS)


def _place(page: Page) -> Any:
    return page.locator('[data-cy="viewport-overlay-bottom-right"]').first


def _until_orange(page: Page, right: int = WHOLE) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of the viewport without texts, and where it is orange, once it is.

    The viewer draws what it has and jumps to another slice then: two pictures in a row, with the
    same place beside them, have to be the same.
    """
    last: tuple[str, np.ndarray] = "", np.zeros(0)
    for _ in range(30):
        place = _place(page).inner_text()
        picture, orange = _seen(page, right)
        same = (place, _place(page).inner_text()) == (last[0], last[0])
        if same and orange.sum() > 500 and np.array_equal(picture, last[1]):
            return picture, orange
        last = place, picture
        page.wait_for_timeout(1000)
    raise AssertionError("no segmentation is shown")


def _until_grey(page: Page, right: int) -> np.ndarray:
    """Return the same part of the viewport once nothing in it is orange."""
    for _ in range(30):
        picture, orange = _seen(page, right)
        if not orange.any():
            return picture
        page.wait_for_timeout(1000)
    raise AssertionError("the segmentation is still shown")


def _seen(page: Page, right: int) -> tuple[np.ndarray, np.ndarray]:
    with Image.open(io.BytesIO(page.screenshot())) as image:
        picture = np.asarray(image.convert("RGB")).astype(int)[90:800, 440:right]
    red, green, blue = np.moveaxis(picture, -1, 0)
    return picture, (red > green + 30) & (green > blue + 30)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of a mask; ends are beyond it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _as_pixels(
    mask: np.ndarray,
    seen: tuple[int, int, int, int],
    head: tuple[int, int, int, int],
    shape: tuple[int, int],
) -> np.ndarray:
    """Return a mask of the screen in the pixels of the slice, whose head is seen in a box."""
    found = np.zeros(shape, bool)
    for row in range(head[0], head[1]):
        for column in range(head[2], head[3]):
            y = seen[0] + (row + 0.5 - head[0]) * (seen[1] - seen[0]) / (head[1] - head[0])
            x = seen[2] + (column + 0.5 - head[2]) * (seen[3] - seen[2]) / (head[3] - head[2])
            found[row, column] = mask[int(y), int(x)]
    return found


def _keep(picture: bytes, name: str) -> None:
    """Keep a screenshot where somebody wants to look at it."""
    folder = os.environ.get("LIMEN_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.png").write_bytes(picture)
