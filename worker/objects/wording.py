"""What the objects say in words and in codes, the same in each of them."""

from __future__ import annotations

from typing import Final

from highdicom.color import CIELabColor
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from limen.result import Finding, Outcome, Result, Task

__all__ = [
    "ABSENT",
    "PRESENT",
    "UNDETERMINED",
    "finding_code",
    "presence",
    "presence_of_slice",
    "sentences",
    "summary",
    "threshold",
]

PRESENT: Final = Code("52101004", "SCT", "Present")
ABSENT: Final = Code("272519000", "SCT", "Absent")
UNDETERMINED: Final = Code("373068000", "SCT", "Undetermined")
"""CID 240."""

PRIVATE_SCHEME: Final = "99LIMEN"
"""Of a finding that its bundle gives no code."""

ORANGE: Final = CIELabColor(67.0, 43.0, 74.0)
"""The colour of what speaks for the finding, as in the overlays that people are shown."""

_SUMMARY: Final[dict[tuple[bool, bool] | None, Code]] = {
    None: codes.DCM.NoAlgorithmsSucceededWithoutFindings,
    (True, True): codes.DCM.AllAlgorithmsSucceededWithFindings,
    (True, False): codes.DCM.AllAlgorithmsSucceededWithoutFindings,
    (False, True): codes.DCM.NotAllAlgorithmsSucceededWithFindings,
    (False, False): codes.DCM.NotAllAlgorithmsSucceededWithoutFindings,
}
"""By whether the whole was analysed, and whether something was found."""

_NO_EXPLANATION: Final = "No explanation is made: what is marked is the finding."
_OF_THE_WHOLE: Final = (
    "All slices are judged together: one linear model explains them at once, and a slice shows "
    "what of that lies in it."
)

_NO_MODEL: Final = Code("404684003", "SCT", "Clinical finding")


def finding_code(finding: Finding | None) -> Code:
    """Return the code of the finding, with the meaning that its bundle gives it."""
    if finding is None:
        return _NO_MODEL
    value, scheme = finding.code or (finding.label[:16], PRIVATE_SCHEME)
    return Code(value, scheme, finding.meaning[:64])


def presence(result: Result, finding: Finding | None = None) -> Code:
    """Return whether the study shows a finding: not analysed is not absent.

    Of several, one below its threshold is absent only where the study is negative as a whole:
    of a positive one nobody asked whether everything was looked at.

    Parameters
    ----------
    finding
        One of several; None: the one that speaks for the study.
    """
    one = finding or result.finding
    high = one is not None and one.is_high
    if result.outcome is Outcome.POSITIVE and (not result.findings or high):
        return PRESENT
    return ABSENT if result.outcome is Outcome.NEGATIVE else UNDETERMINED


def presence_of_slice(result: Result, finding: Finding, *, positive: bool) -> Code:
    """Return whether a slice shows a finding: what the study does not show, no slice does."""
    return PRESENT if positive and presence(result, finding) is PRESENT else UNDETERMINED


def summary(result: Result) -> Code:
    """Return how the analysis went (CID 6047, CAD Processing and Findings Summary).

    With findings: the study has one or may have one, or the report names a slice that does.
    """
    finding = result.finding
    if result.outcome is Outcome.NOT_ANALYSED or finding is None:
        return _SUMMARY[None]
    whole = finding.analysed_slices == finding.slices and result.outcome is not Outcome.PARTIAL
    found = result.outcome in {Outcome.POSITIVE, Outcome.UNDETERMINED}
    return _SUMMARY[whole, found or finding.positive_slices > 0]


def threshold(result: Result) -> float | None:
    """Return from which probability the study is positive; None where no model looked."""
    if result.finding is not None and result.finding.threshold is not None:
        return result.finding.threshold
    return result.model.threshold if result.model else None


def sentences(result: Result) -> list[str]:
    """Return what is said of the study, for people: outcome, counts, reason, what it is not for."""
    finding = result.finding
    what = finding.meaning if finding else "No finding"
    overruled = result.outcome is Outcome.NEGATIVE and finding and finding.positive_slices > 0
    none = "the study is below its threshold" if overruled else "none found"
    said = {
        Outcome.POSITIVE: f"{what}: present",
        Outcome.NEGATIVE: f"{what}: analysed, {none}",
        Outcome.UNDETERMINED: f"{what}: undetermined, somebody has to look",
        Outcome.PARTIAL: f"{what}: undetermined, analysed in part",
        Outcome.NOT_ANALYSED: "Not analysed: nothing is said of any finding",
    }[result.outcome]
    counted = (
        f"{finding.analysed_slices} of {finding.slices} slices analysed, "
        f"{finding.positive_slices} of them {'at or above theirs' if overruled else 'positive'}"
        if finding
        else f"0 of {len(result.images)} slices analysed"
    )
    parts = [f"{said}. {counted}.", f"Reason: {result.reason}."]
    at = threshold(result)
    if finding is not None and at is not None and finding.volume_ml is None:
        parts.append(f"Probability {finding.probability:.4f}, threshold {at:g}.")
    if result.model is not None:
        parts.append(
            f"Model {result.model.name} {result.model.version}, SHA-256 {result.model.sha256}."
        )
    if finding is not None and finding.rule:
        parts.append(f"Probability of the study: {finding.rule}.")
    if finding is not None and finding.members:
        members = ", ".join(f"{member:.2f}" for member in finding.members)
        parts.append(f"Members of the model say {members}.")
    parts += [
        f"{one.meaning}: probability {one.probability:.4f}, threshold {one.threshold:g}, "
        f"{one.positive_slices} of {one.analysed_slices} slices positive."
        for one in result.findings
        if one.threshold is not None and one.volume_ml is None
    ]
    parts += [
        f"{one.meaning}: {one.volume_ml:g} ml marked, threshold {one.volume_threshold_ml:g} ml, in "
        f"{one.positive_slices} of {one.analysed_slices} slices."
        for one in result.all_findings()
        if one.volume_ml is not None and one.volume_threshold_ml is not None
    ]
    if result.finding is not None and result.task is Task.SEGMENTATION:
        parts.append(_NO_EXPLANATION)
    if result.task is Task.VOLUME and result.explanations:
        parts.append(_OF_THE_WHOLE)
    return [*parts, f"Revision {result.revision} of this study. {result.provenance.notice}"]
