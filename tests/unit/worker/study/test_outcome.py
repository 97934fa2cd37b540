"""What is said of a study, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from limen.result import Image, Outcome
from tests.support.synthetic import fake_bundle
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Label, Members, StudyRule
from worker.study.identity import Patient
from worker.study.outcome import Evidence, finding, findings, outcome
from worker.study.rule import Answer

BUNDLE = fake_bundle()
RULED = fake_bundle(
    threshold=0.6,
    study=StudyRule(smooth_mm=4, threshold=0.5, chosen="by hand"),
    members=Members(outputs=(1, 2, 3), spread=0.3),
)
JANE, JOHN = Patient("P1", "Doe^Jane", "19500101"), Patient("P2", "Doe^John", "")


def image(number: int, probability: float | None = 0.1) -> Image:
    return Image(
        sop_uid=f"1.{number}",
        frame=1,
        index=number,
        position_mm=float(number),
        probability=None if probability is None else {"any": probability},
        positive=(probability or 0) >= BUNDLE.threshold,
        reason="" if probability is not None else "it is broken",
    )


def told(probability: float, members: tuple[float, ...] = ()) -> Answer:
    return Answer(RULED.sought[0], probability, members)


def evidence(*images: Image, **changes: Any) -> Evidence:
    highest = max((i.probability.get("any", 0) for i in images if i.probability), default=None)
    known: dict[str, Any] = {
        "answers": () if highest is None else (Answer(BUNDLE.sought[0], highest),),
        "unlisted": 0,
        "unreadable": (),
        "instances": len(images),
        "doubts": (),
        "nothing": "nothing to look at",
        "patients": (JANE,),
    }
    return Evidence(images=images, **known | changes)


def said(*images: Image, bundle: Bundle = BUNDLE, **changes: Any) -> tuple[Outcome, str]:
    return outcome(evidence(*images, **changes), bundle)


CLEAN = (image(0), image(1))
BLEEDS = (image(0), image(1, 0.9))


@pytest.mark.parametrize(
    "doubt",
    [
        {"unlisted": 1},
        {"unreadable": ("it is torn",)},
        {"doubts": ("a gap",)},
        {"patients": (JANE, JOHN)},
    ],
)
def test_any_doubt_makes_a_clean_study_partial_with_its_numbers(doubt: dict[str, Any]) -> None:
    assert said(*CLEAN) == (Outcome.NEGATIVE, "none of 2 slices at or above 0.5")
    found, reason = said(*CLEAN, **doubt)
    assert found is Outcome.PARTIAL
    assert reason.startswith(f"2 of {2 + doubt.get('unlisted', 0)} slices analysed, none of them")


def test_a_slice_without_an_answer_makes_it_partial() -> None:
    assert said(*CLEAN, image(2, None))[0] is Outcome.PARTIAL
    assert said(image(0, None))[1] == "0 of 1 slices analysed: it is broken"


def test_a_positive_study_stays_positive_and_tells_its_doubts() -> None:
    assert said(*BLEEDS, unlisted=2, doubts=("a gap",)) == (
        Outcome.POSITIVE,
        "1 of 2 slices at or above 0.5; 2 of 4 slices analysed; a gap",
    )


def test_of_two_patients_nobody_is_called_positive_and_both_are_named() -> None:
    found, reason = said(*BLEEDS, patients=(JANE, JOHN))
    assert found is Outcome.PARTIAL
    assert reason == (
        "1 of 2 slices at or above 0.5; 2 patients in one study: "
        "Doe^Jane (ID P1, born 19500101), Doe^John (ID P2)"
    )


def test_of_many_patients_some_are_named() -> None:
    many = tuple(Patient(f"P{n}", "", "") for n in range(9))
    assert said(*CLEAN, patients=many)[1].endswith("no name (ID P3) and 5 more")


def test_nothing_to_look_at_is_not_analysed() -> None:
    assert said(unreadable=["it is torn"], instances=3) == (
        Outcome.NOT_ANALYSED,
        "nothing to look at; 1 of 3 instances cannot be read: it is torn",
    )
    several = said(unreadable=["it is torn", "it is empty", "it is torn"], instances=5)[1]
    assert several.endswith("3 of 5 instances cannot be read: it is torn, and 1 for other reasons")
    assert finding(evidence(), BUNDLE) is None


def test_a_rule_says_what_a_study_is_called_and_its_slices_stay_what_they_are() -> None:
    assert said(*BLEEDS, bundle=RULED, answers=(told(0.31),)) == (
        Outcome.NEGATIVE,
        "study 0.31, below 0.5; 1 of 2 slices at or above 0.6",
    )
    assert said(*CLEAN, bundle=RULED, answers=(told(0.5),)) == (
        Outcome.POSITIVE,
        "study 0.50, at or above 0.5; none of 2 slices at or above 0.6",
    )


def test_a_study_below_the_threshold_of_its_rule_is_still_a_promise() -> None:
    assert said(*BLEEDS, bundle=RULED, answers=(told(0.31),), unlisted=2, doubts=("a gap",)) == (
        Outcome.PARTIAL,
        "study 0.31, below 0.5; 1 of 2 slices at or above 0.6; 2 of 4 slices analysed; a gap",
    )


def test_a_number_is_written_on_its_side_of_the_threshold() -> None:
    assert said(*CLEAN, bundle=RULED, answers=(told(0.499996),))[1].startswith(
        "study 0.499996, below"
    )


def test_members_that_disagree_leave_the_study_undetermined_with_its_doubts() -> None:
    apart = told(0.7, (0.2, 0.9, 0.8))
    assert said(*CLEAN, bundle=RULED, answers=(apart,), doubts=("a gap",)) == (
        Outcome.UNDETERMINED,
        "the members of the model disagree: 0.20 to 0.90; study 0.70, at or above 0.5; "
        "none of 2 slices at or above 0.6; a gap",
    )


@pytest.mark.parametrize(
    ("members", "wanted"),
    [
        ((0.45, 0.55, 0.6), Outcome.POSITIVE),  # on both sides, near each other
        ((0.55, 0.9, 0.95), Outcome.POSITIVE),  # apart, on one side
        ((0.2, 0.5, 0.4), Outcome.UNDETERMINED),  # exactly the spread, exactly the threshold
    ],
)
def test_members_disagree_on_both_sides_and_far_apart(
    members: tuple[float, ...], wanted: Outcome
) -> None:
    assert said(*CLEAN, bundle=RULED, answers=(told(0.55, members),))[0] is wanted


def test_of_two_patients_nobody_is_called_undetermined_either() -> None:
    apart = told(0.7, (0.2, 0.9))
    found, reason = said(*CLEAN, bundle=RULED, answers=(apart,), patients=(JANE, JOHN))
    assert found is Outcome.PARTIAL
    assert reason.startswith("the members of the model disagree: 0.20 to 0.90; study 0.70")


def test_the_finding_tells_the_rule_its_threshold_and_the_members() -> None:
    found = finding(evidence(*BLEEDS, answers=(told(0.31, (0.2, 0.4)),)), RULED)
    assert found is not None
    assert (found.probability, found.threshold, found.members) == (0.31, 0.5, [0.2, 0.4])
    assert found.rule == "the highest slice after each is averaged with its neighbours over 4 mm"
    plain = finding(evidence(*BLEEDS), BUNDLE)
    assert plain is not None
    assert (plain.probability, plain.threshold, plain.rule, plain.members) == (0.9, 0.5, "", [])


# -- several findings ------------------------------------------------------------------------------

LABELS = (
    Label(name="blood", meaning="Haemorrhage", code=("1386000", "SCT")),
    Label(name="break", meaning="Fracture", code=("71642004", "SCT"), threshold=0.2),
    Label(name="dust", meaning="Artefact", code=("47973001", "SCT")),
)
SEVERAL = fake_bundle(labels=LABELS, decision_label="blood")


def of_two(number: int, blood: float, fracture: float) -> Image:
    found = image(number)
    return replace(found, probability={"blood": blood, "break": fracture, "dust": 0.9})


def seen(*images: Image, **changes: Any) -> Evidence:
    told = [i.probability for i in images if i.probability]
    answers = tuple(
        Answer(sought, max(one[sought.name] for one in told)) for sought in SEVERAL.sought
    )
    return evidence(*images, answers=answers, **changes)


def test_a_label_without_a_threshold_decides_nothing() -> None:
    assert [one.name for one in SEVERAL.sought] == ["blood", "break"]
    called, why = outcome(seen(of_two(0, 0.1, 0.1), of_two(1, 0.2, 0.1)), SEVERAL)
    assert (called, why) == (
        Outcome.NEGATIVE,
        "break: none of 2 slices at or above 0.2; blood: none of 2 slices at or above 0.5",
    )


def test_the_worst_is_the_one_farthest_above_its_own_threshold() -> None:
    given = seen(of_two(0, 0.55, 0.1), of_two(1, 0.1, 0.45))
    assert outcome(given, SEVERAL)[0] is Outcome.POSITIVE
    worst = finding(given, SEVERAL)
    assert worst is not None
    assert (worst.label, worst.probability, worst.threshold) == ("break", 0.45, 0.2)
    assert [(one.label, one.positive_slices) for one in findings(given, SEVERAL)] == [
        ("blood", 1),
        ("break", 1),
    ]


def test_of_one_finding_there_is_no_list() -> None:
    assert findings(evidence(*BLEEDS), BUNDLE) == []


def test_a_part_of_a_study_is_no_negative_of_any_finding() -> None:
    called, why = outcome(seen(of_two(0, 0.1, 0.1), unlisted=1), SEVERAL)
    assert called is Outcome.PARTIAL
    assert why.endswith("1 of 2 slices analysed")


def test_what_the_members_disagree_of_does_not_hide_another_finding() -> None:
    bundle = replace(SEVERAL, members=Members(outputs=(3, 4), spread=0.3))
    blood, fracture = bundle.sought
    divided = Answer(blood, 0.55, (0.1, 0.9))

    def called(other: float) -> Outcome:
        answers = (divided, Answer(fracture, other))
        return outcome(evidence(of_two(0, 0.55, other), answers=answers), bundle)[0]

    assert called(0.1) is Outcome.UNDETERMINED
    assert called(0.3) is Outcome.POSITIVE
