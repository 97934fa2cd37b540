"""The ML engineer's way in: files to predictions and overlays, with no node and no network.

``python -m worker explain PATH... -o DIR``. Exit codes: 0 ok, 1 failed, 2 usage or settings,
5 partial or undetermined: somebody has to look.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from limen import config
from limen.command import NOTICE
from limen.command.edge import FAILED, OK, PARTIAL, at_the_edge
from limen.command.screen import say, table
from limen.errors import BundleError, ConfigError
from limen.result import Image, Outcome, Result, Task
from worker.tools import sources
from worker.tools.console import Step, common_options, progress

if TYPE_CHECKING:  # pydicom, Pillow and TensorFlow: --help does not wait for them
    from worker.bundles.bundle import Bundle
    from worker.dicom.decoder import Decoder
    from worker.serving.engine import Engine
    from worker.study.parts import StudyOutput

__all__ = ["main"]

COLUMNS: Final = (
    *("file", "study_uid", "series_uid", "sop_uid", "index", "position_mm"),
    *("label", "probability", "positive", "area_mm2"),
)
EXPLANATION_COLUMNS: Final = (
    *("file", "study_uid", "sop_uid", "frame", "label", "method", "parameters", "baseline"),
    *("samples", "seed", "probability", "baseline_probability", "fidelity_r2", "stability"),
    *("superpixels", "poor", "poor_reason", "second_opinion", "own_map"),
)
OVERLAYS: Final = "overlays"


@dataclass(frozen=True, slots=True)
class _Study:
    """One study of the given files, and what came out of it."""

    study_uid: str
    paths: dict[tuple[str, int], Path]
    """By SOP Instance UID and which of its contents it is."""
    result: Result


@dataclass(frozen=True, slots=True)
class _Report:
    """Everything that is written: predictions, and the files that gave none."""

    studies: list[_Study]
    unreadable: list[tuple[Path, str]]
    skipped: int

    @property
    def exit_code(self) -> int:
        """Return 1 when nothing was analysed, 5 where somebody has to look, else 0."""
        outcomes = [study.result.outcome for study in self.studies]
        if all(outcome is Outcome.NOT_ANALYSED for outcome in outcomes):
            return FAILED
        whole = {Outcome.POSITIVE, Outcome.NEGATIVE}
        findings = [study.result.finding for study in self.studies]
        lost = any(f is not None and f.analysed_slices < f.slices for f in findings)
        return PARTIAL if self.unreadable or lost or set(outcomes) - whole else OK


def main(argv: Sequence[str]) -> int:
    """Run ``explain``; return the exit code."""
    args = _explain_parser().parse_args(argv)
    return at_the_edge(lambda: _explain(args), debug=args.debug)


def _explain_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="limen explain",
        description="Predict and explain DICOM files; no network. Not for diagnostic use.",
        epilog="DIR receives predictions.csv and .json, explanations.csv and overlays/*.png. "
        "Exit codes: 0 every study positive or negative, 1 nothing analysed, 2 usage or settings, "
        "5 some study partial, undetermined or not analysed.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="file or folder")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--bundle", metavar="B", help="name or folder (default: the first route's)")
    parser.add_argument("--predict-only", action="store_true", help="no LIME")
    common_options(parser)
    return parser


# -- explain ---------------------------------------------------------------------------------------


def _explain(args: argparse.Namespace) -> int:
    from worker.bundles import bundle as bundles  # noqa: PLC0415

    settings = config.load(args.config)
    paths, skipped = sources.find_files(args.paths)
    folder = sources.bundle_folder(settings, args.bundle or _first_bundle(settings))
    try:
        bundle = bundles.load(folder, allow_legacy_h5=settings.engine.allow_legacy_h5)
    except BundleError as exc:
        raise ConfigError(str(exc)) from exc
    overlays = _output_folder(args.output)
    with progress(quiet=args.json) as step, sources.open_decoder(settings) as decoder:
        step("loading the model")
        with sources.open_engine(settings, bundle) as engine:
            report = _run(paths, skipped, (decoder, engine), settings, bundle, args, step)
    _write(report, args.output, explained=not args.predict_only)
    if args.json:
        say(json.dumps(_tree(report), indent=2))
    else:
        _summarise(report, args.output, None if args.predict_only else overlays)
        if bundle.part:
            say(f"{bundle.name} {bundle.version} sees {bundle.part}")
        say(NOTICE)
    return report.exit_code


def _first_bundle(settings: config.Config) -> str:
    """Return the bundle of the first route that people see results of."""
    for route in settings.route:
        if not route.shadow:
            return route.bundle
    raise ConfigError("no [[route]] names a bundle; give one with --bundle")


def _output_folder(output: Path) -> Path:
    """Make the folder before minutes of work are spent."""
    overlays = output / OVERLAYS
    try:
        overlays.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{output} cannot be made: {exc.strerror}; choose another -o") from exc
    return overlays


def _run(  # noqa: PLR0917 - seven different types, nothing to mix up
    paths: list[Path],
    skipped: int,
    tools: tuple[Decoder, Engine],
    settings: config.Config,
    bundle: Bundle,
    args: argparse.Namespace,
    step: Step,
) -> _Report:
    """Predict and explain each study of the files."""
    from worker.study.explanation import explain_study  # noqa: PLC0415
    from worker.study.prediction import predict_study  # noqa: PLC0415

    decoder, engine = tools
    step("reading headers")
    groups, unreadable = sources.by_study(paths, decoder)
    stamp = sources.stamp(settings)
    studies = []
    for number, (uid, read) in enumerate(sorted(groups.items()), start=1):
        which = f"study {number} of {len(groups)}"
        predicted = predict_study(
            uid, read, decoder, engine, bundle, stamp, progress=step(f"{which}: predicting")
        )
        result = predicted.result
        if not args.predict_only and result.wants_explanation:
            explained = explain_study(
                result,
                sources.instances(read),
                decoder,
                engine,
                bundle,
                settings.explain,
                stamp,
                progress=step(f"{which}: explaining"),
            )
            _write_overlays(args.output / OVERLAYS, predicted, explained)
            result = explained.result
        elif result.task is Task.SEGMENTATION:
            _write_overlays(args.output / OVERLAYS, predicted, predicted)
        paths_of = sources.paths_of(read)
        studies.append(_Study(uid, paths_of, result))
    return _Report(studies, unreadable, skipped)


# -- what is written -------------------------------------------------------------------------------


def _write_overlays(folder: Path, predicted: StudyOutput, explained: StudyOutput) -> None:
    """Write each explained slice with its overlay laid on it."""
    from worker.study import render  # noqa: PLC0415

    for image in explained.result.images:
        if image.explanation is not None and image.original is not None:
            picture = render.blended_png(
                predicted.files[image.original], explained.files[image.explanation]
            )
            (folder / image.explanation).write_bytes(picture)


def _write(report: _Report, output: Path, *, explained: bool) -> None:
    rows = [row for s in report.studies for image in s.result.images for row in _rows(s, image)]
    _write_csv(output / "predictions.csv", COLUMNS, rows)
    if explained:
        rows = [row for s in report.studies for row in _explanation_rows(s)]
        _write_csv(output / "explanations.csv", EXPLANATION_COLUMNS, rows)
    text = json.dumps(_tree(report), indent=2, ensure_ascii=False, sort_keys=True)
    _write_text(output / "predictions.json", text + "\n")


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([columns, *rows])
    _write_text(path, stream.getvalue())


def _write_text(path: Path, text: str) -> None:
    # A file name may hold bytes that are no UTF-8; they are written by their code.
    path.write_text(text, "utf-8", errors="backslashreplace")


def _explanation_rows(study: _Study) -> Iterator[tuple[object, ...]]:
    """Yield one row for each explained slice, in the order of ``EXPLANATION_COLUMNS``."""
    for found in study.result.explanations:
        baseline, second, own = found.baseline_probability, found.second_opinion, found.own_map
        yield (
            *(study.paths[found.sop_uid, found.copy], study.study_uid, found.sop_uid, found.frame),
            *(found.label, found.method, found.parameters, found.baseline),
            *(found.samples, found.seed, found.probability, "" if baseline is None else baseline),
            *(found.fidelity_r2, found.stability, len(found.superpixels)),
            *(str(found.poor).lower(), found.poor_reason, second.verdict if second else ""),
            own.verdict if own else "",
        )


def _rows(study: _Study, image: Image) -> Iterator[tuple[object, ...]]:
    """Yield one row for each label; a slice that was not analysed has one row without label."""
    place = (
        study.paths[image.sop_uid, image.copy],
        study.study_uid,
        image.series_uid or "",
        image.sop_uid,
        image.index,
        "" if image.position_mm is None else image.position_mm,
    )
    if image.probability is None:
        yield (*place, "", "", "", "")
        return
    if not image.probability:  # one of a volume, which has a probability as a whole
        yield (*place, "", "", str(image.positive).lower(), "")
    for label, probability in image.probability.items():
        area_mm2 = image.areas_mm2.get(label)
        yield (
            *(*place, label, f"{probability:.6f}", _is_positive(study.result, image, label)),
            "" if area_mm2 is None else f"{area_mm2:.2f}",
        )


def _is_positive(result: Result, image: Image, label: str) -> str:
    """Return whether a slice is positive for a label; nothing where that decides nothing."""
    if label not in {finding.label for finding in result.all_findings()}:
        return ""
    threshold, told = result.threshold_of(label), image.probability or {}
    if not result.findings or threshold is None:
        return str(image.positive).lower()
    return str(told[label] >= threshold).lower()


def _tree(report: _Report) -> dict[str, Any]:
    return {
        "studies": [json.loads(study.result.to_json()) for study in report.studies],
        "unreadable": [{"file": str(path), "reason": why} for path, why in report.unreadable],
        "skipped_files": report.skipped,
    }


def _summarise(report: _Report, output: Path, overlays: Path | None) -> None:
    rows = []
    for number, study in enumerate(report.studies, start=1):
        finding = study.result.finding
        probability = f"{finding.probability:.3f}" if finding else "-"
        if finding and finding.volume_ml is not None:
            probability = f"{finding.volume_ml:g} ml"
        slices = f"{finding.analysed_slices}/{finding.slices}" if finding else "-"
        result = study.result
        rows.append((str(number), result.outcome.value, probability, slices, result.reason))
    table(["study", "outcome", "probability", "slices", "why"], rows)
    for path, reason in report.unreadable:
        say(f"not read: {path}: {reason}")
    if report.skipped:
        say(f"{report.skipped} files in the folders are not DICOM")
    tables = ["predictions.csv", *(["explanations.csv"] if overlays else []), "predictions.json"]
    written = f"written: {', '.join(str(output / name) for name in tables)}"
    pictures = sum(
        image.explanation is not None for s in report.studies for image in s.result.images
    )
    say(written + (f", {pictures} overlays in {overlays}" if pictures else ""))
