"""The pages in Chromium: keys, slices, overlay, votes, and not one console error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from limen.result import Outcome, Phase
from tests.web import samples
from tests.web.conftest import Server, post_to, unavailable

CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# The colours of the theme tokens that carry text, and the grounds they stand on.
PAIRS = """() => {
  const style = getComputedStyle(document.documentElement);
  const rgb = (name) => {
    const probe = document.createElement("i");
    document.body.append(probe);
    probe.style.color = `var(--${name})`;
    const value = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
    probe.remove();
    return value;
  };
  const grounds = ["ground", "panel", "raised"];
  const pairs = [["on-accent", "accent"]];
  for (const text of ["text", "dim", "accent"]) for (const g of grounds) pairs.push([text, g]);
  for (const name of ["positive", "undetermined", "partial", "absent", "negative"])
    for (const g of [`${name}-ground`, "panel", "raised"]) pairs.push([name, g]);
  return pairs.map(([a, b]) => [a, b, rgb(a), rgb(b)]);
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    path = next((p for p in CHROMIUM if Path(p).exists()), None)
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
    page.mouse.wheel(0, -40)
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
    stage, right = (page.locator(s).bounding_box() for s in ("#stage", ".side-of.left"))
    assert right["x"] - stage["x"] < 20  # R, the right of the patient, is at the left
    assert "right of the patient at the left" in canvas.get_attribute("aria-label")
    unknown = samples.result(6, positive=())
    unknown = replace(unknown, images=[replace(i, oriented=False) for i in unknown.images])
    page.goto(post_to(server.url, server.token, unknown).json()["page"])
    assert page.locator("[data-side]:visible").count() == 0
    assert "orientation unknown" in page.locator("#where").inner_text()


def pixel(page) -> list[int]:
    """The colour in the middle of the bleeding of slice 5 (64 x 64)."""
    return page.evaluate(
        "[...document.getElementById('slice').getContext('2d').getImageData(41, 35, 1, 1).data]"
    )


def test_the_overlay_is_drawn_fades_and_goes(page, study_url):
    page.goto(study_url)
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector('#slice[data-number="5"][data-overlay="true"]')
    strong = pixel(page)
    assert strong[0] > strong[2] + 30  # orange
    for _ in range(4):
        page.keyboard.press("[")
    expect(page.locator("#opacity")).to_have_value("40")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    faint = pixel(page)
    assert strong[0] - strong[2] > faint[0] - faint[2] > 0
    page.keyboard.press("l")
    page.wait_for_selector('#slice[data-number="5"][data-overlay="false"]')
    grey = pixel(page)
    assert grey[0] == grey[1] == grey[2]


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
    assert page.locator('[aria-pressed="true"]').get_attribute("value") == "disagree"
    assert page.input_value("#note") == "aru?"
    page.click("#undo")
    expect(page.locator("#voted")).to_have_text("Your vote is taken back.")
    assert page.locator('[aria-pressed="true"]').count() == 0
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
    assert page.locator('[aria-pressed="true"]').count() == 0


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


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_text_stands_out_from_its_ground_in_each_theme(page, server, theme):
    def luminance(rgb: list[int]) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (v / 255 for v in rgb)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    page.goto(f"{server.url}/")
    page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    for text, ground, first, second in page.evaluate(PAIRS):
        high, low = sorted((luminance(first), luminance(second)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (theme, text, ground)


@pytest.mark.parametrize("where", ["worklist", "study"])
def test_everything_that_can_be_used_has_a_name_and_is_large_enough(page, server, study_url, where):
    page.goto(study_url if where == "study" else f"{server.url}/")
    page.wait_for_load_state("networkidle")
    small = page.evaluate(
        """() => [...document.querySelectorAll("a, button, input, select, textarea, summary")]
          .filter((e) => e.offsetParent && !e.closest(".skip, td, p, dd"))
          .filter((e) => e.getBoundingClientRect().height < 24)
          .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert small == []
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input:not([type=hidden]), select, textarea")]
          .filter((e) => !e.labels.length && !e.getAttribute("aria-label"))
          .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
