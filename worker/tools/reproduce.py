"""A result made again from its inputs, and compared byte for byte with the one that was stored.

`limen trace` runs it in a process of its own and tells what it prints, one JSON object. The
instances come from the spool, or from the archive into a folder that is removed afterwards; the
bundle is the configured one with the digest that the document names. The document is stamped with
the times, host and version of the stored one, so nothing of it is left out of the comparison.
Nothing is written: neither the journal nor any result is touched.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from limen import __version__, config
from limen.command.edge import OK, at_the_edge
from limen.command.screen import say
from limen.config import Config
from limen.errors import BundleError, LimenError, NotAnalysable
from limen.journal import Journal
from limen.result import Model, Phase, Result
from limen.states import WorkState
from worker.tools import sources

if TYPE_CHECKING:  # pydicom and TensorFlow: --help does not wait for them
    from worker.bundles.bundle import Bundle
    from worker.dicom.decoder import Decoder
    from worker.serving.engine import Engine
    from worker.study.parts import Instance, StudyOutput

__all__ = ["main"]

REPRODUCED, DIFFERS, CANNOT = "reproduced", "differs", "cannot"

_ABSENT: Final = object()
_GIVEN_UP = (WorkState.DEAD, WorkState.DISCARDED)


class _Altered(NotAnalysable):
    """Instances in the spool are not what was received."""


@dataclass(frozen=True, slots=True)
class _Compared:
    """One phase: whether it was reproduced; else the first difference, or why it cannot be."""

    phase: Phase
    state: str
    reason: str = ""
    document_sha256: str = ""
    files: int = 0


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is kept of a revision: in the results folder, else in the archive."""

    journal: Journal
    results: Path
    archive: Any
    study_key: str
    revision: int

    def document(self, phase: Phase) -> bytes | None:
        """Return the stored document of a phase; None: it is nowhere."""
        body = _bytes(self.results / self.study_key / str(self.revision) / phase / "result.json")
        digest = self.committed(phase)
        if body is not None or not digest or self.archive is None:
            return body
        found: bytes | None = self.archive.kept(
            self.study_key, f"{self.revision}-{phase}", "result.json", digest
        )
        return found

    def picture(self, phase: Phase, name: str, made: bytes) -> bytes | None:
        """Return the stored picture of that name; of an archive only the one that was made."""
        folder = self.results / self.study_key / str(self.revision) / phase
        if self.archive is None or folder.exists():
            return _bytes(folder / name)
        digest = hashlib.sha256(made).hexdigest()
        found: bytes | None = self.archive.kept(
            self.study_key, f"{self.revision}-{phase}", name, digest
        )
        return found

    def committed(self, phase: Phase) -> str:
        """Return the digest of the document that was committed; empty where none is known."""
        return self.journal.events.committed(self.study_key, self.revision, phase)


def main(argv: Sequence[str]) -> int:
    """Run ``reproduce``; return 0 whatever came of it, which is printed."""
    parser = argparse.ArgumentParser(prog="python -m worker reproduce")
    parser.add_argument("key", metavar="KEY", help="of the study")
    parser.add_argument("--revision", type=int, required=True, metavar="N")
    parser.add_argument("--config", type=Path, metavar="FILE", help="default: config.toml")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    args = parser.parse_args(argv)
    return at_the_edge(lambda: _run(args), debug=args.debug)


def _run(args: argparse.Namespace) -> int:
    settings = config.load(args.config)
    say(json.dumps(reproduce(settings, args.key, args.revision)))
    return OK


def reproduce(settings: Config, study_key: str, revision: int) -> dict[str, Any]:
    """Return how the result of a revision compares with what its inputs give now.

    Returns
    -------
    dict
        ``state`` (``reproduced``, ``differs`` or ``cannot``), ``phases`` and ``notes``: what is
        not as it was when the result was made.
    """
    from worker.destinations.archive import ArchiveDestination  # noqa: PLC0415
    from worker.destinations.registry import destinations  # noqa: PLC0415

    journal = Journal(settings.journal_url)
    places = destinations(settings, journal.objects).values()
    archive = next((p for p in places if isinstance(p, ArchiveDestination)), None)
    kept = _Kept(journal, settings.results_dir, archive, study_key, revision)
    try:
        return _reproduce(settings, kept)
    finally:
        journal.close()


