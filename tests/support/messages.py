"""Studies in a journal, and their results on their way to one place that takes messages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from limen.broker import make_app
from limen.dispatch import Dispatcher
from limen.journal import Delivery, Job, Journal
from limen.result import Phase
from limen.uids import key_of
from tests.support.journals import KEY, receive
from tests.support.samples import STUDY_UID, SUMMARY, Clock, new_instance, result, settings
from worker.destinations import Destination, Parcel, Receipt
from worker.destinations.registry import destinations
from worker.dicom.decoder import Decoder
from worker.work.instances import SpooledInstances
from worker.work.jobs import Jobs
from worker.work.models import Models
from worker.work.outbox import Outbox

WORDS = ("Intracranial hemorrhage: present. 1 of 1 slices analysed.", "Not for diagnostic use.")


class Scene:
    """A journal with the study of ``receive``; a new revision begins when it is asked for."""

    def __init__(self, folder: Path, name: str = "ris") -> None:
        self.folder = folder
        self.name = name
        self.clock = Clock()
        self.journal = Journal(f"sqlite:///{folder / 'journal.db'}", self.clock)
        self.journal.migrate()
        receive(self.journal)
        self._revision = 1
        self.keys: list[str] = []

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        self.journal.close()

    def commit(self, phase: Phase, revision: int, **changes: Any) -> Parcel:
        """Commit a result as a worker does; ``changes`` are of it, or of its study."""
        if revision > self._revision:
            self._revision = revision
            self.journal.receiving.record([new_instance(revision + 10, content=str(revision))])
            assert self.journal.receiving.complete(KEY, revision)
        job = self.journal.work.claim(Job, f"{KEY}-{revision}-{phase.value}", "a", 30)
        assert job is not None
        explain = phase is Phase.PREDICTION
        assert self.journal.work.commit(job, "a", SUMMARY, [self.name], explain=explain)
        of_study = {k: changes.pop(k) for k in list(changes) if hasattr(result().study, k)}
        made = result(phase, revision, **changes)
        made = replace(made, study=replace(made.study, **of_study))
        key = f"{job.key}-{self.name}"
        self.keys.append(key)
        return Parcel(
            *(KEY, revision, phase, made.to_json(), {}, ()),
            delivery=key,
            result=made,
            sentences=lambda: WORDS,
        )

    def claim(self, parcel: Parcel) -> Delivery:
        """Take a delivery as a worker does."""
        work = self.journal.work.claim(Delivery, parcel.delivery, "a", 30)
        assert work is not None
        return work

    def bury(self, parcel: Parcel) -> None:
        """Give a delivery up."""
        assert self.journal.work.bury(self.claim(parcel), "a", "refused")

    def deliver(self, to: Destination, parcel: Parcel) -> Receipt:
        """Deliver as a worker does; what fails is due again at once."""
        work = self.claim(parcel)
        try:
            receipt = to.deliver(parcel)
        except Exception:
            assert self.journal.work.give_back(Delivery, work.key, "a", 0)
            raise
        assert self.journal.work.delivered(
            work, "a", receipt.state, note=receipt.note, reached=receipt.reached
        )
        return receipt


class Courier:
    """A worker that only delivers: real journal, files, registry and retries; a clock to move."""

    def __init__(self, folder: Path, name: str, **destination: Any) -> None:
        off = {"enabled": False}
        places = {"django": off, "archive": off, **destination}
        self.config = settings(folder, destination=places, queue={"retry_base_s": 2.0})
        self.config.spool_dir.mkdir(parents=True)
        self.name = name
        self.clock = Clock()
        self.journal = Journal(self.config.journal_url, self.clock)
        self.journal.migrate()
        self._outbox = Outbox(self.config.results_dir)
        self._jobs = Jobs(
            self.config,
            "me",
            self.journal,
            Dispatcher(self.config, self.journal, make_app(self.config)),
            SpooledInstances(self.config.spool_dir, None),
            self._outbox,
            cast(Decoder, None),
            cast(Models, None),
            destinations(self.config, self.journal.objects),
        )

    def __enter__(self) -> Courier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        self.journal.close()

    def commit(
        self,
        phase: Phase,
        revision: int,
        study_uid: str = STUDY_UID,
        *,
        explain: bool = True,
        **changes: Any,
    ) -> str:
        """Commit a result as a worker does, and return the key of its delivery."""
        key = key_of(study_uid)
        if phase is Phase.PREDICTION:
            new = new_instance(revision, study_uid, content=str(revision), at=self.clock.now)
            self.journal.receiving.record([new])
            assert self.journal.receiving.complete(key, revision)
        job = self.journal.work.claim(Job, f"{key}-{revision}-{phase.value}", "a", 30)
        assert job is not None
        of_study = {k: changes.pop(k) for k in list(changes) if hasattr(result().study, k)}
        made = result(phase, revision, **changes)
        made = replace(made, study=replace(made.study, **(of_study | {"study_uid": study_uid})))
        self._outbox.write(key, made, {})
        explain = explain and phase is Phase.PREDICTION
        assert self.journal.work.commit(job, "a", SUMMARY, [self.name], explain=explain)
        return f"{job.key}-{self.name}"

    def work(self) -> None:
        """Try what is due, each once."""
        for work in self.journal.publishing.waiting(self.name, 100):
            self._jobs.handle(work.key, self.name)

    def states(self) -> dict[str, str]:
        """How each delivery stands, by its key."""
        return {d.key: d.state for row in self.journal.status.studies() for d in row.deliveries}

    def notes(self) -> dict[str, str]:
        """What was said of each delivery last, by its key."""
        rows = self.journal.status.studies()
        return dict(sorted((d.key, d.last_error) for row in rows for d in row.deliveries))
