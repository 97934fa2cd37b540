"""The ML engineer's way in: files to predictions and overlays, with no node and no network.

``python -m worker explain PATH... -o DIR`` and ``python -m worker model check|info BUNDLE``.
Exit codes: 0 ok, 1 failed, 2 usage or settings, 5 partial.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from limen import __version__, config
from limen.errors import BundleError, ConfigError, LimenError
from limen.result import Image, Outcome, Provenance, Result, Timings

if TYPE_CHECKING:  # pydicom, Pillow and TensorFlow: --help does not wait for them
    from worker.analysis import Instance, Read, Stamp, StudyOutput
    from worker.bundle import Bundle
    from worker.engine import Engine
    from worker.pixels import Decoder

__all__ = ["main", "model_main"]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
PARTIAL: Final = 5

COLUMNS: Final = (
    *("file", "study_uid", "series_uid", "sop_uid", "index", "position_mm"),
    *("label", "probability", "positive"),
)
OVERLAYS: Final = "overlays"
_PREAMBLE_BYTES: Final = 128
_PREFIX: Final = b"DICM"
_TABLE_COLUMNS: Final = 160


@dataclass(frozen=True, slots=True)
class _Study:
    """One study of the given files, and what came out of it."""

    study_uid: str
    paths: dict[str, Path]
    series_of: dict[str, str]
    result: Result


@dataclass(frozen=True, slots=True)
class _Report:
    """Everything that is written: predictions, and the files that gave none."""

    studies: list[_Study]
    unreadable: list[tuple[Path, str]]
    skipped: int

    @property
    def exit_code(self) -> int:
        """Return 1 when nothing was analysed, 5 when something was not, else 0."""
        outcomes = [study.result.outcome for study in self.studies]
        if all(outcome is Outcome.NOT_ANALYSED for outcome in outcomes):
            return FAILED
        whole = {Outcome.POSITIVE, Outcome.NEGATIVE}
        lost = any(i.probability is None for s in self.studies for i in s.result.images)
        return PARTIAL if self.unreadable or lost or set(outcomes) - whole else OK


def main(argv: Sequence[str]) -> int:
    """Run ``explain``; return the exit code."""
    args = _explain_parser().parse_args(argv)
    return _at_the_edge(args.debug, lambda: _explain(args))


def model_main(argv: Sequence[str]) -> int:
    """Run ``model check`` or ``model info``; return the exit code."""
    args = _model_parser().parse_args(argv)
    return _at_the_edge(args.debug, lambda: _model(args))


def _explain_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="limen explain",
        description="Predict and explain DICOM files; no network. Not for diagnostic use.",
        epilog="DIR receives predictions.csv, predictions.json and overlays/*.png.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="file or folder")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--bundle", metavar="B", help="name or folder (default: the first route's)")
    parser.add_argument("--predict-only", action="store_true", help="no LIME")
    _common(parser)
    return parser


def _model_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="limen model", description="Look at a model bundle.")
    parser.add_argument("action", choices=("check", "info"), help="check also runs the model")
    parser.add_argument("bundle", metavar="BUNDLE", help="name or folder")
    _common(parser)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--config", type=Path, metavar="FILE", help="default: config.toml")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def _at_the_edge(debug: bool, command: Callable[[], int]) -> int:
    """Run a command; turn its errors into one text and an exit code."""
    try:
        return command()
    except KeyboardInterrupt:
        _say("stopped")
        return FAILED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ConfigError as exc:
        _say(str(exc), debug=debug)
        return USAGE
    except LimenError as exc:
        _say(str(exc), debug=debug)
        return FAILED
    except Exception as exc:
        hint = "" if debug else "; run it again with --debug and report the traceback"
        _say(f"unexpected fault ({type(exc).__name__}){hint}", debug=debug)
        return FAILED


def _say(text: str, *, debug: bool = False) -> None:
    if debug:
        traceback.print_exc()
    print(text, file=sys.stderr)  # noqa: T201


# -- explain ---------------------------------------------------------------------------------------


def _explain(args: argparse.Namespace) -> int:
    from worker import bundle as bundles  # noqa: PLC0415

    settings = config.load(args.config)
    paths, skipped = _find_files(args.paths)
    folder = _bundle_folder(settings, args.bundle or settings.route[0].bundle)
    try:
        bundle = bundles.load(folder)
    except BundleError as exc:
        raise ConfigError(str(exc)) from exc
    overlays = _output_folder(args.output)
    with _progress(quiet=args.json) as step, _model_and_decoder(settings, bundle, step) as tools:
        report = _run(paths, skipped, tools, settings, bundle, args, step)
    _write(report, args.output)
    if args.json:
        print(json.dumps(_tree(report), indent=2, ensure_ascii=False))  # noqa: T201
    else:
        _summarise(report, args.output, overlays)
    return report.exit_code


def _find_files(given: Sequence[Path]) -> tuple[list[Path], int]:
    """Return the files to read, sorted, and how many others lay in the folders.

    A file that was named is always tried; of a folder, what starts like DICOM.
    """
    missing = [str(path) for path in given if not path.exists()]
    if missing:
        raise ConfigError(f"no such file or folder: {', '.join(missing)}; check the path")
    found: set[Path] = set()
    skipped = 0
    for path in given:
        inside = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else []
        dicom = {p for p in inside if _looks_like_dicom(p)}
        skipped += len(inside) - len(dicom)
        found |= dicom if path.is_dir() else {path}
    if not found:
        raise ConfigError("no DICOM file there; give files, or a folder that holds some")
    return sorted(found), skipped


def _looks_like_dicom(path: Path) -> bool:
    """Return True for a file with the DICM prefix (PS3.10 7.1) that is no DICOMDIR."""
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE_BYTES + len(_PREFIX))[_PREAMBLE_BYTES:] == _PREFIX
    except OSError:
        return True  # it is told as unreadable


def _bundle_folder(settings: config.Config, name: str) -> Path:
    folder = settings.bundle_dir(name)
    if not folder.is_dir():
        raise ConfigError(
            f"no model bundle {name!r}: neither shipped nor a folder; "
            f"shipped are those in {config.SHIPPED_BUNDLES}"
        )
    return folder


def _output_folder(output: Path) -> Path:
    """Make the folder before minutes of work are spent."""
    overlays = output / OVERLAYS
    try:
        overlays.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{output} cannot be made: {exc.strerror}; choose another -o") from exc
    return overlays


@contextmanager
def _model_and_decoder(
    settings: config.Config, bundle: Bundle, step: Step
) -> Iterator[tuple[Decoder, Engine]]:
    from worker.engine import Engine  # noqa: PLC0415
    from worker.pixels import Decoder  # noqa: PLC0415

    worker, engine = settings.worker, settings.engine
    step("loading the model")
    with (
        Decoder(
            worker.decode_processes,
            worker.decode_timeout_s,
            worker.decode_memory_bytes,
            worker.max_pixels,
        ) as decoder,
        Engine(bundle, engine.max_batch, engine.max_wait_ms, engine.max_queue) as running,
    ):
        yield decoder, running


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
    from worker import analysis  # noqa: PLC0415

    decoder, engine = tools
    step("reading headers")
    groups, unreadable = _by_study(paths, decoder)
    stamp = _stamp(settings)
    studies = []
    for number, (uid, read) in enumerate(sorted(groups.items()), start=1):
        which = f"study {number} of {len(groups)}"
        predicted = analysis.predict_study(
            uid, read, decoder, engine, bundle, stamp, progress=step(f"{which}: predicting")
        )
        result = predicted.result
        if not args.predict_only and any(image.positive for image in result.images):
            explained = analysis.explain_study(
                result,
                _instances(read),
                decoder,
                engine,
                bundle,
                settings.explain,
                stamp,
                progress=step(f"{which}: explaining"),
            )
            _write_overlays(args.output / OVERLAYS, predicted, explained)
            result = explained.result
        paths_of = {h.sop_uid: h.path for h in reversed(read.headers)}
        studies.append(
            _Study(uid, paths_of, {h.sop_uid: h.series_uid for h in read.headers}, result)
        )
    return _Report(studies, unreadable, skipped)


def _by_study(
    paths: list[Path], decoder: Decoder
) -> tuple[dict[str, Read], list[tuple[Path, str]]]:
    from worker import analysis  # noqa: PLC0415

    read = analysis.read_headers([analysis.Instance(path, "", "") for path in paths], decoder)
    groups: dict[str, list[Any]] = {}
    for header in read.headers:
        groups.setdefault(header.study_uid, []).append(header)
    unreadable = [(instance.path, reason) for instance, reason in read.unreadable]
    return {uid: analysis.Read(tuple(found), ()) for uid, found in groups.items()}, unreadable


def _instances(read: Read) -> list[Instance]:
    from worker.analysis import Instance  # noqa: PLC0415

    return [Instance(h.path, h.sop_uid, h.series_uid) for h in reversed(read.headers)]


def _stamp(settings: config.Config) -> Stamp:
    from worker.analysis import Stamp  # noqa: PLC0415

    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Stamp(
        revision=1,
        timings=Timings(received=now, complete=now),
        provenance=Provenance(__version__, socket.gethostname(), settings.sha256()),
    )


# -- what is written -------------------------------------------------------------------------------


def _write_overlays(folder: Path, predicted: StudyOutput, explained: StudyOutput) -> None:
    """Write each explained slice with its overlay laid on it."""
    from worker import render  # noqa: PLC0415

    for image in explained.result.images:
        if image.explanation is not None and image.original is not None:
            picture = render.blended_png(
                predicted.files[image.original], explained.files[image.explanation]
            )
            (folder / image.explanation).write_bytes(picture)


def _write(report: _Report, output: Path) -> None:
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(COLUMNS)
    for study in report.studies:
        for image in study.result.images:
            rows.writerows(_rows(study, image))
    (output / "predictions.csv").write_text(stream.getvalue(), "utf-8")
    text = json.dumps(_tree(report), indent=2, ensure_ascii=False, sort_keys=True)
    (output / "predictions.json").write_text(text + "\n", "utf-8")


def _rows(study: _Study, image: Image) -> Iterator[tuple[object, ...]]:
    """Yield one row for each label; a slice that was not analysed has one row without label."""
    place = (
        study.paths[image.sop_uid],
        study.study_uid,
        study.series_of[image.sop_uid],
        image.sop_uid,
        image.index,
        "" if image.position_mm is None else image.position_mm,
    )
    if image.probability is None:
        yield (*place, "", "", "")
        return
    decided = study.result.finding.label if study.result.finding else ""
    for label, probability in image.probability.items():
        # The threshold of the bundle is about one label; the others have none.
        positive = str(image.positive).lower() if label == decided else ""
        yield (*place, label, f"{probability:.6f}", positive)


def _tree(report: _Report) -> dict[str, Any]:
    return {
        "studies": [json.loads(study.result.to_json()) for study in report.studies],
        "unreadable": [{"file": str(path), "reason": why} for path, why in report.unreadable],
        "skipped_files": report.skipped,
    }


def _summarise(report: _Report, output: Path, overlays: Path) -> None:
    console = Console(width=None if sys.stdout.isatty() else _TABLE_COLUMNS, highlight=False)
    table = Table("study", "outcome", "probability", "slices", "why", box=None)
    for number, study in enumerate(report.studies, start=1):
        finding = study.result.finding
        table.add_row(
            str(number),
            study.result.outcome.value,
            f"{finding.probability:.3f}" if finding else "-",
            f"{finding.analysed_slices}/{finding.slices}" if finding else "-",
            study.result.reason,
        )
    console.print(table)
    for path, reason in report.unreadable:
        console.print(f"not read: {path}: {reason}", markup=False)
    if report.skipped:
        console.print(f"{report.skipped} files in the folders are not DICOM")
    written = f"written: {output / 'predictions.csv'}, {output / 'predictions.json'}"
    pictures = sum(
        image.explanation is not None for s in report.studies for image in s.result.images
    )
    console.print(written + (f", {pictures} overlays in {overlays}" if pictures else ""))
    console.print("Research software. Not for diagnostic use.")


Step = Callable[[str], Callable[[int, int], None]]
"""Begins a step with its title; gives what is called with how much of it is done."""


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Step]:
    """Show a bar on a terminal, a line for each step otherwise, nothing when quiet."""
    console = Console(stderr=True, quiet=quiet, highlight=False)
    if not console.is_terminal:

        def line(title: str) -> Callable[[int, int], None]:
            console.print(title, markup=False)
            return lambda done, total: None

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bars:

        def bar(title: str) -> Callable[[int, int], None]:
            for task in bars.task_ids:
                bars.remove_task(task)
            task_id = bars.add_task(title, total=None)
            return lambda done, total: bars.update(task_id, completed=done, total=total)

        yield bar


# -- model -----------------------------------------------------------------------------------------


def _model(args: argparse.Namespace) -> int:
    from worker import bundle as bundles  # noqa: PLC0415

    settings = config.load(args.config)
    folder = _bundle_folder(settings, args.bundle)
    look = bundles.check if args.action == "check" else bundles.load
    try:
        found = look(folder)
    except BundleError as exc:
        if not args.json:
            raise
        print(json.dumps({"ok": False, "error": str(exc)}, indent=2))  # noqa: T201
        return FAILED
    facts = _facts(found)
    if args.json:
        print(json.dumps({"ok": True, **facts}, indent=2, ensure_ascii=False))  # noqa: T201
    elif args.action == "check":
        print(  # noqa: T201
            f"{found.name} {found.version}: ok; the manifest holds, the weights are those of the "
            f"release, and {len(found.golden_tensor)} golden tensors give the same answer"
        )
    else:
        for key, value in facts.items():
            print(f"{key}: {value}")  # noqa: T201
    return OK


def _facts(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "version": bundle.version,
        "sha256": bundle.sha256,
        "licence": bundle.licence,
        "intended_use": bundle.intended_use,
        "training_data": bundle.training_data,
        "input": {"size": list(bundle.size), "windows_hu": [list(w) for w in bundle.windows]},
        "labels": [label.model_dump(mode="json") for label in bundle.labels],
        "decision": {
            "label": bundle.decision_label,
            "threshold": bundle.threshold,
            "chosen": bundle.threshold_chosen,
        },
        "accepts": bundle.accepts.model_dump(mode="json"),
        "metrics": list(bundle.metrics),
    }
