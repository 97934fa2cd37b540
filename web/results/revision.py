"""What is known of one revision of a study: its two reports seen as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.urls import reverse

from web.results import masking, summary
from web.results.models import Outcome, Phase, RenderedImage, Report, Study
from web.results.templatetags.limen import percent

__all__ = ["Explained", "Revision", "Slice", "read"]

Frame = tuple[str, int, int]
SLICES = "slices"
VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice in geometric order.

    Attributes
    ----------
    number
        From 1, as readers count.
    probability
        Of the finding, 0..1, or None when the slice could not be analysed.
    original, overlay
        Address of the image, or empty.
    oriented
        Whether the picture has the right of the patient at its left and the front at its top.
    series
        Name of its series where the study has several that were analysed, else empty.
    unit
        ``HU`` where the values of the image are HU, else empty.
    pixel_mm
        Side of a pixel of the image, or None.
    told
        Where the bundle looks for several findings: label -> probability of each.
    said
        The same in words, the highest first; what a segmentation marks, or that the slice is one
        of a volume. Empty where its probability says it.
    area_mm2
        Of a segmentation: what is marked of the finding.
    """

    number: int
    position_mm: float | None
    probability: float | None
    positive: bool
    reason: str
    original: str
    overlay: str
    oriented: bool = False
    series: str = ""
    unit: str = ""
    pixel_mm: float | None = None
    told: dict[str, float] = field(default_factory=dict)
    said: str = ""
    area_mm2: float | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """Method and quality of the explanation of one slice; see the schema of the result document."""

    number: int | None
    label: str
    method: str
    parameters: str
    baseline: str
    samples: int
    probability: float | None
    baseline_probability: float | None
    fidelity_r2: float
    stability: float
    poor: bool
    poor_reason: str
    without_strongest: float | None = None
    second: str = ""
    """What another method says of it, in words; "" where none was asked."""

    own_map: str = ""
    """What the model's own map says of it; "" where it has none."""

    meaning: str = ""
    """Of which finding, where the bundle looks for several."""

    rank: int = 0
    """Place in the document, from 0: the one that says most is first."""


