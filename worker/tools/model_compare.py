"""Two bundles over the same files: how far their answers are apart, slice by slice."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from limen.command.edge import FAILED, OK, PARTIAL
from limen.config import Config
from limen.result import Image, Outcome, Result
from worker.bundles.bundle import Bundle
from worker.study.parts import Read
from worker.study.prediction import predict_study
from worker.tools import sources
from worker.tools.console import Step

__all__ = ["Comparison", "Row", "StudyPair", "Summary", "compare"]

_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One slice. ``probability_*`` is None where that bundle did not analyse it.

    ``difference`` is B minus A; ``changed`` is True when one calls the slice positive and the
    other does not.
    """

    file: str
    study_uid: str
    series_uid: str
    sop_uid: str
    frame: int
    position_mm: float | None
    probability_a: float | None
    probability_b: float | None
    difference: float | None
    positive_a: bool
    positive_b: bool
    changed: bool


@dataclass(frozen=True, slots=True)
class StudyPair:
    """What each bundle says of a study."""

    study_uid: str
    outcome_a: Outcome
    outcome_b: Outcome
    probability_a: float | None
    probability_b: float | None
    reason_a: str
    reason_b: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The comparison in a few numbers; differences are over slices that both analysed."""

    studies: int
    studies_changed: int
    slices: int
    both: int
    only_a: int
    only_b: int
    became_positive: int
    became_negative: int
    mean_difference: float | None
    mean_absolute_difference: float | None
    largest_absolute_difference: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that `limen model compare` tells."""

    studies: tuple[StudyPair, ...]
    rows: tuple[Row, ...]
    unreadable: tuple[tuple[Path, str], ...]

    @property
    def summary(self) -> Summary:
        """Return the comparison in a few numbers."""
        both = [row.difference for row in self.rows if row.difference is not None]
        changed = [row for row in self.rows if row.changed]
        sizes = [abs(difference) for difference in both]
        return Summary(
            studies=len(self.studies),
            studies_changed=sum(s.outcome_a is not s.outcome_b for s in self.studies),
            slices=len(self.rows),
            both=len(both),
            only_a=sum(r.probability_b is None and r.probability_a is not None for r in self.rows),
            only_b=sum(r.probability_a is None and r.probability_b is not None for r in self.rows),
            became_positive=sum(row.positive_b for row in changed),
            became_negative=sum(row.positive_a for row in changed),
            mean_difference=_mean(both),
            mean_absolute_difference=_mean(sizes),
            largest_absolute_difference=max(sizes, default=None),
        )

    @property
    def exit_code(self) -> int:
        """Return 1 when no slice was analysed by both, 5 when anything was left out, else 0."""
        summary = self.summary
        if not summary.both:
            return FAILED
        outcomes = {outcome for s in self.studies for outcome in (s.outcome_a, s.outcome_b)}
        lost = summary.both < summary.slices or outcomes - {Outcome.POSITIVE, Outcome.NEGATIVE}
        return PARTIAL if self.unreadable or lost else OK

    def to_csv(self) -> str:
        """Return the slices as CSV, one a line."""
        stream = io.StringIO()
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow([field.name for field in fields(Row)])
        for row in self.rows:
            rows.writerow([_cell(value) for value in asdict(row).values()])
        return stream.getvalue()


def compare(
    paths: Sequence[Path], pair: tuple[Bundle, Bundle], settings: Config, step: Step
) -> Comparison:
    """Run both bundles on DICOM files.

    Raises
    ------
    BundleError
        A model cannot be loaded, or fails its self-test.
    Transient
        The engine or the decoder is gone.
    """
    from worker.serving.self_test import golden_check  # noqa: PLC0415 - with the models

    with sources.open_decoder(settings) as decoder:
        step("loading the models")
        with (
            sources.open_engine(settings, pair[0]) as first,
            sources.open_engine(settings, pair[1]) as second,
        ):
            for engine, bundle in zip((first, second), pair, strict=True):
                golden_check(engine, bundle)
            step("reading headers")
            groups, unreadable = sources.by_study(list(paths), decoder)
            stamp = sources.stamp(settings)

            def results(uid: str, read: Read, title: str) -> Iterator[Result]:
                for name, engine, bundle in (("A", first, pair[0]), ("B", second, pair[1])):
                    bar: Callable[[int, int], None] = step(f"{title}, {name}")
                    yield predict_study(
                        uid, read, decoder, engine, bundle, stamp, progress=bar
                    ).result

            studies: list[StudyPair] = []
            rows: list[Row] = []
            for number, (uid, read) in enumerate(sorted(groups.items()), start=1):
                a, b = results(uid, read, f"study {number} of {len(groups)}")
                studies.append(_study(uid, a, b))
                rows += _rows(read, (a, b), pair)
    return Comparison(tuple(studies), tuple(rows), tuple(unreadable))


def _study(uid: str, a: Result, b: Result) -> StudyPair:
    return StudyPair(
        study_uid=uid,
        outcome_a=a.outcome,
        outcome_b=b.outcome,
        probability_a=a.finding.probability if a.finding else None,
        probability_b=b.finding.probability if b.finding else None,
        reason_a=a.reason,
        reason_b=b.reason,
    )


def _rows(
    read: Read, results: tuple[Result, Result], bundles: tuple[Bundle, Bundle]
) -> Iterator[Row]:
    """Yield the slices that either bundle looked at, those of A first, in their order."""
    headers = {header.sop_uid: header for header in reversed(read.headers)}
    first, second = (
        {(image.sop_uid, image.frame): image for image in result.images} for result in results
    )
    for key in dict.fromkeys([*first, *second]):
        one, other = first.get(key), second.get(key)
        image = one or other
        assert image is not None  # noqa: S101 - the key is from one of them
        p, q = _probability(one, bundles[0]), _probability(other, bundles[1])
        positive = (one is not None and one.positive, other is not None and other.positive)
        both = p is not None and q is not None
        header = headers[image.sop_uid]
        yield Row(
            file=str(header.path),
            study_uid=header.study_uid,
            series_uid=header.series_uid,
            sop_uid=image.sop_uid,
            frame=image.frame,
            position_mm=image.position_mm,
            probability_a=p,
            probability_b=q,
            difference=None if p is None or q is None else round(q - p, _DECIMALS),
            positive_a=positive[0],
            positive_b=positive[1],
            changed=both and positive[0] != positive[1],
        )


def _probability(image: Image | None, bundle: Bundle) -> float | None:
    """Return the probability of the label that the bundle decides by; a volume has none."""
    return None if image is None else (image.probability or {}).get(bundle.decision_label)


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), _DECIMALS) if values else None


def _cell(value: object) -> object:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value
