"""The worklist: order, filters, names, and what it costs."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from limen.result import Outcome, Phase
from tests.web import samples

pytestmark = pytest.mark.django_db
UNREAD = re.compile(r'data-key="([0-9a-f]{32})"')


def keys(answer) -> list[str]:
    return UNREAD.findall(answer.content.decode())


def key_of(number: int) -> str:
    from web.results.models import study_key

    return study_key(samples.study(number).study_uid)


def put(post, number: int, **changes) -> None:
    assert post(samples.result(number, **changes)).status_code == 201


def test_an_empty_worklist_says_how_to_send_a_study(browser):
    text = browser.get("/").content.decode()
    assert "No study yet" in text
    assert "limen send" in text


def test_the_order_is_positive_undetermined_partial_not_analysed_negative_then_who_waits_longest(
    post, browser
):
    early, late = "2026-03-09T07:00:00Z", "2026-03-09T09:00:00Z"
    put(post, 1, positive=(), received=late)
    put(post, 2, positive=(), received=early)
    put(post, 3, slices=0, positive=(), outcome=Outcome.NOT_ANALYSED, reason="no CT series")
    put(post, 4, positive=(), outcome=Outcome.PARTIAL, reason="1 slice unreadable")
    put(post, 5, positive=(3,), probability=0.6, received=early)
    put(post, 6, positive=(3,), probability=0.99, received=late)
    divided = "the members of the model disagree: 0.20 to 0.90"
    for number, probability in ((7, 0.4), (8, 0.7)):
        document = samples.result(number, positive=(), reason=divided)
        assert post(samples.ruled(document, Outcome.UNDETERMINED, probability)).status_code == 201
    answer = browser.get("/")
    assert keys(answer) == [key_of(n) for n in (5, 6, 7, 8, 4, 3, 2, 1)]
    text = answer.content.decode()
    assert divided in text
    assert 'class="badge undetermined"' in text
    assert "no CT series" in text
    assert "1 slice unreadable" in text
    assert "99.0 %" in text


def test_positive_slices_that_nobody_can_attribute_wait_among_the_positive(post, browser):
    put(post, 1, positive=(3,), probability=0.6)
    reason = "2 patients in one study: A, B"
    put(post, 2, positive=(2,), probability=0.9, outcome=Outcome.PARTIAL, reason=reason)
    put(post, 3, positive=(), outcome=Outcome.PARTIAL, reason="1 slice unreadable")
    answer = browser.get("/")
    assert keys(answer) == [key_of(n) for n in (1, 2, 3)]
    assert f"<b>1 positive slice</b>: {reason}" in answer.content.decode()
    assert "<b>2 positive</b> among 3 new" in answer.content.decode()
    assert "Positive <b>2</b>" in answer.content.decode()
    assert keys(browser.get("/", {"outcome": "positive"})) == [key_of(n) for n in (1, 2)]
    assert keys(browser.get("/", {"outcome": "partial"})) == [key_of(n) for n in (2, 3)]
    page = browser.get(f"/studies/{key_of(2)}/").content.decode()
    assert "nobody can say what that means for this patient" in page
    assert "Nothing was found" not in page
    assert "data-waiting" in page  # its positive slices are explained


def test_what_a_rule_makes_of_the_slices_decides_where_a_partial_study_waits(post, browser):
    put(post, 1, positive=(3,), probability=0.6)
    for number, positive, probability in ((2, (), 0.9), (3, (3,), 0.3)):
        document = samples.result(number, positive=positive, reason="a gap")
        assert post(samples.ruled(document, Outcome.PARTIAL, probability)).status_code == 201
    assert keys(browser.get("/")) == [key_of(n) for n in (1, 2, 3)]
    high = browser.get(f"/studies/{key_of(2)}/").content.decode()
    assert "The study is at or above its threshold of 50.0 %, but" in high
    assert "Nothing was found" not in high
    low = browser.get(f"/studies/{key_of(3)}/").content.decode()
    assert "1 of 3 analysed slices at or above the threshold" in low
    assert "The study as a whole is below its own, but this is <b>no negative</b>: a gap" in low


def test_a_negative_study_with_positive_slices_says_why_it_is_negative(post, browser):
    reason = "study 0.31, below 0.5; 1 of 3 slices at or above 0.6"
    document = samples.result(1, reason=reason)
    assert post(samples.ruled(document, Outcome.NEGATIVE, 0.31)).status_code == 201
    assert reason in browser.get("/").content.decode()
    page = browser.get(f"/studies/{key_of(1)}/").content.decode()
    assert "<p>Study 0.31, below 0.5; 1 of 3 slices at or above 0.6.</p>" in page
    assert "data-waiting" in page  # its positive slice is explained


def test_undetermined_studies_can_be_asked_for(post, browser):
    put(post, 1)
    document = samples.ruled(samples.result(2, positive=()), Outcome.UNDETERMINED, 0.4)
    assert post(document).status_code == 201
    assert keys(browser.get("/", {"outcome": "undetermined"})) == [key_of(2)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"outcome": "positive"}, [1]),
        ({"modality": "MR"}, [3]),
        ({"q": "a000002"}, [2]),
        ({"q": "P00003"}, [3]),
        ({"q": "muller"}, [2]),
        ({"q": "MÜLLER françois"}, [2]),
        ({"q": "김"}, [3]),
        ({"q": "100%"}, []),
        ({"q": "%"}, []),
        ({"state": "prediction"}, [1, 3, 2]),
        ({"date": "2026-03-09"}, [1, 3, 2]),
        ({"date": "2026-03-08"}, []),
        ({"received": "30d"}, []),
        ({"unread": "1", "modality": "MR"}, [3]),
        ({"mine": "1"}, []),
        ({"q": "nobody"}, []),
        ({"q": "doe", "outcome": "positive", "modality": "CT"}, [1]),
    ],
)
def test_filters_of_the_address_choose_rows(post, browser, query, expected):
    put(post, 1)
    put(post, 2, positive=(), patient_name="Müller^François", received="2026-03-09T09:00:00Z")
    put(post, 3, positive=(), patient_name="Kim^=金=김^희중", modality="MR")
    answer = browser.get("/", query)
    assert keys(answer) == [key_of(n) for n in expected]
    assert expected or "No study matches" in answer.content.decode()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("outcome=nonsense", "outcome does not know this value; it knows positive, undetermined"),
        ("state=done", "it knows waiting, prediction, explanation"),
        ("received=1y", "it knows 24h, 7d, 30d"),
        ("unread=yes", "unread does not know this value; it knows 1."),
        ("mine=0", "mine does not know this value; it knows 1."),
        ("date=20260309", "takes a day, as YYYY-MM-DD"),
        ("date=2026-02-30", "takes a day, as YYYY-MM-DD"),
        ("modality=" + "M" * 17, "modality takes at most 16 characters"),
        ("q=" + "x" * 201, "q takes at most 200 characters"),
        ("outcom=positive", "no filter of that name; it has unread, mine, outcome, state"),
        ("outcome=positive&outcome=negative", "The filter outcome is given twice"),
        ("q[]=x", "no filter of that name"),
        ("date=0000-00-00", "takes a day, as YYYY-MM-DD"),
    ],
)
def test_a_filter_that_means_nothing_is_refused_and_says_what_there_is(post, browser, query, says):
    put(post, 1)
    answer = browser.get(f"/?{query}")
    assert answer.status_code == 400
    assert says in answer.content.decode()
    assert key_of(1) not in answer.content.decode()


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("Kim^Minjun=金^民俊=김^민준", "김민준|김 민준|김\u3000민준|민준 김|金民俊|KIM minjun"),
        (
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            "山田太郎|山田 太郎|太郎|ヤマダ|ﾔﾏﾀﾞﾀﾛｳ|yamadatarou",
        ),
        ("=山田^太郎", "山田太郎"),
        ("Müller-Lüdenscheidt^Françoise", "muller|LÜDENSCHEIDT|francoise muller|Müller-Lüd"),
        ("O\u2019Brien^Seán^^Dr.", "O'Brien|obrien|o brien|Sean O'Brien|Dr. O'Brien"),
        ("Ｄｏｅ^Ｊａｎｅ", "doe jane|Doe^Jane|DOE, Jane|janedoe"),
        ("İnce^Ayşe", "ince ayse|İNCE|ayşe"),
        ("Papadopoulos^=Παπαδόπουλος^Νίκος", "παπαδοπουλος|ΝΊΚΟΣ"),
        ("نجيب^محفوظ", "نجيب محفوظ|محفوظ"),
    ],
)
def test_a_name_is_found_in_its_own_script_in_any_spacing_width_and_case(
    post, browser, name, asked
):
    put(post, 1, patient_name=name)
    put(post, 2, patient_name="Smith^Adam")
    for text in asked.split("|"):
        assert keys(browser.get("/", {"q": text})) == [key_of(1)], text


def test_an_accession_number_is_found_whole_and_not_by_words_of_other_fields(post, browser):
    put(post, 1, accession="CT-2026/0417", patient_id="P 17")
    put(post, 2, accession="0417", patient_id="CT2026")
    assert keys(browser.get("/", {"q": "ct-2026/0417"})) == [key_of(1)]
    assert keys(browser.get("/", {"q": "p17"})) == [key_of(1)]


def test_what_was_read_sinks_within_its_urgency_the_latest_first(post, browser):
    for number, hour in ((1, 7), (2, 8), (3, 9)):
        put(post, number, received=f"2026-03-09T0{hour}:00:00Z")
    put(post, 4, positive=())
    for number in (1, 2):
        browser.get(f"/studies/{key_of(number)}/")
    assert keys(browser.get("/")) == [key_of(n) for n in (3, 2, 1, 4)]
    assert keys(browser.get("/", {"unread": "1"})) == [key_of(n) for n in (3, 4)]
    assert keys(browser.get("/", {"mine": "1"})) == [key_of(n) for n in (2, 1)]
    assert keys(browser.get("/", {"mine": "1", "unread": "1"})) == []


def test_the_list_says_how_many_are_new_to_this_reader_and_how_many_of_them_positive(
    post, browser, django_user_model
):
    assert "Nothing new" in browser.get("/").content.decode()
    for number in (1, 2):
        put(post, number)
    put(post, 3, positive=())
    assert "<b>2 positive</b> among 3 new" in browser.get("/").content.decode()
    browser.get(f"/studies/{key_of(1)}/")
    assert "<b>1 positive</b> among 2 new" in browser.get("/").content.decode()
    browser.force_login(django_user_model.objects.create_user("other"))
    assert "<b>2 positive</b> among 3 new" in browser.get("/").content.decode()


def test_an_explanation_and_a_new_revision_make_a_study_unread_again_and_it_stays_mine(
    post, browser
):
    put(post, 1)
    page = f"/studies/{key_of(1)}/"
    for changed in ({"phase": Phase.EXPLANATION}, {"revision": 3, "positive": ()}):
        browser.get(page)
        assert keys(browser.get("/", {"unread": "1"})) == []
        put(post, 1, **changed)
        assert keys(browser.get("/", {"unread": "1", "mine": "1"})) == [key_of(1)]
    browser.get(page, {"revision": 1})  # an older revision is not what there is to read
    assert keys(browser.get("/", {"unread": "1"})) == [key_of(1)]
    browser.get(page)
    put(post, 1, revision=2)  # it comes late: the latest word stays
    assert keys(browser.get("/", {"unread": "1"})) == []


def test_what_came_while_a_page_was_made_is_not_read_by_it(post, reader):
    from web.results import reading
    from web.results.models import ReadMark, Study

    put(post, 1)
    shown = Study.objects.get()
    put(post, 1, phase=Phase.EXPLANATION)
    reading.mark(shown, reader)
    assert not ReadMark.objects.get().current


def test_a_vote_by_the_api_reads_a_study_too(post, browser):
    put(post, 1)
    uid = samples.study(1).study_uid
    body = {"verdict": "agree"}
    answer = browser.post(f"/api/v1/studies/{uid}/feedback", body, "application/json")
    assert answer.status_code == 201
    assert keys(browser.get("/", {"mine": "1"})) == [key_of(1)]
    assert keys(browser.get("/", {"unread": "1"})) == []


def test_a_poll_hears_that_a_study_was_read_elsewhere(post, browser):
    put(post, 1)
    first = browser.get("/", headers={"x-limen-poll": "1"})
    browser.get(f"/studies/{key_of(1)}/")
    again = {"x-limen-poll": "1", "if-none-match": first.headers["ETag"]}
    answer = browser.get("/", headers=again)
    assert answer.status_code == 200
    assert "Nothing new" in answer.content.decode()


def test_only_what_has_no_result_can_be_asked_for(post, browser):
    put(post, 1)
    answer = browser.get("/", {"state": "waiting"})
    assert keys(answer) == []
    assert "Nothing waits for a result" in answer.content.decode()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Doe^Jane^Q.^Dr.^MD", ["Doe, Dr. Jane Q., MD"]),
        ("Müller^François", ["Müller, François"]),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["Yamada, Tarou", "山田 太郎"]),
        ("Hong^Gildong=洪^吉洞=홍^길동", ["Hong, Gildong", "洪 吉洞"]),
        ("=山田^太郎", ["山田 太郎"]),
        ("", ["no name"]),
        ("Single", ["Single"]),
        ("^Given", [">Given<"]),
    ],
)
def test_names_are_shown_as_people_write_them(post, browser, name, shown):
    put(post, 1, patient_name=name)
    text = browser.get("/").content.decode()
    assert all(part in text for part in shown)
    assert "^" not in text


def test_a_name_cannot_bring_markup_or_turn_the_text_around(post, browser):
    evil = "<script>alert(1)</script>\u202e^\"'><img src=x onerror=alert(2)>"
    document = samples.result(1, patient_name=evil, accession=evil, patient_id=evil)
    assert post(document).status_code == 201
    for address in ("/", f"/studies/{key_of(1)}/"):
        text = browser.get(address).content.decode()
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "\"'><img" not in text
    assert "&lt;script&gt;" in text


def test_a_reason_cannot_end_the_data_of_the_page(post, browser):
    from dataclasses import replace

    document = samples.result(1)
    first = replace(document.images[0], reason="</script><script>alert(1)</script>")
    assert post(replace(document, images=[first, *document.images[1:]])).status_code == 201
    assert "</script><script>alert" not in browser.get(f"/studies/{key_of(1)}/").content.decode()


def test_pages_follow_each_other_without_gap_or_repetition(post, browser, monkeypatch):
    from web.results import worklist

    monkeypatch.setattr(worklist, "PAGE", 4)
    for number in range(1, 11):
        put(post, number, slices=1, positive=(1,) if number % 2 else ())
    for number in (1, 2, 5, 6, 9):
        browser.get(f"/studies/{key_of(number)}/")
    seen: list[str] = []
    address = "/"
    while address:
        answer = browser.get(address)
        seen += keys(answer)
        address = answer.context["next_address"]
    assert len(seen) == len(set(seen)) == 10


def some_studies(readers) -> list:
    """Make sixty studies of every kind, and let each reader have read some; return them."""
    from web.results.models import Phase as Phases
    from web.results.models import ReadMark, Study, study_key
    from web.results.summary import RANKS

    chance = random.Random(17)
    begin, rows = datetime(2026, 3, 9, tzinfo=UTC), []
    for n in range(60):
        outcome, at = chance.choice(list(RANKS)), begin + timedelta(hours=chance.randrange(20))
        rows.append(Study(
            key=study_key(str(n)), study_uid=f"1.2.{n}", revision=1, outcome=outcome,
            phase=chance.choice(list(Phases)), urgency=RANKS[outcome], received_at=at,
            modality=chance.choice(["CT", "MR"]), study_date=f"2026030{chance.randrange(8, 10)}",
            search=chance.choice(["doejane a1", "kim a2"]), complete_at=at, changed_at=at,
        ))  # fmt: skip
    rows = Study.objects.bulk_create(rows)
    for reader in readers:
        ReadMark.objects.bulk_create(
            ReadMark(reader=reader, study=row, current=chance.random() < 0.7, urgency=row.urgency,
                     received_at=row.received_at, at=begin)
            for row in chance.sample(rows, 40)
        )  # fmt: skip
    return rows


@pytest.mark.parametrize("few", [0, 9, 2000])
@pytest.mark.parametrize(
    "query",
    [
        {}, {"unread": "1"}, {"mine": "1"}, {"mine": "1", "unread": "1"}, {"outcome": "partial"},
        {"state": "prediction"}, {"modality": "MR", "state": "explanation"}, {"q": "doe"},
        {"q": "kim a2", "date": "2026-03-09"}, {"q": "doe", "outcome": "negative", "mine": "1"},
        {"received": "24h"}, {"q": "nobody"},
    ],
)  # fmt: skip
def test_pages_have_the_order_of_the_whole_list_however_their_rows_are_found(
    monkeypatch, reader, django_user_model, query, few
):
    """``few`` is how many are put in order by themselves; beyond it the order is followed."""
    from django.http import QueryDict

    from web.results import filters, worklist
    from web.results.models import ReadMark
    from web.results.place import Place

    rows = some_studies([reader, django_user_model.objects.create_user("other")])
    monkeypatch.setattr(worklist, "PAGE", 7)
    monkeypatch.setattr(worklist, "FEW", few)
    monkeypatch.setattr(filters.timezone, "now", lambda: datetime(2026, 3, 10, 10, tzinfo=UTC))
    marks = {m.study_id: m.current for m in ReadMark.objects.filter(reader=reader)}
    fits = {
        "unread": lambda row: not marks.get(row.pk),
        "mine": lambda row: row.pk in marks,
        "outcome": lambda row: row.outcome == query["outcome"],
        "state": lambda row: row.phase == query["state"],
        "modality": lambda row: row.modality == query["modality"],
        "q": lambda row: all(word in row.search for word in query["q"].split()),
        "date": lambda row: row.study_date == "20260309",
        "received": lambda row: row.received_at > datetime(2026, 3, 9, 10, tzinfo=UTC),
    }
    expected = [row for row in rows if all(fits[name](row) for name in query)]
    expected.sort(key=lambda row: Place.of(row, is_read=marks.get(row.pk, False)).order)
    known, seen, words, pages = worklist.counts(reader), [], QueryDict(mutable=True), 0
    words.update(query)
    while pages <= len(expected) / 7 + 1:
        page = worklist.page(filters.Filter.read(words), reader, known)
        seen += [(row.pk, bool(row.is_read)) for row in page.studies]
        pages += 1
        if not page.next:
            break
        words["after"] = page.next
    assert seen == [(row.pk, marks.get(row.pk, False)) for row in expected]
    assert pages == max(1, -(-len(expected) // 7))


@pytest.mark.parametrize(
    "after",
    ["x", "1.2", "1.0.2.3.4", "9" * 18 + ".1.1.1", "1.1.-1.1", "²" * 3, "1.0." + "9" * 18 + ".1"],
)
def test_a_place_that_no_page_gave_is_refused(post, browser, after):
    put(post, 1)
    answer = browser.get("/", {"after": after})
    assert answer.status_code == 400
    assert "begin again at its first page" in answer.content.decode()


def test_a_place_of_another_list_is_a_place_in_this_one_too(post, browser, monkeypatch):
    from web.results import worklist

    monkeypatch.setattr(worklist, "PAGE", 1)
    for number in (1, 2, 3):
        put(post, number, modality="CT" if number == 1 else "MR")
    following = browser.get("/").context["page"].next
    assert keys(browser.get("/", {"modality": "MR", "after": following})) == [key_of(2)]


@pytest.mark.parametrize("received", ["0001-01-01T00:00:00Z", "1899-12-31T23:59:59Z"])
def test_a_clock_that_was_centuries_late_ends_no_list(post, browser, monkeypatch, received):
    from web.results import worklist

    monkeypatch.setattr(worklist, "PAGE", 1)
    put(post, 1, received=received)
    put(post, 2, received=received)
    first = browser.get("/")
    assert keys(first) == [key_of(1)]
    assert keys(browser.get(first.context["next_address"])) == [key_of(2)]


def test_a_poll_answers_304_until_something_changes(post, browser):
    put(post, 1)
    first = browser.get("/", headers={"x-limen-poll": "1"})
    assert "<html" not in first.content.decode()
    again = {"x-limen-poll": "1", "if-none-match": first.headers["ETag"]}
    assert browser.get("/", headers=again).status_code == 304
    assert post(samples.result(1, phase=Phase.EXPLANATION)).status_code == 201
    changed = browser.get("/", headers=again)
    assert changed.status_code == 200
    assert "Explained" in changed.content.decode()


def test_a_poll_hears_of_a_result_that_was_stored_beside_a_later_one(post, browser, monkeypatch):
    """It is there later than one that changed after it: the last change tells nothing of it."""
    from django.utils import timezone

    from web.results.models import Study

    put(post, 1)
    headers = {"x-limen-poll": "1"}
    headers["if-none-match"] = browser.get("/", headers=headers).headers["ETag"]
    put(post, 2)
    changed = Study.objects.earliest("pk").changed_at
    Study.objects.filter(study_uid=samples.study(2).study_uid).update(
        changed_at=changed - timedelta(milliseconds=300)
    )
    monkeypatch.setattr(timezone, "now", lambda: changed + timedelta(seconds=6))
    answer = browser.get("/", headers=headers)
    assert answer.status_code == 200
    assert keys(answer) == [key_of(1), key_of(2)]
    headers["if-none-match"] = answer.headers["ETag"]
    assert browser.get("/", headers=headers).status_code == 304


def test_what_a_reader_thinks_is_in_the_row(post, browser):
    put(post, 1)
    assert "unread" in browser.get("/").content.decode()
    browser.post(f"/studies/{key_of(1)}/feedback", {"verdict": "disagree", "revision": "1"})
    assert "Disagree" in browser.get("/").content.decode()


def test_a_study_that_a_node_sent_to_itself_is_on_no_list_unless_asked_for(post, browser):
    from web.results.models import TESTS

    document = samples.result(1)
    study = replace(document.study, study_uid=f"{TESTS}1")
    assert post(replace(document, study=study)).status_code == 201
    assert "No study yet" in browser.get("/").content.decode()
    assert browser.get("/api/v1/studies").json()["count"] == 0
    listed = browser.get("/api/v1/studies?tests=1").json()["results"]
    assert [row["study_uid"] for row in listed] == [f"{TESTS}1"]


def test_what_a_node_sent_to_itself_is_forgotten_after_a_week_and_nothing_else_is(post):
    from datetime import timedelta

    from django.utils import timezone

    from web.results.models import TESTS, RenderedImage, Report, Study

    document = samples.result(1)
    for uid in (f"{TESTS}1", f"{TESTS}2", document.study.study_uid):
        sent = replace(document, study=replace(document.study, study_uid=uid))
        assert post(sent).status_code == 201
    images = RenderedImage.objects.count()
    Study.objects.exclude(study_uid=f"{TESTS}2").update(
        created_at=timezone.now() - timedelta(days=8)
    )
    again = replace(document, study=replace(document.study, study_uid=f"{TESTS}3"))
    assert post(again).status_code == 201
    kept = {f"{TESTS}2", f"{TESTS}3", document.study.study_uid}
    assert set(Study.objects.values_list("study_uid", flat=True)) == kept
    assert Report.objects.count() == 3
    assert RenderedImage.objects.count() == images


def test_the_uids_of_test_studies_begin_as_the_node_makes_them():
    from limen import selftest
    from web.results.models import TESTS

    assert f"{selftest.ROOT}." == TESTS
