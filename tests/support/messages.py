"""A study in a journal, and its results on their way to one place that takes messages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from limen.journal import Delivery, Job, Journal
from limen.result import Phase
from tests.support.journals import KEY, receive
from tests.support.samples import SUMMARY, Clock, new_instance, result
from worker.destinations import Destination, Parcel, Receipt

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
