"""The journal: every SQL statement of the node. It is the truth; the broker only wakes workers up.

Every write is one transaction that names the old state it expects (``limen.states``) and reports
whether it won.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime

from limen.instance import NewInstance
from limen.journal.commitments import Commitments
from limen.journal.database import Database, utc_now
from limen.journal.deployments import Deployments, chosen
from limen.journal.events import Events
from limen.journal.faults import REPAIR
from limen.journal.gauges import Gauges
from limen.journal.kinds import kind_of
from limen.journal.objects import Objects
from limen.journal.publishing import Publishing
from limen.journal.rebuilding import KeptResult, Rebuilding, Rebuilt
from limen.journal.receiving import Receiving
from limen.journal.retention import Purgeable, Retention
from limen.journal.rows import (
    AnyWork,
    Arrived,
    Asked,
    Awaited,
    Brought,
    Commitment,
    CommitmentRow,
    Delivery,
    Deployed,
    Deployment,
    Event,
    Holding,
    Instance,
    Job,
    Lane,
    OpenRevision,
    Opinion,
    Recorded,
    SentObject,
    Shadow,
    Standing,
    StoredInstance,
    StudyRow,
    Summary,
    Wanted,
    Work,
    WorkerRow,
    WorkerSign,
    WorkRow,
)
from limen.journal.shelf import Shelf
from limen.journal.status import Status
from limen.journal.transitions import backoff_s
from limen.journal.work import WorkQueue
from limen.journal.workers import Workers

__all__ = [
    "REPAIR",
    "AnyWork",
    "Arrived",
    "Asked",
    "Awaited",
    "Brought",
    "Commitment",
    "CommitmentRow",
    "Delivery",
    "Deployed",
    "Deployment",
    "Event",
    "Holding",
    "Instance",
    "Job",
    "Journal",
    "KeptResult",
    "Lane",
    "NewInstance",
    "Objects",
    "OpenRevision",
    "Opinion",
    "Purgeable",
    "Rebuilt",
    "Recorded",
    "SentObject",
    "Shadow",
    "Standing",
    "StoredInstance",
    "StudyRow",
    "Summary",
    "Wanted",
    "Work",
    "WorkRow",
    "WorkerRow",
    "WorkerSign",
    "backoff_s",
    "chosen",
    "host_name",
    "kind_of",
    "utc_now",
]


def host_name() -> str:
    """Return the name of this host, as it appears in owners of leases."""
    return socket.gethostname()


class Journal:
    """Access to the journal; safe to share between threads.

    Parameters
    ----------
    url
        SQLAlchemy URL: ``sqlite:///...`` or ``postgresql+psycopg://...``.
    clock
        Returns now, in UTC, in place of the clock that decides; for tests.
    host_clock
        Returns now by this host, in UTC.

    Attributes
    ----------
    receiving
        Instances and revisions.
    commitments
        Requests of others for storage commitment.
    deployments
        Versions of models: which of them looks at which studies.
    events
        What happened to a study.
    objects
        DICOM objects on their way to a PACS, and what it vouches for.
    publishing
        Which work needs a message.
    rebuilding
        A lost journal, made again of what is kept.
    retention
        What may be purged, and what was.
    shelf
        Rows of studies that were purged long ago, put away as files.
    work
        Claims of jobs, deliveries and shadows, and how they end.
    workers
        Their signs of life.
    status
        Questions of people.
    gauges
        Questions of a monitoring system.
    """

    def __init__(
        self,
        url: str,
        clock: Callable[[], datetime] | None = None,
        host_clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.database = Database(url, clock, host_clock)
        self.receiving = Receiving(self.database)
        self.commitments = Commitments(self.database)
        self.deployments = Deployments(self.database)
        self.events = Events(self.database)
        self.objects = Objects(self.database)
        self.publishing = Publishing(self.database)
        self.rebuilding = Rebuilding(self.database)
        self.retention = Retention(self.database)
        self.shelf = Shelf(self.database)
        self.work = WorkQueue(self.database)
        self.workers = Workers(self.database)
        self.status = Status(self.database)
        self.gauges = Gauges(self.database)

    @property
    def url(self) -> str:
        """Where it is, as SQLAlchemy writes it; it may hold a password."""
        return self.database.url

    def clock(self) -> datetime:
        """Return now, by the clock that decides what is due: that of PostgreSQL, else the host's.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        return self.database.clock()

    def migrate(self) -> None:
        """Bring the tables to this version; a no-op when they are.

        Raises
        ------
        Unreachable
            The journal does not answer.
        NewerJournal
            A newer Limen has written it.
        """
        self.database.migrate()

    def is_current(self) -> bool:
        """Return whether the tables are those of this version.

        Raises
        ------
        Unreachable
            The journal does not answer.
        NewerJournal
            A newer Limen has written it.
        """
        return self.database.is_current()

    def check(self) -> None:
        """Look whether the file of the journal is whole; PostgreSQL looks after its own.

        Raises
        ------
        LostJournal
            It is damaged.
        """
        self.database.check()

    def close(self) -> None:
        """Close every connection."""
        self.database.close()
