"""A worker in parts, with a real bundle: a study goes in, results and DICOM objects come out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from limen.broker import make_app
from limen.dispatch import Dispatcher
from limen.journal import Journal, StudyRow
from limen.result import Phase, Result
from limen.uids import key_of
from tests.support.samples import Clock, new_instance, settings
from tests.support.synthetic import SERIES, STUDY
from worker.destinations import ARRIVED, Parcel, Receipt
from worker.dicom.decoder import Decoder
from worker.serving.repository import Repository
from worker.work.instances import SpooledInstances
from worker.work.jobs import Jobs
from worker.work.models import Models
from worker.work.outbox import Outbox

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)  # Google's client misses an optional package
    from worker.destinations.archive import ArchiveDestination, digest_of
    from worker.destinations.folder import FolderArchive

__all__ = ["BundleWorker", "Kept"]

KEY = key_of(STUDY)
MOST_ROUNDS = 8


@dataclass
class Kept:
    """A destination that keeps what it is given."""

    parcels: list[Parcel] = field(default_factory=list)
    objects: dict[Phase, list[Any]] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset()

    def deliver(self, parcel: Parcel) -> Receipt:
        self.parcels.append(parcel)
        if self.kinds and parcel.objects is not None:
            self.objects[parcel.phase] = list(parcel.objects(self.kinds))
        return ARRIVED


class BundleWorker:
    """Does all the work of one study with a bundle that is loaded as a worker loads it."""

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        decoder: Decoder,
        kinds: Sequence[str] = (),
        **sections: Any,
    ) -> None:
        route = [{"name": "any", "modality": "CT", "bundle": str(bundle)}]
        self.config = settings(folder, route=route, **sections)
        self.config.spool_dir.mkdir(parents=True)
        self._journal = Journal(self.config.journal_url, Clock())
        self._journal.migrate()
        self.models = Models(self.config, "me", self._journal, Repository(self.config))
        self.web = Kept(kinds=frozenset(kinds))
        dispatcher = Dispatcher(self.config, self._journal, make_app(self.config))
        archive = ArchiveDestination(FolderArchive(self.config.archive_dir), originals=True)
        self._jobs = Jobs(
            self.config,
            "me",
            self._journal,
            dispatcher,
            SpooledInstances(self.config.spool_dir, archive),
            Outbox(self.config.results_dir),
            decoder,
            self.models,
            {"django": self.web, "archive": Kept()},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.models.close()
        self._journal.close()

    @property
    def spool(self) -> Path:
        """Where the files of the study belong: ``N.dcm`` is ``synthetic.instance(N)``."""
        return self.config.spool_dir

    def analyse(
        self,
        paths: Sequence[Path],
        between: Callable[[], object] = lambda: None,
        received: Callable[[], object] = lambda: None,
    ) -> list[Result]:
        """Receive the files, do whatever is due until nothing is, and return the documents.

        Parameters
        ----------
        between
            Called when the study is predicted, before it is explained.
        received
            Called when the study is received, before it is predicted.
        """
        rows = [
            replace(
                new_instance(n, STUDY),
                path=path.name,
                digest=digest_of(path) if path.exists() else "0" * 64,
                sop_uid=f"{SERIES}.{path.stem}",
                series_uid=SERIES,
            )
            for n, path in enumerate(paths, start=1)
        ]
        self._journal.receiving.record(rows)
        assert self._journal.receiving.complete(KEY, 1)
        received()
        for _ in range(MOST_ROUNDS):  # what fails would wait for ever
            for key, lane in self._waiting():
                if lane == Phase.EXPLANATION:
                    between()
                self._jobs.handle(key, lane)
        return [Result.from_json(parcel.document) for parcel in self.web.parcels]

    def _waiting(self) -> list[tuple[str, str]]:
        """Return key and lane of what waits; of the deliveries to a place the first."""
        row = self.row
        jobs = [(j.key, j.phase) for j in row.jobs if j.state == "queued"]
        first: dict[str, str] = {}
        for delivery in sorted(row.deliveries, key=lambda d: d.phase, reverse=True):
            if delivery.state == "queued":
                first.setdefault(delivery.destination, delivery.key)
        return jobs or [(key, destination) for destination, key in first.items()]

    @property
    def row(self) -> StudyRow:
        """How the study stands in the journal."""
        return self._journal.status.study(KEY, 1)

    def files(self) -> dict[str, bytes]:
        """Return every picture that was delivered, by its name."""
        return {
            name: path.read_bytes()
            for parcel in self.web.parcels
            for name, path in parcel.files.items()
        }
