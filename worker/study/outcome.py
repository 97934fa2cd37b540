"""What is said of a study: positive, undetermined, negative, partial or not analysed, and why.

*Negative* is a promise: every slice of every eligible series was analysed, no gap was seen, the
body was covered, and one patient was meant. Whatever speaks against that makes it *partial*.
Where the members of a model disagree the study is *undetermined*, whatever else is doubtful of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from limen.result import Finding, Image, Outcome, Task
from worker.bundles.bundle import Bundle, Sought
from worker.study import rule
from worker.study.identity import Patient
from worker.study.rule import Answer

__all__ = ["Evidence", "finding", "findings", "is_positive", "outcome"]

MAX_NAMED: Final = 4
"""So many patients of one study are named."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What there is to say something of.

    Attributes
    ----------
    images
        The slices of the selected series, also those without an answer.
    answers
        What the rule of the bundle makes of them, for each finding; none where none was analysed.
    unlisted
        Slices beyond ``images`` that should have been analysed: unreadable, left out.
    unreadable, instances
        Why instances of the study cannot be read, one reason each; of how many.
    doubts
        Why nobody may call the slices the whole, in words.
    nothing
        Why there are no ``images``.
    """

    images: Sequence[Image]
    answers: Sequence[Answer]
    unlisted: int
    unreadable: Sequence[str]
    instances: int
    doubts: Sequence[str]
    nothing: str
    patients: Sequence[Patient]

    @property
    def analysed(self) -> int:
        return sum(image.probability is not None for image in self.images)

    def positive(self, sought: Sought) -> int:
        """Return how many slices are positive for a finding."""
        if sought.volume_ml is not None:
            return sum(is_marked(image.areas_mm2, sought) for image in self.images)
        return sum(is_positive(image.probability, sought) for image in self.images)

    @property
    def slices(self) -> int:
        return len(self.images) + self.unlisted

    @property
    def worst(self) -> Answer:
        """Return the finding that lies farthest above its threshold; of equals the first."""
        return max(self.answers, key=lambda answer: answer.margin)


def is_positive(probability: Mapping[str, float] | None, sought: Sought) -> bool:
    """Return whether a slice is positive for a finding."""
    told = {} if probability is None else probability
    return sought.name in told and told[sought.name] >= sought.threshold


def is_marked(areas_mm2: Mapping[str, float], sought: Sought) -> bool:
    """Return whether so much of a finding is marked in a slice that it counts."""
    area_mm2 = areas_mm2.get(sought.name, 0.0)
    return area_mm2 > 0 and area_mm2 >= sought.label.area_mm2


def outcome(evidence: Evidence, bundle: Bundle) -> tuple[Outcome, str]:
    """Return the outcome of the study and the reason for it; see ``limen.result.Outcome``."""
    doubts = [*_identity_doubts(evidence.patients), *evidence.doubts]
    if evidence.unreadable:
        doubts.insert(0, _unread(evidence.unreadable, evidence.instances))
    counted = f"{evidence.analysed} of {evidence.slices} slices analysed"
    if not evidence.images:
        return Outcome.NOT_ANALYSED, "; ".join([evidence.nothing, *doubts])
    if not evidence.answers:
        why = Counter(image.reason for image in evidence.images).most_common(1)[0][0]
        return Outcome.NOT_ANALYSED, "; ".join([f"{counted}: {why}", *doubts])
    complete = evidence.analysed == evidence.slices
    disagree = _disagreement(evidence.answers, bundle)
    said = [*disagree, *_numbers(evidence, bundle)]
    # What one finding is undetermined of, another may still be positive of.
    certain = [a for a in evidence.answers if a.is_positive and not (disagree and a.members)]
    if certain or disagree:
        said += [] if complete else [counted]
        called = Outcome.POSITIVE if certain else Outcome.UNDETERMINED
        # Of two patients nobody may say which one it is.
        one = len(evidence.patients) <= 1
        return called if one else Outcome.PARTIAL, "; ".join([*said, *doubts])
    if complete and not doubts:
        return Outcome.NEGATIVE, "; ".join(said)
    if bundle.study is None and bundle.task is Task.SLICES and len(evidence.answers) == 1:
        said = [f"{counted}, none of them at or above {bundle.threshold:g}"]
    else:
        said += [] if complete else [counted]
    return Outcome.PARTIAL, "; ".join([*said, *doubts])


def _unread(reasons: Sequence[str], instances: int) -> str:
    """Return how many instances cannot be read, and why most of them cannot."""
    ((why, count),) = Counter(reasons).most_common(1)
    most = "" if count == len(reasons) else f", and {len(reasons) - count} for other reasons"
    return f"{len(reasons)} of {instances} instances cannot be read: {why}{most}"


def finding(evidence: Evidence, bundle: Bundle) -> Finding | None:
    """Return the study in one line, of several findings the worst; None: nothing was analysed."""
    return _finding(evidence, evidence.worst, bundle) if evidence.answers else None


def findings(evidence: Evidence, bundle: Bundle) -> list[Finding]:
    """Return a line for each finding; none where there is only one."""
    several = len(evidence.answers) > 1
    return [_finding(evidence, answer, bundle) for answer in evidence.answers if several]


def _finding(evidence: Evidence, answer: Answer, bundle: Bundle) -> Finding:
    label = answer.sought.label
    return Finding(
        label=label.name,
        meaning=label.meaning,
        probability=answer.probability,
        positive_slices=evidence.positive(answer.sought),
        analysed_slices=evidence.analysed,
        slices=evidence.slices,
        code=label.code,
        threshold=answer.sought.study_threshold,
        volume_ml=answer.volume_ml,
        volume_threshold_ml=answer.sought.volume_ml,
        rule=rule.in_words(bundle.study) if bundle.study else "",
        members=list(answer.members),
    )


def _disagreement(answers: Sequence[Answer], bundle: Bundle) -> list[str]:
    """Return in words that members lie on both sides of the threshold and apart, or nothing."""
    for answer in answers:
        threshold = answer.sought.study_threshold
        if bundle.members is not None and rule.disagree(answer.members, threshold, bundle.members):
            low, high = (_shown(one(answer.members), threshold) for one in (min, max))
            return [f"the members of the model disagree: {low} to {high}"]
    return []


def _numbers(evidence: Evidence, bundle: Bundle) -> list[str]:
    """Return the study against its threshold, where it has a rule, and the slices against theirs.

    Without a rule the highest slice is the study. Of several findings each has its name, the
    worst first.
    """
    found = []
    several = len(evidence.answers) > 1
    for answer in sorted(evidence.answers, key=lambda answer: -answer.margin):
        name = f"{answer.sought.name}: " if several else ""
        positive = evidence.positive(answer.sought) or "none"
        if bundle.task is not Task.SLICES:
            found.append(name + _of_whole(answer, positive, evidence))
            continue
        threshold = answer.sought.threshold
        slices = f"{positive} of {evidence.analysed} slices at or above {threshold:g}"
        if bundle.study is None:
            found.append(name + slices)
            continue
        threshold = answer.sought.study_threshold
        side = "at or above" if answer.is_positive else "below"
        study = f"study {_shown(answer.probability, threshold)}, {side} {threshold:g}"
        found += [f"{name}{study}, {slices}"] if several else [study, slices]
    return found


def _of_whole(answer: Answer, positive: int | str, evidence: Evidence) -> str:
    """Return what is said of a study whose slices are not judged one by one."""
    side = "at or above" if answer.is_positive else "below"
    if answer.volume_ml is None or answer.sought.volume_ml is None:
        threshold = answer.sought.study_threshold
        shown = _shown(answer.probability, threshold)
        return f"{shown} for the whole, {side} {threshold:g}, of {evidence.analysed} slices"
    slices = f"{positive} of {evidence.analysed} slices with it"
    return f"{answer.volume_ml:g} ml marked, {side} {answer.sought.volume_ml:g} ml, {slices}"


def _shown(probability: float, threshold: float) -> str:
    """Return a probability with so many decimals that it stays on its side of the threshold."""
    for decimals in range(2, 7):
        text = f"{probability:.{decimals}f}"
        if (float(text) >= threshold) == (probability >= threshold):
            return text
    return f"{probability:g}"


def _identity_doubts(patients: Sequence[Patient]) -> list[str]:
    if len(patients) <= 1:
        return []
    named = ", ".join(map(str, patients[:MAX_NAMED]))
    more = f" and {len(patients) - MAX_NAMED} more" if len(patients) > MAX_NAMED else ""
    return [f"{len(patients)} patients in one study: {named}{more}"]
