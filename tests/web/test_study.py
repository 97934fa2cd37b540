"""The study page, its images, and votes."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from limen.result import Outcome, Phase
from tests.web import samples

pytestmark = pytest.mark.django_db


@pytest.fixture
def key(post) -> str:
    from web.results.models import Study

    for document in samples.pair():
        assert post(document).status_code == 201
    return Study.objects.get().key


def page_of(post, browser, document):
    from web.results.models import study_key

    assert post(document).status_code == 201
    return browser.get(f"/studies/{study_key(document.study.study_uid)}/").content.decode()


def test_an_explained_study_says_what_was_found_by_which_model_how_fast_and_how_sure(key, browser):
    text = browser.get(f"/studies/{key}/").content.decode()
    for words in (
        "Doe, Jane Q.", "1951-04-07", "A000001", "CT 2026-03-09 08:15", "General Hospital",
        "not for diagnostic use", "Research software. Not for diagnostic use.",
        ">ich 1.0.0</a>", samples.MODEL.sha256[:12], "2.4 s after complete",
        "33.0 s after complete",
        "LIME, settled", "about 40 superpixels", "replaced by the median of the brain", "4.0 %",
        "0.42", "poorly here", "other samples give other weights", "Topogram 0.6", "localizer",
        "threshold 50.0 %",
    ):  # fmt: skip
        assert words in text, words


def test_address_and_title_hold_no_uid_and_no_phi(key, browser):
    text = browser.get(f"/studies/{key}/").content.decode()
    assert "<title>Study · Limen</title>" in text
    assert samples.study().study_uid not in text
    assert "1.2.826" not in text


def test_a_positive_study_waits_for_its_explanation(post, browser):
    text = page_of(post, browser, samples.result())
    assert "data-waiting" in text
    assert "The explanation is being made" in text


def test_a_negative_study_does_not_wait(post, browser):
    assert "data-waiting" not in page_of(post, browser, samples.result(positive=()))


def test_a_study_that_was_not_analysed_says_why_in_plain_words(post, browser):
    document = samples.result(
        slices=0, positive=(), outcome=Outcome.NOT_ANALYSED, reason="no axial series"
    )
    text = page_of(post, browser, document)
    assert "No model looked at this study: <b>no axial series</b>" in text
    assert "data-waiting" not in text


def test_a_partial_study_says_how_much_was_looked_at(post, browser):
    document = samples.result(positive=(), outcome=Outcome.PARTIAL, reason="1 slice is broken")
    text = page_of(post, browser, document)
    assert "Nothing was found in the 3 of 3 slices that were analysed" in text
    assert "this is <b>no negative</b>: 1 slice is broken." in text


def test_an_undetermined_study_shows_its_members_and_waits_for_its_highest_slice(post, browser):
    reason = "the members of the model disagree: 0.20 to 0.90; study 0.64, at or above 0.5"
    document = samples.result(positive=(), reason=reason)
    divided = samples.ruled(document, Outcome.UNDETERMINED, 0.64, (0.2, 0.9, 0.8))
    text = page_of(post, browser, divided)
    assert f"This is neither a positive nor a negative</b>: {reason}." in text
    assert "<dd>64.0 %, threshold 50.0 %: the highest slice after each is averaged" in text
    assert "<dt>Members of the model</dt><dd>20.0 %, 90.0 %, 80.0 %</dd>" in text
    assert "Highest slice</span><button" in text
    assert "data-waiting" in text
    explained = samples.ruled(
        samples.result(positive=(), reason=reason, phase=Phase.EXPLANATION),
        Outcome.UNDETERMINED, 0.64, (0.2, 0.9, 0.8),
    )  # fmt: skip
    assert "Highest, but not explained" in page_of(post, browser, explained)


def test_every_finding_is_shown_the_worst_first_with_its_code_and_a_chart_of_its_own(post, browser):
    plain = samples.result(positive=(), outcome=Outcome.POSITIVE, probability=0.1)
    text = page_of(post, browser, samples.several(plain, {2: 0.8, 3: 0.4}))
    assert '<span class="big">80.0 %</span> <span>Fracture of skull</span>' in text
    assert "2 of 3 analysed slices at or above the threshold of 30.0 %" in text
    table = text.partition('<table id="findings">')[2].partition("</table>")[0]
    first, second = table.partition("<tbody>")[2].split("</tr>")[:2]
    for words in ("Fracture of skull", "at or above", "71642004, SCT", "30.0 %", "2 of 3"):
        assert words in first
    for words in ("Intracranial hemorrhage", "1386000, SCT", "50.0 %", "0 of 3"):
        assert words in second
    assert "at or above" not in second
    assert text.count('<svg class="chart"') + text.count('<svg id="chart"') == 2
    assert "Intracranial hemorrhage: probability of each slice" in text
    assert "Fracture of skull 80.0 %, Intracranial hemorrhage" in text  # of a slice


def test_a_study_of_one_finding_has_no_table_of_them(key, browser):
    assert 'id="findings"' not in browser.get(f"/studies/{key}/").content.decode()


def test_an_explanation_says_which_finding_it_is_of(post, browser):
    document = samples.several(samples.result(phase=Phase.EXPLANATION), {1: 0.2})
    text = page_of(post, browser, document)
    quality = text.partition('<table id="quality">')[2].partition("</table>")[0]
    assert '<span class="dim">Intracranial hemorrhage</span>' in quality


def test_the_worst_finding_speaks_for_the_study_on_the_worklist(post, browser):
    plain = samples.result(positive=(), outcome=Outcome.POSITIVE, probability=0.1)
    assert post(samples.several(plain, {2: 0.8})).status_code == 201
    both = samples.result(2)
    assert post(samples.several(both, {2: 0.8})).status_code == 201
    rows = browser.get("/").content.decode()
    assert "Fracture of skull, 1 of 3 slices" in rows
    assert "80.0 %" in rows
    assert "Intracranial hemorrhage, Fracture of skull, 1 of 3 slices" in rows


def test_a_segmentation_says_its_volume_draws_what_it_marks_and_waits_for_nothing(post, browser):
    reason = "12.3 ml marked, at or above 2 ml, 2 of 3 slices with it"
    plain = samples.result(positive=(), outcome=Outcome.POSITIVE, reason=reason)
    text = page_of(post, browser, samples.marked(plain, 12.34, {2: 310.4, 3: 42.0}))
    assert '<span class="big">12 ml</span> <span>Intracranial hemorrhage</span>' in text
    assert f"<p>{reason}.</p>" in text
    assert "<dd>12 ml marked, positive from 2.0 ml</dd>" in text
    assert "<dd>2 of 3 with it</dd>" in text
    assert "data-waiting" not in text
    assert "No explanation is needed" in text
    assert "area of what is marked" in text
    assert "Orange: what the model marks; nobody has verified it" in text
    assert "Blue:" not in text
    assert "marked: 310 mm²" in text
    assert "nothing marked" in text
    rows = browser.get("/").content.decode()
    assert "Intracranial hemorrhage 12.34 ml, 2 of 3 slices" in rows
    assert "99.0 %" not in rows


def test_less_than_the_least_volume_is_no_alarm(post, browser):
    plain = samples.result(positive=(), outcome=Outcome.PARTIAL, reason="1 slice is broken")
    text = page_of(post, browser, samples.marked(plain, 0.4, {2: 10.0}))
    assert "1 slice is broken. This is <b>no negative</b>." in text
    assert '<span class="big">0.4 ml</span>' in text


JUDGED = "0.93 for the whole, at or above 0.5, of 5 slices"


def at_once(probability=0.93, phase=Phase.PREDICTION, explained_in=(), reason=JUDGED):
    outcome = Outcome.POSITIVE if probability >= 0.5 else Outcome.NEGATIVE
    positive = explained_in if phase is Phase.EXPLANATION else ()
    said = {"phase": phase, "positive": positive, "outcome": outcome, "reason": reason}
    return samples.judged_at_once(samples.result(slices=5, **said), probability)


def test_slices_that_are_judged_at_once_have_no_number_of_their_own(post, browser):
    text = page_of(post, browser, at_once())
    assert '<span class="big">93.0 %</span>' in text
    assert f"<p>{JUDGED}.</p>" in text
    assert "data-waiting" in text
    assert 'id="chart"' not in text
    assert "one of all slices, which are judged together" in text


def test_a_volume_below_its_threshold_waits_for_no_explanation(post, browser):
    text = page_of(post, browser, at_once(0.2))
    assert "data-waiting" not in text
    assert "No explanation" not in text


def test_of_a_volume_one_explanation_is_shown_in_several_slices(post, browser):
    text = page_of(post, browser, at_once(phase=Phase.EXPLANATION, explained_in=(5, 2, 3)))
    assert "data-waiting" not in text
    assert "one linear model explains all of them at once" in text
    for number in (2, 3, 5):
        assert f'<button data-go="{number}" aria-label="Slice {number}, one of all' in text
    assert "<span>Explained in</span>" in text
    (quality,) = re.findall(r'<table id="quality">.*?</table>', text, re.DOTALL)
    assert quality.count("Describes the model") == quality.count("fit R²") == 1
    assert '<th scope="row">All</th>' in quality
    assert 'id="stage" data-first="5"' in text  # the document has that one first
    drawn = json.loads(re.search(r'<script id="slices"[^>]*>(.*?)</script>', text)[1])
    told = {s["number"]: s for s in drawn}
    assert told[3]["overlay"]
    assert told[3]["sentence"].endswith("this is what lies in this slice.")
    assert not told[4]["overlay"]
    assert told[4]["sentence"] == "One of all slices, which are judged together."


def test_a_volume_without_an_explanation_says_where_the_reason_is(post, browser):
    why = f"{JUDGED}; not explained: the reference method is for slices, not for volumes"
    text = page_of(post, browser, at_once(phase=Phase.EXPLANATION, reason=why))
    assert "Why there is no explanation of them is said with the result." in text
    assert f"<p>{why}.</p>" in text


def test_a_result_that_came_in_schema_1_is_still_shown(post, browser):
    from web.results.models import Report

    for document in samples.pair():
        assert post(document).status_code == 201
    for report in Report.objects.all():
        tree = json.loads(bytes(report.document)) | {"schema": 1}
        for new in ("threshold", "rule", "members", "code"):
            del tree["finding"][new]
        for part in (tree["model"], *tree["images"], *tree["explanations"]):
            for new in (
                "windows",
                "unit",
                "pixel_mm",
                "oriented",
                "without_strongest",
                "second_opinion",
                "own_map",
            ):
                part.pop(new, None)
        report.document = json.dumps(tree).encode()
        report.save()
    text = browser.get(f"/studies/{Report.objects.first().study.key}/").content.decode()
    assert 'id="study-rule"' not in text
    assert "well here" in text or "poorly here" in text
    assert "not asked" in text  # without the strongest region
    assert "data-preset" not in text


def test_the_explanation_is_judged_as_an_explanation_and_not_as_the_finding(post, browser):
    for document in samples.pair(positive=(1, 2)):
        text = page_of(post, browser, document)
    assert "How well the explanations describe the model" in text
    assert "whether the finding is right they do not say" in text
    assert "<td>well here<br>" in text
    assert "poorly here</span>: other samples give other weights" in text
    assert "Second method: hiding one region at a time points at the same region" in text
    assert "The model&#x27;s own map points at the same region" in text
    assert "The model&#x27;s own map names no region" in text
    assert text.count("hiding one region at a time points at another region<br>") == 1
    assert ">good<" not in text
    assert "without the strongest region 12.0 %, without all that can be hidden 4.0 %" in text


def test_the_windows_of_the_bundle_are_on_the_keys_in_their_order(post, browser):
    text = page_of(post, browser, samples.result())
    keys = re.findall(r'data-preset="(\d)"[^>]*>([^<]+) <kbd>', text)
    assert keys == [("1", "brain"), ("2", "subdural"), ("3", "bone")]


def test_the_script_is_told_what_the_greys_mean_and_how_large_pixels_are(post, browser):
    text = page_of(post, browser, samples.result(slices=3))
    slices = json.loads(re.search(r'<script id="slices"[^>]*>(.*?)</script>', text)[1])
    assert [(s["unit"], s["pixel_mm"]) for s in slices] == [("HU", 4.0)] * 3


@pytest.mark.parametrize(
    ("document", "number"),
    [
        (samples.result(slices=9, positive=(4, 5, 6)), 6),
        (samples.result(slices=9, positive=()), 5),
        (samples.ruled(samples.result(slices=9, positive=()), Outcome.UNDETERMINED, 0.6), 3),
    ],
)
def test_the_head_of_the_page_asks_for_the_slice_that_it_opens_on(post, browser, document, number):
    """The highest where something was found, else the one in the middle."""
    text = page_of(post, browser, document)
    slices = json.loads(re.search(r'<script id="slices"[^>]*>(.*?)</script>', text)[1])
    assert f'data-first="{number}"' in text
    (asked,) = re.findall(r'<link rel="preload" as="fetch" href="([^"]+)"', text.split("<body")[0])
    assert asked == slices[number - 1]["original"]


def test_each_analysed_series_says_how_many_of_its_slices_and_how_many_positive(post, browser):
    document = samples.result()
    first = document.series[0]
    both = [
        replace(first, slices=3, analysed_slices=2, positive_slices=1),
        replace(first, slices=5, analysed_slices=5, part=2),
    ]
    text = page_of(post, browser, replace(document, series=both))
    assert '<b>2 of 3</b></td><td class="number">1</td>' in text
    assert "Head 5.0 H31s, acquisition 2</th>" in text
    assert '<b>5 of 5</b></td><td class="number">0</td>' in text
    assert "Head 5.0 H31s, acquisition 1" in text  # named at the slices, which are of both


def test_positive_slices_that_were_not_explained_are_listed_with_the_reason(post, browser):
    explanation = samples.result(positive=(1, 2, 3), phase=Phase.EXPLANATION)
    first, second, third = explanation.images
    images = [
        first,
        replace(second, explanation=None),
        replace(third, explanation=None, reason="it took too long"),
    ]
    text = page_of(post, browser, replace(explanation, images=images))
    assert "Positive, but not explained" in text
    assert "the node explains a limited number of slices" in text
    assert "it took too long" in text


def test_an_older_revision_can_be_read_and_points_to_the_latest(post, browser, key):
    assert post(samples.result(revision=2, positive=())).status_code == 201
    latest = browser.get(f"/studies/{key}/").content.decode()
    assert "Negative" in latest
    older = browser.get(f"/studies/{key}/?revision=1").content.decode()
    assert "show revision 2" in older
    assert "Positive" in older
    for asked in ("3", "0", "x", "1e3", "٣", "9" * 30):
        assert browser.get(f"/studies/{key}/", {"revision": asked}).status_code == 404


def test_images_are_private_immutable_and_of_a_fixed_type(key, browser):
    page = browser.get(f"/studies/{key}/")
    answer = browser.get(page.context["slices"][0]["original"])
    assert answer.headers["Content-Type"] == "image/jls"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    body = b"".join(answer.streaming_content)
    assert body == samples.files(samples.result())["slice-0001.jls"]


def test_an_image_is_served_only_under_its_own_study(key, post, browser):
    from web.results.models import study_key

    other = samples.result(2, positive=())
    assert post(other).status_code == 201
    page = browser.get(f"/studies/{key}/")
    overlay = page.context["slices"][1]["overlay"]
    own = browser.get(overlay)
    assert own.status_code == 200
    own.close()
    stolen = overlay.replace(key, study_key(other.study.study_uid))
    assert browser.get(stolen).status_code == 404


def test_pages_are_never_kept_by_a_cache(key, browser):
    assert browser.get(f"/studies/{key}/").headers["Cache-Control"] == "private, no-store"


def test_a_reader_has_one_vote_and_its_history_is_kept(key, browser):
    from web.results.models import Vote

    address = f"/studies/{key}/feedback"
    headers = {"accept": "application/json"}
    first = {"verdict": "agree", "note": "clear", "revision": "1"}
    assert browser.post(address, first, headers=headers).json()["verdict"] == "agree"
    second = browser.post(address, {"verdict": "unsure", "revision": "1"})
    assert second.status_code == 302
    assert list(Vote.objects.values_list("verdict", "current")) == [
        ("unsure", True),
        ("agree", False),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"verdict": "maybe", "revision": "1"},
        {"revision": "1"},
        {"verdict": "agree", "revision": "9"},
        {"verdict": "agree", "revision": "x"},
        {"verdict": "agree"},
    ],
)
def test_a_vote_that_means_nothing_is_refused(key, browser, fields):
    from web.results.models import Vote

    assert browser.post(f"/studies/{key}/feedback", fields).status_code == 422
    assert not Vote.objects.exists()


def test_a_vote_is_taken_back_and_its_history_is_kept_and_shown(key, browser):
    from web.results.models import Vote

    address = f"/studies/{key}/feedback"
    for verdict in ("agree", "disagree", "withdraw", "withdraw"):
        assert browser.post(address, {"verdict": verdict, "revision": "1"}).status_code == 302
    votes = [(v.verdict, v.current, v.withdrawn_at is None) for v in Vote.objects.all()]
    assert votes == [("disagree", False, False), ("agree", False, True)]
    text = browser.get(f"/studies/{key}/").content.decode()
    assert "Earlier votes (2)" in text
    assert text.count(", taken back") == text.count(", voted again") == 1
    assert "You voted" not in text
    assert 'class="vote' not in browser.get("/").content.decode()


def test_a_vote_on_a_revision_that_is_no_longer_the_newest_is_refused(post, browser, key):
    assert post(samples.result(revision=2, positive=())).status_code == 201
    fields = {"verdict": "agree", "revision": "1"}
    answer = browser.post(
        f"/studies/{key}/feedback", fields, headers={"accept": "application/json"}
    )
    assert answer.status_code == 409
    assert "revision 2 has come" in answer.json()["detail"]
    assert browser.post(f"/studies/{key}/feedback", fields).status_code == 409
    uid = samples.study().study_uid
    by_api = browser.post(f"/api/v1/studies/{uid}/feedback", fields, "application/json")
    assert by_api.status_code == 409
    older = browser.get(f"/studies/{key}/?revision=1").content.decode()
    assert "Votes are taken on the newest revision" in older
    assert 'name="verdict"' not in older


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome.NOT_ANALYSED, "No model looked at this study"),
        (Outcome.UNDETERMINED, "The model does not agree with itself"),
    ],
)
def test_there_is_nothing_to_agree_with_where_nothing_was_said(post, browser, outcome, said):
    from web.results.models import study_key

    document = samples.result(2, positive=(), outcome=outcome, reason="why")
    text = page_of(post, browser, document)
    assert f"{said}: there is nothing to agree with." in text
    assert 'name="verdict"' not in text
    assert 'name="note"' in text
    address = f"/studies/{study_key(document.study.study_uid)}/feedback"
    assert browser.post(address, {"verdict": "agree", "revision": "1"}).status_code == 422


def test_a_vote_on_a_partial_study_is_on_the_slices_that_were_analysed(post, browser):
    document = samples.result(positive=(), outcome=Outcome.PARTIAL, reason="1 slice is broken")
    text = page_of(post, browser, document)
    assert "A vote is on what is said of the 3 of 3 slices that were analysed" in text
    assert 'value="agree"' in text
    none = replace(document, study=samples.study(2), finding=None)
    assert "No slice was analysed: there is nothing to agree with" in page_of(post, browser, none)


def test_an_open_page_hears_of_an_explanation_and_of_a_revision_and_of_nothing_else(
    post, browser, django_assert_max_num_queries
):
    from web.results.models import study_key

    address = f"/studies/{study_key(samples.study().study_uid)}/state"
    told = []
    etag = ""
    for document in (*samples.pair(), samples.result(revision=2)):
        assert post(document).status_code == 201
        answer = browser.get(address, headers={"if-none-match": etag})
        told.append((answer.json()["revision"], answer.json()["phase"]))
        etag = answer.headers["ETag"]
        with django_assert_max_num_queries(4):
            assert browser.get(address, headers={"if-none-match": etag}).status_code == 304
    assert told == [(1, "prediction"), (1, "explanation"), (2, "prediction")]


def test_a_note_is_saved_and_what_was_changed_elsewhere_is_not_overwritten(key, browser):
    address = f"/studies/{key}/note"
    assert browser.post(address, {"note": "small", "version": "0"}).json() == {"version": 1}
    assert browser.post(address, {"note": "small", "version": "0"}).json() == {"version": 1}
    conflict = browser.post(address, {"note": "large", "version": "0"})
    assert conflict.status_code == 409
    assert (conflict.json()["text"], conflict.json()["version"]) == ("small", 1)
    assert browser.post(address, {"note": "large", "version": "1"}).json() == {"version": 2}
    assert browser.post(address, {"note": "x" * 2001, "version": "2"}).status_code == 422
    assert browser.post(address, {"note": "x"}).status_code == 422
    browser.post(f"/studies/{key}/feedback", {"verdict": "agree", "revision": "1"})
    detail = browser.get(f"/api/v1/studies/{samples.study().study_uid}").json()
    assert [vote["note"] for vote in detail["feedback"]] == ["large"]


def test_readers_have_notes_of_their_own_and_see_those_of_others(key, browser, django_user_model):
    browser.post(f"/studies/{key}/note", {"note": "mine", "version": "0"})
    browser.force_login(django_user_model.objects.create_user("other"))
    browser.post(f"/studies/{key}/note", {"note": "theirs", "version": "0"})
    text = browser.get(f"/studies/{key}/").content.decode()
    assert ">theirs</textarea>" in text
    assert 'rita: <bdi class="note">mine</bdi>' in text


def test_a_note_is_shown_as_text(key, browser):
    note = "<b onclick=x>bold</b>"
    browser.post(f"/studies/{key}/feedback", {"verdict": "agree", "note": note, "revision": "1"})
    text = browser.get(f"/studies/{key}/").content.decode()
    assert note not in text
    assert "&lt;b onclick" in text


def test_a_revision_by_another_version_of_the_model_says_so(post, browser, key):
    words = "The revision before was looked at by another version of the model: ich 1.0.0. This"
    assert post(samples.result(revision=2)).status_code == 201
    assert words not in browser.get(f"/studies/{key}/").content.decode()
    other = replace(samples.MODEL, version="1.1.0", sha256="f" * 64)
    assert post(replace(samples.result(revision=3), model=other)).status_code == 201
    text = browser.get(f"/studies/{key}/").content.decode()
    assert f"{words} one: ich 1.1.0." in text
    assert words not in browser.get(f"/studies/{key}/?revision=2").content.decode()


def test_the_models_that_results_came_from_say_what_they_are_for_and_since_when(post, browser):
    assert "No model has given a result yet" in browser.get("/models/").content.decode()
    for document in samples.pair():
        card = {"intended_use": "Demonstration <b>", "training_data": "57 heads", "licence": "MIT"}
        told = replace(document, model=replace(samples.MODEL, **card))
        assert post(told).status_code == 201
    second = replace(samples.MODEL, version="1.1.0", sha256="f" * 64, intended_use="")
    assert post(replace(samples.result(2), model=second)).status_code == 201
    same_weights = replace(samples.MODEL, version="1.2.0", threshold=0.3)
    assert post(replace(samples.result(3), model=same_weights)).status_code == 201
    text = browser.get("/models/").content.decode()
    for words in (
        "ich 1.0.0", "Demonstration &lt;b&gt;", "57 heads", "MIT",
        "a slice is positive from 50.0 %",
        samples.MODEL.sha256, "<dd>1, from", "ich 1.1.0", "its node is older than this page",
    ):  # fmt: skip
        assert words in text, words
    assert "a slice is positive from 30.0 %" in text
    assert text.index("ich 1.2.0") < text.index("ich 1.1.0") < text.index("ich 1.0.0")
