"""The pages in Chromium: keys, slices, overlay, votes, and not one console error."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from limen.result import Outcome, Phase
from tests.support.browser import ARGUMENTS, executable
from tests.web import samples
from tests.web.conftest import Server, post_to, unavailable


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    path = executable()
    if path is None:
        unavailable("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(start_server) -> Server:
    return start_server()


@pytest.fixture(scope="module")
def study_url(server) -> str:
    """The page of an explained study of 9 slices, 4 to 6 of them positive."""
    for document in samples.pair(1, slices=9, positive=(4, 5, 6)):
        answer = post_to(server.url, server.token, document, size=64)
    return answer.json()["page"]


@pytest.fixture(scope="module")
def context(chromium, server, study_url):
    context = chromium.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    page.goto(server.login_url)
    page.get_by_role("button", name="Log in").click()
    assert page.url == f"{server.url}/password/"
    page.close()
    yield context
    context.close()


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def page(context, complaints):
    """A page; whatever it complained of fails the test."""
    page = context.new_page()
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: complaints.append(str(e)))
    yield page
    page.close()
    assert complaints == []


def shows(page, number: int) -> None:
    page.wait_for_selector(f'#slice[data-number="{number}"]')


def test_the_worklist_shows_the_study_and_keys_open_it(page, server, study_url):
    page.goto(f"{server.url}/")
    assert page.locator("#worklist tbody tr").count() >= 1
    assert "Doe, Jane Q." in page.content()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("k")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.url == study_url


def test_who_goes_back_finds_the_row_that_was_left(page, server, study_url):
    for number in (21, 22, 23):
        document = samples.result(number, positive=(1,))
        assert post_to(server.url, server.token, document).status_code == 201
    page.goto(f"{server.url}/?outcome=positive")
    for _ in range(2):
        page.keyboard.press("j")
    key = page.locator("tr.at").get_attribute("data-key")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    page.go_back()
    # It was read and has sunk: the reader is where it is now.
    row = page.locator("tr.at")
    expect(row).to_have_attribute("data-key", key)
    assert row.locator("a").evaluate("e => e === document.activeElement")
    expect(row).not_to_have_class("unread")


def test_no_value_however_long_takes_the_room_of_another(page, server):
    long = {"patient_name": "W" * 900, "patient_id": "9" * 300, "accession": "A" * 200}
    document = samples.result(24, positive=(1,), modality="MODALITYMODALITY", **long)
    key = post_to(server.url, server.token, document).json()["page"].split("/")[-2]
    for width in (640, 1280, 3840):
        page.set_viewport_size({"width": width, "height": 860})
        page.goto(f"{server.url}/?q={'9' * 30}")
        row = page.locator(f'tr[data-key="{key}"]')
        assert row.bounding_box()["height"] < 160
        state = row.locator("td").nth(8)
        lines = state.evaluate(
            "e => { const r = document.createRange(); r.selectNodeContents(e);"
            " return new Set([...r.getClientRects()].map((b) => Math.round(b.top))).size; }"
        )
        assert lines == 1, "Predicted is one word on one line"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1280, "height": 860})


def test_slices_follow_wheel_keys_slider_chart_and_table(page, study_url):
    page.goto(study_url)
    shows(page, 6)  # the slice that says most
    page.keyboard.press("ArrowDown")
    shows(page, 7)
    page.keyboard.press("Home")
    shows(page, 1)
    page.keyboard.press("PageDown")
    shows(page, 4)
    page.keyboard.press("End")
    shows(page, 9)
    page.hover("#slice")
    page.mouse.wheel(0, -120)
    shows(page, 8)
    page.locator("#number").fill("3")
    shows(page, 3)
    box = page.locator("#chart").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 4.5 / 9, box["y"] + box["height"] / 2)
    shows(page, 5)
    page.click("details summary")
    page.click('details [data-go="2"]')
    shows(page, 2)
    assert "Slice 2 of 9" in page.locator("#slice").get_attribute("aria-label")


def test_the_sides_of_the_patient_are_drawn_where_they_are_known_and_said_where_not(
    page, server, study_url
):
    page.goto(study_url)
    canvas = page.locator("#slice")
    sides = page.locator("[data-side]:visible").all_inner_texts()
    assert sorted(sides) == ["A", "L", "P", "R"]
    stage, right = (page.locator(s).bounding_box() for s in ("#stage", ".side-of.left:visible"))
    assert right["x"] - stage["x"] < 20  # R, the right of the patient, is at the left
    assert "right of the patient at the left" in canvas.get_attribute("aria-label")
    unknown = samples.result(6, positive=())
    unknown = replace(unknown, images=[replace(i, oriented=False) for i in unknown.images])
    page.goto(post_to(server.url, server.token, unknown).json()["page"])
    assert page.locator("[data-side]:visible").count() == 0
    assert "orientation unknown" in page.locator("#where").inner_text()


def coloured(page) -> int:
    """How many pixels of the explanation are drawn over the slice."""
    return page.evaluate("""() => {
      const canvas = document.getElementById("explained");
      if (canvas.hidden) return 0;
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let count = 0;
      for (let n = 0; n < data.length; n += 4) count += Math.abs(data[n] - data[n + 2]) > 40;
      return count;
    }""")


def greys(page, x: int, y: int) -> int:
    """The grey of a pixel of the slice, as the window shows it."""
    paint = "document.getElementById('grey').getContext('2d')"
    return page.evaluate(f"([x, y]) => {paint}.getImageData(x, y, 1, 1).data[0]", [x, y])


def window(page, wanted: str) -> None:
    page.wait_for_selector(f'#slice[data-window="{wanted}"]')


def test_the_explanation_is_an_outline_a_fill_on_demand_fades_and_goes(page, study_url):
    page.goto(study_url)
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector('#slice[data-number="5"][data-explanation="contour"]')
    outline = coloured(page)
    assert outline > 100
    page.keyboard.press("f")
    page.wait_for_selector('#slice[data-explanation="fill"]')
    assert coloured(page) > 2 * outline
    for _ in range(12):
        page.keyboard.press("[")
    expect(page.locator("#strength")).to_have_value("10")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    page.keyboard.press("o")
    page.wait_for_selector('#slice[data-number="5"][data-explanation="off"]')
    assert coloured(page) == 0
    assert "explanation hidden" in page.locator("#what").inner_text()


def test_outlines_are_curves_where_the_region_has_stairs(page, study_url):
    """Of the points of an outline hardly any lies on a corner of a pixel."""
    page.goto(study_url)
    shows(page, 6)
    share = page.evaluate("""() => new Promise((done) => {
      const worker = new Worker(document.querySelector("[data-pixels]").dataset.pixels);
      const slices = JSON.parse(document.getElementById("slices").textContent);
      worker.onmessage = ({ data }) => {
        const points = data.regions.flatMap((r) => r.outlines.flatMap((o) => [...o]));
        done([data.regions.length, points.filter(Number.isInteger).length / points.length]);
      };
      const address = new URL(slices[5].overlay, location).href;
      fetch(address).then((answer) => answer.arrayBuffer())
        .then((file) => worker.postMessage({ id: 1, file, traced: true }));
    })""")
    assert share[0] == 3  # two that speak for the finding, one against it
    assert share[1] < 0.6


UNPACKED = """(files) => new Promise((done) => {
  const worker = new Worker(document.querySelector("[data-pixels]").dataset.pixels);
  const found = [];
  worker.onmessage = ({ data }) => {
    found[data.id] = data.fault ?? [data.rows, data.columns, [...data.values ?? []]];
    if (Object.keys(found).length === files.length) done(found);
  };
  files.forEach((file, id) => worker.postMessage({ id, file: Uint8Array.from(file).buffer }));
})"""


def test_pictures_are_unpacked_value_by_value(page, study_url):
    """JPEG-LS as nodes send it, with and without runs, and the PNG of 16 bits that it was."""
    rng = np.random.default_rng(17)
    noise = rng.normal(1064, 12, (40, 33)).astype(np.uint16)
    pictures = [
        noise,
        samples.hounsfield(2, 5, 64, bleed=True),  # air in long runs
        np.where(rng.random((64, 48)) < 0.03, 2**16 - 1, 0).astype(np.uint16),  # all of the range
        rng.integers(0, 2**16, (16, 16)).astype(np.uint16),
        np.full((5, 7), 24, np.uint16),
        noise[:1],
        noise[:, :1],
        noise[:1, :1],
        (noise % 200).astype(np.uint8),
    ]
    files = [samples.jls(p) for p in pictures]
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")  # with every filter
    page.goto(study_url)
    found = page.evaluate(UNPACKED, [list(f) for f in (*files, stream.getvalue())])
    for picture, (rows, columns, values) in zip([*pictures, noise], found, strict=True):
        assert (rows, columns) == picture.shape
        np.testing.assert_array_equal(np.reshape(values, picture.shape), picture)


def test_a_picture_that_is_damaged_is_said_to_be_one(page, study_url):
    whole = samples.jls(np.random.default_rng(1).integers(0, 4096, (64, 64)).astype(np.uint16))
    page.goto(study_url)
    found = page.evaluate(UNPACKED, [list(whole[: len(whole) // 2]), list(b"nothing")])
    assert "cut short" in found[0] or "damaged" in found[0]
    assert isinstance(found[1], str)


def test_keys_choose_the_windows_of_the_bundle_and_invert(page, study_url):
    page.goto(study_url)
    shows(page, 6)
    window(page, "40/80")
    assert page.locator("[data-preset]").all_inner_texts() == ["brain 1", "subdural 2", "bone 3"]
    bright = greys(page, 41, 35)
    assert bright == 255  # blood of 86 HU is white in the window of the brain
    page.keyboard.press("2")
    window(page, "80/200")
    assert 100 < greys(page, 41, 35) < 180
    page.keyboard.press("i")
    expect(page.locator("#invert")).to_have_attribute("aria-pressed", "true")
    page.wait_for_function("document.getElementById('window').textContent.includes('inverted')")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert 75 < greys(page, 41, 35) < 155
    page.locator("#centre").fill("300")
    page.locator("#centre").press("Enter")
    window(page, "300/200")
    page.locator("#slice").focus()
    page.keyboard.press("Escape")
    window(page, "40/80")
    expect(page.locator("#invert")).to_have_attribute("aria-pressed", "false")


def test_a_drag_moves_the_window_and_the_pointer_reads_hu(page, study_url):
    page.goto(study_url)
    shows(page, 6)
    box = page.locator("#stage").bounding_box()
    scale = min(box["width"], box["height"]) / 64
    left, top = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    at = left + (41.5 - 32) * scale, top + (35.5 - 32) * scale
    page.mouse.move(*at)
    value = int(samples.hounsfield(5, 9, 64, bleed=True)[35, 41]) - 1024
    expect(page.locator("#hu")).to_have_text(f"{value} HU")
    page.mouse.down()
    page.mouse.move(at[0] + 100, at[1] + 40, steps=4)
    page.mouse.up()
    centre, width = map(int, page.locator("#slice").get_attribute("data-window").split("/"))
    assert (centre, width) == (48, 119)  # 40 + 40 * 80 / 400, 80 * exp(100 / 250)


def test_zoom_keeps_what_is_under_the_pointer_and_escape_shows_all(page, study_url):
    page.goto(study_url)
    shows(page, 6)
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 60, box["y"] + box["height"] / 2 + 40)
    before = page.locator("#hu").inner_text()
    page.keyboard.down("Control")
    for _ in range(4):
        page.mouse.wheel(0, -60)
    page.keyboard.up("Control")
    expect(page.locator("#zoomed")).not_to_have_text("100 %")
    page.mouse.move(box["x"] + box["width"] / 2 + 60.5, box["y"] + box["height"] / 2 + 40)
    assert page.locator("#hu").inner_text() == before
    shows(page, 6)  # the wheel zoomed, and turned no slice
    moved = page.evaluate("document.getElementById('grey').style.transform")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_function(
        "(was) => document.getElementById('grey').style.transform !== was", arg=moved
    )
    shows(page, 6)
    page.keyboard.press("Escape")
    expect(page.locator("#zoomed")).to_have_text("100 %")
    page.keyboard.press("+")
    expect(page.locator("#zoomed")).to_have_text("125 %")


def test_one_notch_of_the_wheel_is_one_slice_and_a_trackpad_adds_up(page, study_url):
    page.goto(study_url)
    page.keyboard.press("Home")
    shows(page, 1)
    turn = """([lines, pixels, ticks]) => {
      const [deltaMode, deltaY] = [lines ? 1 : 0, lines || pixels];
      const event = new WheelEvent("wheel", { deltaMode, deltaY, cancelable: true });
      if (ticks) Object.defineProperty(event, "wheelDeltaY", { value: -120 * ticks });
      else if (pixels) Object.defineProperty(event, "wheelDeltaY", { value: -3 * pixels });
      document.getElementById("stage").dispatchEvent(event);
    }"""
    for number, notch in enumerate(([0, 100, 1], [0, 240, 1], [3, 0, 0], [0, 53, 1]), start=2):
        page.evaluate(turn, notch)
        shows(page, number)
    for _ in range(3):
        page.evaluate(turn, [0, 12, 0])  # 36 pixels of a trackpad: not yet a slice
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    shows(page, 5)
    page.evaluate(turn, [0, 5, 0])
    shows(page, 6)


def test_the_slice_stands_beside_itself_and_its_explanation(page, study_url):
    page.goto(study_url)
    shows(page, 6)
    page.keyboard.press("b")
    expect(page.locator(".grey:visible")).to_have_count(2)
    expect(page.locator("#beside")).to_have_attribute("aria-pressed", "true")
    half = page.evaluate("""() => {
      const { width, height } = document.getElementById("explained");
      const paint = document.getElementById("explained").getContext("2d");
      const { data } = paint.getImageData(0, 0, width / 2 - 2, height);
      return data.filter((v, n) => n % 4 === 0 && Math.abs(v - data[n + 2]) > 40).length;
    }""")
    assert half == 0  # the left one is plain
    assert coloured(page) > 100
    page.keyboard.press("b")
    expect(page.locator(".grey:visible")).to_have_count(1)


def test_the_words_below_say_what_the_explanation_is_worth(page, study_url):
    page.goto(study_url)
    page.locator("#number").fill("5")
    shows(page, 5)
    expect(page.locator("#said")).to_have_text(
        "The model says 91.0 % of this slice. Without the region with the thickest outline it says "
        "12.0 %. The explanation describes the model well here. Second method: hiding one region "
        "at a time points at the same region. The model's own map points at the same region."
    )
    page.locator("#number").fill("4")
    expect(page.locator("#said")).to_contain_text("describes the model poorly here: other samples")


def test_a_slice_that_does_not_come_is_told_and_asked_for_again(page, study_url, complaints):
    page.goto(study_url)
    shows(page, 6)
    first = page.evaluate("JSON.parse(document.getElementById('slices').textContent)[0].original")
    page.route(f"**{first}", lambda route: route.abort())
    page.reload()
    shows(page, 6)
    page.keyboard.press("Home")
    expect(page.locator("#missing")).to_have_text("No picture of this slice")
    expect(page.locator(".grey:visible")).to_have_count(0)
    page.unroute(f"**{first}")
    page.keyboard.press("ArrowDown")
    shows(page, 2)
    page.keyboard.press("ArrowUp")
    expect(page.locator("#missing")).to_be_hidden()
    shows(page, 1)
    assert all("Failed to load resource" in text for text in complaints)
    complaints.clear()


def test_pictures_of_8_bits_are_shown_and_have_no_window(page, server):
    plain = samples.result(72, slices=3, positive=(2,))
    eight = replace(plain, images=[replace(i, unit="") for i in plain.images])
    page.goto(post_to(server.url, server.token, eight, size=64).json()["page"])
    shows(page, 2)
    assert greys(page, 41, 35) == int(samples.head(1, 3, 64, bleed=True)[35, 41])
    assert page.locator("#one-window").is_visible()
    expect(page.locator("[data-preset]").first).to_be_disabled()
    page.keyboard.press("2")
    page.keyboard.press("i")
    page.wait_for_function("document.getElementById('window').textContent === 'inverted'")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert greys(page, 41, 35) == 255 - int(samples.head(1, 3, 64, bleed=True)[35, 41])


@pytest.mark.parametrize(("width", "height"), [(640, 430), (1280, 860), (3840, 2160)])
def test_the_stage_takes_the_room_there_is(page, study_url, width, height):
    page.set_viewport_size({"width": width, "height": height})
    page.goto(study_url)
    shows(page, 6)
    box = page.locator("#stage").bounding_box()
    assert box["height"] >= min(300, height)
    assert box["width"] * box["height"] > 0.3 * width * height
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    drawn = page.locator("#grey").bounding_box()
    assert max(drawn["width"], drawn["height"]) == pytest.approx(
        min(box["width"], box["height"]), rel=0.02
    )


def test_an_undetermined_study_opens_at_its_highest_slice(page, server):
    plain = samples.result(71, slices=9, positive=(), reason="the members disagree: 0.20 to 0.90")
    divided = samples.ruled(plain, Outcome.UNDETERMINED, 0.64, (0.2, 0.9))
    highest = max(divided.images, key=lambda i: max(i.probability.values())).index + 1
    page.goto(post_to(server.url, server.token, divided, size=64).json()["page"])
    shows(page, highest)
    assert "Undetermined" in page.locator(".verdict").inner_text()
    page.keyboard.press("End")
    page.click(".flagged button")
    shows(page, highest)


def test_a_vote_takes_one_key_and_stays_until_it_is_taken_back(page, study_url):
    page.goto(study_url)
    page.keyboard.press("n")
    page.keyboard.type("aru?")  # letters in a note are no votes
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    page.wait_for_selector('[value=disagree][aria-pressed="true"]')
    assert page.locator("#voted").inner_text() == "You voted: disagree."
    expect(page.locator("#saved")).to_have_text("Saved.")
    page.reload()
    assert page.locator('#vote [aria-pressed="true"]').get_attribute("value") == "disagree"
    assert page.input_value("#note") == "aru?"
    page.click("#undo")
    expect(page.locator("#voted")).to_have_text("Your vote is taken back.")
    assert page.locator('#vote [aria-pressed="true"]').count() == 0
    page.reload()
    page.click("text=Earlier votes")
    assert "taken back" in page.locator("#history").inner_text()


def test_the_keys_are_told_and_mean_nothing_else_meanwhile(page, study_url):
    page.goto(study_url)
    page.keyboard.press("Home")
    page.keyboard.press("?")
    assert "agree" in page.locator("dialog#keys").inner_text()
    assert "slice" in page.locator("#viewer-keys").inner_text()
    page.keyboard.press("a")
    page.keyboard.press("End")
    page.keyboard.press("Escape")
    expect(page.locator("dialog#keys")).not_to_be_visible()
    shows(page, 1)
    assert page.locator('[value=agree][aria-pressed="true"]').count() == 0


def test_a_note_is_not_lost_by_leaving_the_page_nor_while_the_server_is_away(
    page, server, complaints
):
    url = post_to(server.url, server.token, samples.result(31, positive=(1,))).json()["page"]
    page.goto(url)
    page.keyboard.press("n")
    page.keyboard.type("left at once")
    page.goto(f"{server.url}/")
    page.goto(url)
    expect(page.locator("#note")).to_have_value("left at once")
    page.route("**/note", lambda route: route.fulfill(status=503, body="{}"))
    page.keyboard.press("n")
    page.keyboard.press("End")
    page.keyboard.type(", and again")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#saved")).to_have_text("Not saved: 503")
    page.unroute("**/note")
    page.once("dialog", lambda dialog: dialog.accept())
    page.reload()
    expect(page.locator("#saved")).to_have_text("Saved.")
    assert page.input_value("#note") == "left at once, and again"
    assert all("status of 503" in text for text in complaints)
    complaints.clear()


def test_two_windows_do_not_overwrite_the_note_of_each_other(page, context, server, complaints):
    url = post_to(server.url, server.token, samples.result(32, positive=(1,))).json()["page"]
    page.goto(url)
    other = context.new_page()
    other.goto(url)
    other.fill("#note", "from the other window")
    expect(other.locator("#saved")).to_have_text("Saved.")
    other.close()
    page.fill("#note", "from this window")
    expect(page.locator("#other")).to_have_text("from the other window")
    assert [text for text in complaints if "status of 409" not in text] == []
    complaints.clear()
    page.click("#keep-mine")
    expect(page.locator("#saved")).to_have_text("Saved.")
    page.reload()
    assert page.input_value("#note") == "from this window"


def test_a_newer_revision_is_told_within_five_seconds_and_takes_the_votes(page, server):
    url = post_to(server.url, server.token, samples.result(33, positive=(1,))).json()["page"]
    page.clock.install()
    page.goto(url)
    newer = samples.result(33, positive=(), revision=2)
    assert post_to(server.url, server.token, newer).status_code == 201
    page.clock.run_for(5000)
    expect(page.locator("#newer")).to_contain_text("Revision 2 has come")
    assert page.locator(".verdicts button:enabled").count() == 0
    page.keyboard.press("a")
    page.click("#newer button")
    expect(page.locator(".verdict")).to_contain_text("Negative")
    assert page.locator('#vote [aria-pressed="true"]').count() == 0


def test_a_new_study_is_announced_and_no_row_moves(page, server, study_url):
    page.clock.install()
    page.goto(f"{server.url}/")
    before = page.locator("#worklist tbody tr").count()
    document = samples.result(2, positive=(1,), probability=0.99)
    assert post_to(server.url, server.token, document).status_code == 201
    page.clock.run_for(5100)
    page.wait_for_selector("#news button")
    assert page.locator("#news").inner_text() == "1 positive among 1 new: show"
    assert page.locator("#worklist tbody tr").count() == before
    page.click("#news button")
    expect(page.locator("#worklist tbody tr")).to_have_count(before + 1)


def test_a_row_changes_in_place_when_the_explanation_comes(page, server):
    document = samples.result(3, positive=(1,), probability=0.9)
    answer = post_to(server.url, server.token, document)
    key = answer.json()["page"].split("/")[-2]
    page.clock.install()
    page.goto(f"{server.url}/")
    row = page.locator(f'tr[data-key="{key}"]')
    assert "Predicted" in row.inner_text()
    explained = samples.result(3, positive=(1,), probability=0.9, phase=Phase.EXPLANATION)
    assert post_to(server.url, server.token, explained).status_code == 201
    page.clock.run_for(5100)
    expect(row).to_contain_text("Explained")
    assert page.locator("#news").inner_text() == ""


def test_a_page_that_waits_tells_when_the_explanation_comes(page, server):
    url = post_to(server.url, server.token, samples.result(4)).json()["page"]
    page.clock.install()
    page.goto(url)
    assert page.locator("[data-waiting]").count() == 1
    page.keyboard.press("Home")
    assert post_to(
        server.url, server.token, samples.result(4, phase=Phase.EXPLANATION)
    ).status_code == 201  # fmt: skip
    page.clock.run_for(5000)
    expect(page.locator("#newer")).to_contain_text("The explanation has come.")
    assert page.locator("[data-waiting]").count() == 0
    page.click("#newer button")
    page.wait_for_selector("#quality")
    shows(page, 1)  # where the reader was


def test_the_theme_changes_and_stays(page, server):
    page.goto(f"{server.url}/")
    assert page.get_attribute("html", "data-theme") == "dark"
    page.click("#theme")
    page.reload()
    assert page.get_attribute("html", "data-theme") == "light"
    page.click("#theme")