def _reproduce(settings: Config, kept: _Kept) -> dict[str, Any]:
    row = kept.journal.status.study(kept.study_key, kept.revision)
    given_up = {job.phase for job in row.jobs if job.state in _GIVEN_UP}
    stored: dict[Phase, bytes] = {}
    found: list[_Compared] = []
    for phase in (Phase.PREDICTION, Phase.EXPLANATION):
        if not any(job.phase == phase for job in row.jobs):
            continue
        if phase.value in given_up:
            found.append(_Compared(phase, CANNOT, "it was given up: there is nothing to repeat"))
            continue
        body = kept.document(phase)
        if body is None:
            why = "its document is neither in the results folder nor in the archive"
            found.append(_Compared(phase, CANNOT, why))
            continue
        digest = hashlib.sha256(body).hexdigest()
        if kept.committed(phase) not in {"", digest}:  # it may not even be JSON any more
            why = "the stored document was altered since"
            found.append(_Compared(phase, DIFFERS, why, digest))
            continue
        stored[phase] = body
    notes: list[str] = []
    if stored:
        found += _again(settings, kept, row.study_uid, stored)
        notes = _notes(settings, Result.from_json(next(iter(stored.values()))))
    found.sort(key=lambda one: list(Phase).index(one.phase))
    states = {one.state for one in found}
    state = DIFFERS if DIFFERS in states else CANNOT if states != {REPRODUCED} else REPRODUCED
    return {"state": state, "phases": [asdict(one) for one in found], "notes": notes}


