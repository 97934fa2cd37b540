"""What is said of a study: positive, undetermined, negative, partial or not analysed, and why.

*Negative* is a promise: every slice of every eligible series was analysed, no gap was seen, the
body was covered, and one patient was meant. Whatever speaks against that makes it *partial*.
Where the members of a model disagree the study is *undetermined*, whatever else is doubtful of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from limen.result import Finding, Image, Outcome
from worker.bundles.bundle import Bundle
from worker.study import rule
from worker.study.identity import Patient
from worker.study.rule import Answer

__all__ = ["Evidence", "finding", "outcome"]

MAX_NAMED: Final = 4
"""So many patients of one study are named."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What there is to say something of.

    Attributes
    ----------
    images
        The slices of the selected series, also those without an answer.
    answer
        What the rule of the bundle makes of them; None where none was analysed.
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
    answer: Answer | None
    unlisted: int
    unreadable: Sequence[str]
    instances: int
    doubts: Sequence[str]
    nothing: str
    patients: Sequence[Patient]

    @property
    def analysed(self) -> int:
        return sum(image.probability is not None for image in self.images)

    @property
    def positive(self) -> int:
        return sum(image.positive for image in self.images)

    @property
    def slices(self) -> int:
        return len(self.images) + self.unlisted


def outcome(evidence: Evidence, bundle: Bundle) -> tuple[Outcome, str]:
    """Return the outcome of the study and the reason for it; see ``limen.result.Outcome``."""
    doubts = [*_identity_doubts(evidence.patients), *evidence.doubts]
    if evidence.unreadable:
        doubts.insert(0, _unread(evidence.unreadable, evidence.instances))
    counted = f"{evidence.analysed} of {evidence.slices} slices analysed"
    if not evidence.images:
        return Outcome.NOT_ANALYSED, "; ".join([evidence.nothing, *doubts])
    if evidence.answer is None:
        why = Counter(image.reason for image in evidence.images).most_common(1)[0][0]
        return Outcome.NOT_ANALYSED, "; ".join([f"{counted}: {why}", *doubts])
    complete = evidence.analysed == evidence.slices
    disagree = _disagreement(evidence.answer, bundle)
    said = [*disagree, *_numbers(evidence, evidence.answer, bundle)]
    if disagree or _is_positive(evidence.answer, bundle):
        said += [] if complete else [counted]
        called = Outcome.UNDETERMINED if disagree else Outcome.POSITIVE
        # Of two patients nobody may say which one it is.
        certain = len(evidence.patients) <= 1
        return called if certain else Outcome.PARTIAL, "; ".join([*said, *doubts])
    if complete and not doubts:
        return Outcome.NEGATIVE, "; ".join(said)
    if bundle.study is None:
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
    """Return the study in one line; None where no slice was analysed."""
    if evidence.answer is None:
        return None
    return Finding(
        label=bundle.decision_label,
        meaning=bundle.labels[bundle.decision_index].meaning,
        probability=evidence.answer.probability,
        positive_slices=evidence.positive,
        analysed_slices=evidence.analysed,
        slices=evidence.slices,
        code=bundle.labels[bundle.decision_index].code,
        threshold=rule.of_bundle(bundle).threshold,
        rule=rule.in_words(bundle.study) if bundle.study else "",
        members=list(evidence.answer.members),
    )


def _is_positive(answer: Answer, bundle: Bundle) -> bool:
    return answer.probability >= rule.of_bundle(bundle).threshold


def _disagreement(answer: Answer, bundle: Bundle) -> list[str]:
    """Return in words that members lie on both sides of the threshold and apart, or nothing."""
    threshold = rule.of_bundle(bundle).threshold
    if bundle.members is None or not rule.disagree(answer.members, threshold, bundle.members):
        return []
    low, high = (_shown(one(answer.members), threshold) for one in (min, max))
    return [f"the members of the model disagree: {low} to {high}"]


def _numbers(evidence: Evidence, answer: Answer, bundle: Bundle) -> list[str]:
    """Return the study against its threshold, where it has a rule, and the slices against theirs.

    Without a rule the highest slice is the study.
    """
    positive = evidence.positive or "none"
    slices = f"{positive} of {evidence.analysed} slices at or above {bundle.threshold:g}"
    if bundle.study is None:
        return [slices]
    threshold = bundle.study.threshold
    side = "at or above" if _is_positive(answer, bundle) else "below"
    return [f"study {_shown(answer.probability, threshold)}, {side} {threshold:g}", slices]


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
