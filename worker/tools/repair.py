"""``limen doctor --repair``: a journal that is lost or damaged, rebuilt from what lies beside it.

What is damaged is kept aside under a new name. Running it again, or on a journal that is well,
changes nothing that is there.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from limen import config, selftest, telemetry
from limen.command.edge import OK, PARTIAL, at_the_edge
from limen.command.screen import say
from limen.config import Config
from limen.errors import LimenError
from limen.journal import Journal, Rebuilt
from limen.journal.sqlite import damage, files
from worker.tools.console import common_options, progress

if TYPE_CHECKING:  # pydicom: --help does not wait for it
    from worker.tools.remains import Remains

__all__ = ["Repaired", "main", "repair"]

_BY: Final = "limen doctor --repair"
_SQLITE: Final = "sqlite:///"
_ALL: Final = 2**31 - 1  # revisions

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Repaired:
    """What came of it.

    Attributes
    ----------
    damage
        What was wrong with the file of the journal; empty: nothing.
    kept_as
        Where the damaged file is now; empty: it was not moved.
    studies
        Of which anything is kept.
    unreadable
        Files that are no whole instances, or no documents.
    """

    damage: str = ""
    kept_as: str = ""
    studies: int = 0
    unreadable: int = 0
    rebuilt: Rebuilt = field(default_factory=Rebuilt)

    def tree(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        tree = asdict(self)
        rebuilt: dict[str, Any] = tree.pop("rebuilt")
        return tree | rebuilt


def main(argv: Sequence[str]) -> int:
    """Repair the journal of the settings.

    Returns
    -------
    int
        0: done; 5: done, and some files are no whole instances.
    """
    parser = argparse.ArgumentParser(prog="limen doctor --repair")
    parser.add_argument("--dry-run", action="store_true", help="only count; nothing is changed")
    common_options(parser)
    args = parser.parse_args(argv)
    return at_the_edge(lambda: _run(args), debug=args.debug)


def _run(args: argparse.Namespace) -> int:
    os.umask(0o077)
    settings = config.load(args.config)
    telemetry.configure("error", settings.log.format, "limen-doctor")
    with progress(quiet=args.json) as step:
        done = repair(settings, step("rebuilding the journal"), dry_run=args.dry_run)
    if args.json:
        say(json.dumps({"dry_run": args.dry_run, **done.tree()}))
    else:
        for line in _in_words(done, dry_run=args.dry_run):
            say(line)
    return PARTIAL if done.unreadable else OK


def repair(settings: Config, on_study: Progress, *, dry_run: bool = False) -> Repaired:
    """Rebuild what the journal lacks.

    Parameters
    ----------
    on_study
        Called with how many studies are done, and of how many.

    Raises
    ------
    LimenError
        A process of Limen runs, the archive does not answer, or the journal cannot be written.
        Running it again goes on.
    """
    from worker.destinations import registry  # noqa: PLC0415 - after --help
    from worker.tools.remains import Remains  # noqa: PLC0415

    archive = registry.archive(settings) if settings.destination.archive.enabled else None
    remains = Remains(settings, archive)
    keys = remains.studies()  # an archive that is away is told before anything is changed
    done = Repaired(studies=len(keys))
    with _journal(settings, done, dry_run=dry_run) as journal:
        for number, key in enumerate(keys, 1):
            _study(settings, journal, remains, key, done, dry_run=dry_run)
            on_study(number, len(keys))
    return done


def _study(
    settings: Config,
    journal: Journal,
    remains: Remains,
    key: str,
    done: Repaired,
    *,
    dry_run: bool,
) -> None:
    rows = journal.receiving.instances(key, _ALL)
    known = {(row.sop_key, row.digest[:16]) for row in rows}
    purged = journal.retention.purged_at(key) is not None
    study = remains.of(key, known, purged=purged)
    done.unreadable += study.unreadable
    uids = {kept.result.study.study_uid for kept in study.results}
    names = settings.destinations
    if any(selftest.is_test(uid) for uid in uids):
        names = tuple(name for name in names if name == selftest.DESTINATION)

    def write(*, dry_run: bool) -> Rebuilt:
        kept = (study.instances, study.results, names)
        told_once = [entry.name for entry in settings.destination.webhook]
        return journal.rebuilding.study(key, *kept, _BY, told_once=told_once, dry_run=dry_run)

    lacking = write(dry_run=True)
    if lacking != Rebuilt() and not dry_run:
        remains.bring_results_back(study)  # before anybody is told to deliver them
        lacking = write(dry_run=False)
    done.rebuilt += lacking


# -- the journal that is there ---------------------------------------------------------------------


@contextmanager
def _journal(settings: Config, done: Repaired, *, dry_run: bool) -> Iterator[Journal]:
    """Open the journal, a new one in place of a damaged one; that is kept aside."""
    url = settings.journal_url
    with TemporaryDirectory(prefix="limen-repair-") as folder:
        if url.startswith(_SQLITE):
            path = Path(url.removeprefix(_SQLITE))
            _refuse_while_open(path)
            done.damage = damage(path)
            if dry_run and (done.damage or not path.exists()):
                url = f"{_SQLITE}{folder}/journal.db"
            elif done.damage:
                done.kept_as = str(_set_aside(path))
        journal = Journal(url)
        try:
            if not dry_run or url != settings.journal_url:
                journal.migrate()
            elif not journal.is_current():
                raise LimenError("the journal is of an older version; run `limen migrate` first")
            _refuse_while_worked_on(journal)
            yield journal
        finally:
            journal.close()


def _set_aside(path: Path) -> Path:
    """Give a damaged journal, with its log, another name; return that of the file."""
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    for file in reversed(files(path)):  # the file last: until then it is found to be damaged
        file.rename(f"{aside}{file.name.removeprefix(path.name)}")
    return aside


def _refuse_while_open(path: Path) -> None:
    """Who has the file open would go on writing into the one that is set aside."""
    mine = str(os.getpid())
    wanted = {str(file.resolve()) for file in files(path)}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            opened = {os.readlink(one) for one in (process / "fd").iterdir()}
        except OSError:  # it has ended, or is somebody else's
            continue
        if wanted & opened and process.name != mine:
            raise LimenError(
                f"process {process.name} has the journal {path} open; end Limen here first "
                "(`systemctl stop limen.target`, or the `limen up` that runs)"
            )


def _refuse_while_worked_on(journal: Journal) -> None:
    alive = [worker for worker in journal.status.workers() if not worker.late]
    if alive:
        raise LimenError(
            f"worker {alive[0].name} is at work on this journal; end it first, or wait a minute "
            "if it was killed"
        )


def _in_words(done: Repaired, *, dry_run: bool) -> Iterator[str]:
    would = "would be " if dry_run else ""
    if done.damage:
        kept = f"; it is kept as {done.kept_as}" if done.kept_as else ""
        yield f"the journal was damaged ({done.damage}){kept}"
    made = done.rebuilt
    yield (
        f"{done.studies} studies are kept; {would}put into the journal: {made.instances} "
        f"instances, {made.results} results"
    )
    if made.deliveries:
        yield f"{made.deliveries} deliveries are {would}due again, with the same bytes as before"
    if made.analyses:
        yield f"{made.analyses} analyses are {would}due"
    if done.unreadable:
        yield (
            f"{done.unreadable} files are no whole instances or documents, and were left; the "
            "receiver sets such instances aside when it starts"
        )
    if not dry_run:
        yield "start Limen again"