_OF_DOCUMENT = frozenset(Explained.__dataclass_fields__) - {
    *("number", "without_strongest", "second", "own_map", "meaning", "rank"),
}


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision, ready to be shown.

    Attributes
    ----------
    threshold
        Of the slices, for the finding.
    thresholds
        The same of each finding, by its label.
    dropped_at
        When its pictures were dropped because they were old.
    """

    number: int
    tree: dict[str, Any]
    slices: list[Slice]
    explanations: list[Explained]
    is_explained: bool
    label: str
    threshold: float | None
    dropped_at: datetime | None = None
    thresholds: dict[str, float] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """What the bundle does with the slices; see the schema of the result document."""
        return (self.tree["model"] or {}).get("task", SLICES)

    @property
    def is_of_slices(self) -> bool:
        """Tell whether each slice is judged by itself."""
        return self.task == SLICES

    @property
    def is_of_volume(self) -> bool:
        """Tell whether all slices are judged, and explained, at once."""
        return self.task == VOLUME

    @property
    def is_waiting(self) -> bool:
        """Tell whether an explanation is still to come: there is something to explain."""
        due = self.is_high if self.is_of_volume else self.is_of_slices and self.remarkable
        return bool(due) and not self.is_explained

    @property
    def is_high(self) -> bool:
        """Tell whether the study would be positive, had it no doubts."""
        finding = self.tree["finding"]
        return bool(finding and summary.is_high(finding))

    @property
    def remarkable(self) -> list[Slice]:
        """Slices that are explained: the positive ones, else the one that says most.

        That is so where the study is positive or undetermined without a positive slice. Of a volume
        those that show its explanation.
        """
        if self.is_of_volume:
            return [s for s in self.slices if s.overlay]
        positive = [s for s in self.slices if s.positive]
        if positive or self.tree["outcome"] not in {Outcome.POSITIVE, Outcome.UNDETERMINED}:
            return positive
        known = [s for s in self.slices if s.probability is not None]
        return [max(known, key=lambda s: s.probability or 0.0)] if known else []

    @property
    def methods(self) -> list[Explained]:
        """Explanations, one for each way in which slices were explained: as a rule there is one."""
        return list({(e.method, e.parameters, e.baseline): e for e in self.explanations}.values())

    @property
    def unexplained(self) -> list[Slice]:
        """Slices that are to be explained, and that the explanation left out."""
        told = self.is_of_slices and self.is_explained and self.dropped_at is None
        return [s for s in self.remarkable if told and not s.overlay]

    @property
    def seconds_to_predicted(self) -> float | None:
        """Seconds from the study being complete to its prediction."""
        return self._seconds("complete", "predicted")

    @property
    def seconds_to_explained(self) -> float | None:
        """Seconds from the study being complete to its explanation."""
        return self._seconds("complete", "explained")

    @property
    def seconds_to_complete(self) -> float | None:
        """Seconds from the first instance to the study being complete."""
        return self._seconds("received", "complete")

    def _seconds(self, start: str, end: str) -> float | None:
        first, last = (self.tree["timings"].get(name) for name in (start, end))
        if first is None or last is None:
            return None
        return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def read(study: Study, number: int, *, masked: bool = False) -> Revision | None:
    """Return a revision of a study, without the patient where that is masked.

    None when nothing of it has arrived.
    """
    reports = {r.phase: r for r in study.reports.filter(revision=number)}
    if not reports:
        return None
    # The explanation comes later and repeats the prediction; it may also come first.
    ordered = [reports[p] for p in (Phase.EXPLANATION, Phase.PREDICTION) if p in reports]
    trees = [summary.document(report) for report in ordered]
    if masked:
        trees = [masking.document(tree) for tree in trees]
    label = _label(trees[0])
    slices, numbers = _slices(study, trees, ordered, label)
    model = trees[0]["model"]
    return Revision(
        number=number,
        tree=trees[0],
        slices=slices,
        explanations=_explanations(trees, numbers),
        is_explained=Phase.EXPLANATION in reports,
        label=label,
        threshold=model.get("thresholds", {}).get(label, model["threshold"]) if model else None,
        thresholds=model.get("thresholds", {}) if model else {},
        dropped_at=max((r.dropped_at for r in ordered if r.dropped_at), default=None),
    )


def _label(tree: dict[str, Any]) -> str:
    if tree["finding"]:
        return tree["finding"]["label"]
    labels = tree["model"]["labels"] if tree["model"] else []
    return labels[0] if labels else ""


def _slices(
    study: Study, trees: list[dict[str, Any]], reports: list[Report], label: str
) -> tuple[list[Slice], dict[Frame, int]]:
    entries: dict[Frame, dict[str, Any]] = {}
    for tree in trees:
        for image in tree.get("images", []):
            entries.setdefault(_frame(image), image)
    files = _addresses(study, reports)
    named = _series_names(trees[0])
    several = {one["label"]: one["meaning"] for one in trees[0].get("findings", [])}
    slices: list[Slice] = []
    numbers: dict[Frame, int] = {}
    for number, (frame, image) in enumerate(
        sorted(entries.items(), key=lambda item: item[1]["index"]), start=1
    ):
        numbers[frame] = number
        told = {k: p for k, p in (image["probability"] or {}).items() if k in several}
        slices.append(
            Slice(
                number=number,
                position_mm=image["position_mm"],
                probability=(image["probability"] or {}).get(label),
                positive=image["positive"],
                reason=image.get("reason", ""),
                original=files.get((*frame, RenderedImage.Kind.ORIGINAL), ""),
                overlay=files.get((*frame, RenderedImage.Kind.EXPLANATION), ""),
                oriented=image.get("oriented", False),
                series=named.get((image.get("series_uid"), image.get("part", 1)), ""),
                unit=image.get("unit", ""),
                pixel_mm=image.get("pixel_mm"),
                told=told,
                said=_said(image, told, several),
                area_mm2=image.get("areas_mm2", {}).get(label),
            )
        )
    return slices, numbers


def _said(image: dict[str, Any], told: dict[str, float], meanings: dict[str, str]) -> str:
    """Return in words what one probability does not say of a slice."""
    areas_mm2 = image.get("areas_mm2", {})
    if areas_mm2:
        marked = [
            f"{meanings.get(one, '')} {area:.0f} mm²".strip()
            for one, area in sorted(areas_mm2.items(), key=lambda pair: -pair[1])
            if area > 0
        ]
        return f"marked: {', '.join(marked)}" if marked else "nothing marked"
    if image["probability"] == {}:
        return "one of all slices, which are judged together"
    ranked = sorted(told, key=lambda one: -told[one])
    return ", ".join(f"{meanings[one]} {percent(told[one])}" for one in ranked)


def _series_names(tree: dict[str, Any]) -> dict[tuple[str | None, int], str]:
    """Return what to call each analysed series; nothing where there is only one."""
    analysed = [s for s in tree.get("series", []) if s["selected"]]
    if len(analysed) < 2:
        return {}
    parts = Counter(s["series_uid"] for s in analysed)
    names = {}
    for number, one in enumerate(analysed, start=1):
        part = one.get("part", 1)
        name = one.get("description") or f"series {number}"
        acquisition = f", acquisition {part}" if parts[one["series_uid"]] > 1 else ""
        names[one["series_uid"], part] = name + acquisition
    return names


def _frame(entry: dict[str, Any]) -> Frame:
    return entry["sop_uid"], entry["frame"], entry.get("copy", 1)


def _addresses(study: Study, reports: list[Report]) -> dict[tuple[str, int, int, str], str]:
    rows: Iterable[RenderedImage] = RenderedImage.objects.filter(report__in=reports)
    # Last one wins: what the explanation brought replaces what the prediction did.
    by_phase = sorted(rows, key=lambda row: row.report_id == reports[0].pk)
    return {
        (row.sop_uid, row.frame, row.copy, row.kind): reverse("image", args=[study.key, row.sha256])
        for row in by_phase
    }


def _explanations(trees: list[dict[str, Any]], numbers: dict[Frame, int]) -> list[Explained]:
    found = next((t["explanations"] for t in trees if t.get("explanations")), [])
    meanings = {one["label"]: one["meaning"] for one in trees[0].get("findings", [])}
    explained = [
        Explained(
            number=numbers.get(_frame(e)),
            **{name: e.get(name, "") for name in _OF_DOCUMENT},
            without_strongest=e.get("without_strongest"),
            second=(e.get("second_opinion") or {}).get("words", ""),
            own_map=(e.get("own_map") or {}).get("words", ""),
            meaning=meanings.get(e["label"], ""),
            rank=rank,
        )
        for rank, e in enumerate(found)
    ]
    return sorted(explained, key=lambda e: e.number or 0)