def _again(
    settings: Config, kept: _Kept, study_uid: str, stored: Mapping[Phase, bytes]
) -> Iterator[_Compared]:
    """Yield how each phase that is stored compares."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="limen-trace-")))
        decoder = stack.enter_context(sources.open_decoder(settings))
        making = _Making(settings, study_uid, kept, folder, decoder, stack)
        for phase, body in stored.items():
            try:
                made = making.of(stored, phase)
            except _Altered as exc:
                yield _Compared(phase, DIFFERS, str(exc))
                continue
            except LimenError as exc:
                yield _Compared(phase, CANNOT, str(exc))
                continue
            yield _compared(kept, phase, body, made)


@dataclass(slots=True)
class _Making:
    """Makes documents again; the model is loaded for the first that asks."""

    settings: Config
    study_uid: str
    kept: _Kept
    folder: Path
    decoder: Decoder
    stack: ExitStack
    loaded: dict[str, tuple[Bundle, Engine]] = field(default_factory=dict)

    def of(self, stored: Mapping[Phase, bytes], phase: Phase) -> StudyOutput:
        """Return what the inputs give now, with the stamp of the stored document."""
        from worker.study.explanation import explain_study  # noqa: PLC0415
        from worker.study.parts import Stamp, read_headers  # noqa: PLC0415
        from worker.study.prediction import predict_study  # noqa: PLC0415

        before = Result.from_json(stored[phase])
        inputs = _inputs(self.settings, self.kept, self.folder)
        stamp = Stamp(before.revision, before.timings, before.provenance)
        if phase is Phase.EXPLANATION:
            if Phase.PREDICTION not in stored or before.model is None:
                raise NotAnalysable("the prediction that it explains is gone, or was altered")
            predicted = Result.from_json(stored[Phase.PREDICTION])
            bundle, engine = self._model(before.model)
            explain = self.settings.explain
            return explain_study(predicted, inputs, self.decoder, engine, bundle, explain, stamp)
        read = read_headers(inputs, self.decoder)
        if before.model is None:
            return self._without_model(read, stamp)
        bundle, engine = self._model(before.model)
        return predict_study(self.study_uid, read, self.decoder, engine, bundle, stamp)

    def _without_model(self, read: Any, stamp: Any) -> StudyOutput:
        from worker.study import routes  # noqa: PLC0415
        from worker.study.prediction import not_analysed  # noqa: PLC0415

        if routes.choose(self.settings.route, read.headers) is not None:
            raise NotAnalysable("no route took the study then, and one does now")
        reason = routes.why_none(self.settings.route, read.headers)
        return not_analysed(self.study_uid, read, reason, stamp)

    def _model(self, made_by: Model) -> tuple[Bundle, Engine]:
        """Return the configured bundle with the digest that a document names, and its engine."""
        from worker.bundles import bundle as bundles  # noqa: PLC0415

        if made_by.sha256 not in self.loaded:
            bundle = next(self._bundles(bundles, made_by), None)
            if bundle is None:
                raise BundleError(
                    f"the bundle that made it, {made_by.name} {made_by.version} (SHA-256 "
                    f"{made_by.sha256}), is not configured any more; name its folder in a [[route]]"
                )
            engine = self.stack.enter_context(sources.open_engine(self.settings, bundle))
            self.loaded[made_by.sha256] = bundle, engine
        return self.loaded[made_by.sha256]

    def _bundles(self, bundles: Any, made_by: Model) -> Iterator[Bundle]:
        """Yield the configured bundles of that digest, those of the same threshold first."""
        found = []
        named = {self.settings.bundle_dir(route.bundle) for route in self.settings.route}
        for folder in {one for place in named for one in _each_version(place)}:
            try:
                found.append(
                    bundles.load(folder, allow_legacy_h5=self.settings.engine.allow_legacy_h5)
                )
            except BundleError:
                continue  # another one may be it
        same = [bundle for bundle in found if bundle.sha256 == made_by.sha256]
        as_made = (made_by.version, made_by.threshold)
        yield from sorted(
            same, key=lambda b: ((b.version, b.threshold) != as_made, b.threshold != as_made[1])
        )


def _each_version(folder: Path) -> list[Path]:
    """Return the bundles in a folder of versions, or the folder where it is a bundle itself."""
    from worker.bundles import versions  # noqa: PLC0415

    if not versions.has_versions(folder):
        return [folder]
    return [folder / version for version in versions.versions(folder)]


def _inputs(settings: Config, kept: _Kept, folder: Path) -> list[Instance]:
    """Return the instances of a revision, as links into the spool or copies from the archive.

    Raises
    ------
    NotAnalysable
        One is nowhere, or is not what was received.
    """
    from worker.destinations import Original  # noqa: PLC0415
    from worker.destinations.archive import digest_of  # noqa: PLC0415
    from worker.study.parts import Instance  # noqa: PLC0415

    found, lost = [], 0
    altered: list[str] = []
    for row in kept.journal.receiving.instances(kept.study_key, kept.revision):
        here, copy = settings.spool_dir / row.path, folder / row.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if copy.exists():  # by the phase before
            pass
        elif here.exists():
            copy.symlink_to(here.resolve())
        elif kept.archive is None or not kept.archive.restore(
            kept.study_key, Original(copy, row.sop_key, row.digest)
        ):
            lost += 1
        if copy.is_symlink() and digest_of(copy) != row.digest:  # the archive checks its own
            altered.append(row.sop_key[:12])
        found.append(Instance(copy, row.sop_uid, row.series_uid))
    if altered:
        raise _Altered(
            f"{len(altered)} of {len(found)} instances in the spool are not what was received "
            f"(the first: {altered[0]})"
        )
    if lost:
        raise NotAnalysable(
            f"{lost} of {len(found)} instances are neither in the spool nor in the archive"
        )
    return found


def _compared(kept: _Kept, phase: Phase, body: bytes, made: StudyOutput) -> _Compared:
    """Compare document and pictures; the first difference is what is told."""
    digest = hashlib.sha256(body).hexdigest()
    known = (digest, len(made.files))
    again = made.result.to_json()
    if again != body:
        where = next(_differences(json.loads(body), json.loads(again)), "the document: its bytes")
        return _Compared(phase, DIFFERS, where, *known)
    for name, picture in made.files.items():
        before = kept.picture(phase, name, picture)
        if before is None:
            return _Compared(phase, DIFFERS, f"{name}: is not what is stored, or is gone", *known)
        if before != picture:
            return _Compared(phase, DIFFERS, f"{name}: other bytes", *known)
    return _Compared(phase, REPRODUCED, "", *known)


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield where two trees differ, and how where the values are numbers; texts may name people."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            place = f"{path}.{key}" if path else key
            yield from _differences(before.get(key, _ABSENT), now.get(key, _ABSENT), place)
    elif isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            yield f"{path}: {len(before)} stored, {len(now)} now"
        for n, (one, other) in enumerate(zip(before, now, strict=False)):
            yield from _differences(one, other, f"{path}[{n}]")
    elif before != now or type(before) is not type(now):
        numbers = all(isinstance(value, int | float) for value in (before, now))
        yield f"{path}: {before} stored, {now} now" if numbers else f"{path}: differs"


def _notes(settings: Config, stored: Result) -> list[str]:
    """Return what is not as it was when the result was made."""
    made_by = stored.provenance
    notes = []
    if made_by.limen_version != __version__:
        notes.append(f"made by limen {made_by.limen_version}, compared by {__version__}")
    if made_by.config_sha256 != settings.sha256():
        notes.append("the settings are not those that it was made with")
    return notes


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
