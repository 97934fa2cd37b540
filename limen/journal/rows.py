"""What the journal hands out: frozen values, one kind for each question."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from limen.instance import NewCommitment
from limen.result import Outcome, Phase, Result
from limen.states import SHADOW_LANE, DeploymentState, HoldingState, ObjectState, StudyState

__all__ = [
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
    "Lane",
    "OpenRevision",
    "Opinion",
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
]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of one ``NewInstance``.

    Attributes
    ----------
    new
        False when the same bytes were there already.
    conflict
        True when the same SOP instance is there with other bytes.
    revision
        Revision of the study that the instance belongs to.
    """

    study_key: str
    revision: int
    new: bool
    conflict: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which study revisions are asked for; what is not set asks for all.

    Attributes
    ----------
    since
        Received then or later.
    destination
        With a delivery to it that has not arrived; one that is given up, with ``dead``.
    dead
        With work that is dead.
    newest
        Only the newest revision of each study.
    """

    outcome: Outcome | None = None
    state: StudyState | None = None
    since: datetime | None = None
    destination: str = ""
    dead: bool = False
    newest: bool = False


@dataclass(frozen=True, slots=True)
class OpenRevision:
    """A revision of a study that is still being received."""

    study_key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Instance:
    """A kept instance; ``path`` is relative to the spool."""

    sop_key: str
    sop_uid: str
    series_uid: str
    sop_class_uid: str
    digest: str
    path: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One content of a SOP instance; ``path`` is relative to the spool."""

    sop_class_uid: str
    path: str
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Commitment:
    """A request for storage commitment that was claimed. ``attempts`` counts this one."""

    key: str
    asked: NewCommitment
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CommitmentRow:
    """A request for storage commitment as people are shown it."""

    transaction_uid: str
    state: str
    attempts: int
    last_error: str


@dataclass(frozen=True, slots=True)
class Work:
    """What one worker at a time claims under a lease.

    Attributes
    ----------
    attempts
        Claims, this one included when it is claimed; less those that were given back.
    losses
        Claims that their worker did not outlive.
    publications, publish_at
        Messages since the last claim, and when the next one is due.
    """

    key: str
    study_key: str
    revision: int
    phase: Phase
    attempts: int
    losses: int
    created_at: datetime
    publications: int
    publish_at: datetime

    @property
    def lane(self) -> str:
        """Where it waits for a slot of a worker."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Job(Work):
    """One phase of the analysis of one study revision."""

    @property
    def lane(self) -> str:
        """Its phase."""
        return self.phase.value


@dataclass(frozen=True, slots=True)
class Delivery(Work):
    """One result on its way to one destination.

    Attributes
    ----------
    shadow
        Name of the bundle when the result is that of a shadow; empty otherwise.
    about
        Destination whose delivery it tells of, when that is what it brings; empty for a result.
    originals
        Whether it brings the received instances, before there is a result.
    """

    destination: str
    shadow: str
    about: str
    originals: bool

    @property
    def lane(self) -> str:
        """Its destination: one that hangs holds up no other."""
        return self.destination


@dataclass(frozen=True, slots=True)
class Shadow(Work):
    """A look at one study revision by the bundle of a route in shadow."""

    route: str

    @property
    def lane(self) -> str:
        """One for all of them."""
        return SHADOW_LANE


AnyWork = Job | Delivery | Shadow


@dataclass(frozen=True, slots=True)
class Summary:
    """What a committed result says of the study, for status and ordering.

    Attributes
    ----------
    probability
        Of the finding, 0..1; None without a finding.
    positive_slices, slices
        Slices at or above the threshold, of all slices of the selected series.
    bundle, bundle_version, bundle_sha256
        Which bundle made it; empty where none did.
    document_sha256
        Of the result document.
    """

    outcome: Outcome
    reason: str
    probability: float | None
    positive_slices: int | None
    slices: int | None
    bundle: str = ""
    bundle_version: str = ""
    bundle_sha256: str = ""
    document_sha256: str = ""

    @classmethod
    def of(cls, result: Result, document_sha256: str) -> Summary:
        """Return what a result document says."""
        finding, model = result.finding, result.model
        return cls(
            outcome=result.outcome,
            reason=result.reason,
            # Of a segmentation it is that of a pixel: what counts is the volume, in the reason.
            probability=finding.probability if finding and finding.volume_ml is None else None,
            positive_slices=finding.positive_slices if finding else None,
            slices=finding.slices if finding else None,
            bundle=model.name if model else "",
            bundle_version=model.version if model else "",
            bundle_sha256=model.sha256 if model else "",
            document_sha256=document_sha256,
        )


@dataclass(frozen=True, slots=True)
class SentObject:
    """One DICOM object of one delivery to a PACS.

    Attributes
    ----------
    kind
        ``sr``, ``seg``, ``sc``, ``ko``, ``pm`` or ``pr``.
    reason
        What the PACS said last, in words; empty when it said nothing but Success.
    attempts
        Tries that failed, or that the PACS does not vouch for.
    transaction_uid
        Of the last request for storage commitment; empty before the first.
    """

    sop_uid: str
    sop_class_uid: str
    kind: str
    state: ObjectState
    reason: str = ""
    attempts: int = 0
    transaction_uid: str = ""


@dataclass(frozen=True, slots=True)
class Brought:
    """What one association brought of one study.

    Attributes
    ----------
    first_at, last_at
        When the first and the last instance of it were received.
    kept, again, conflicts
        Instances that were new, that were there already, and that were there with other bytes:
        those are new too.
    refused
        Reason -> how many of the whole association were answered with it.
    """

    study_key: str
    revision: int
    association: int
    peer: str
    address: str
    first_at: datetime
    last_at: datetime
    kept: int
    again: int
    refused: dict[str, int]
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class Arrived:
    """What one peer brought of one revision, by the rows of the instances."""

    revision: int
    peer: str
    first_at: datetime
    last_at: datetime
    instances: int
    series: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A PACS was asked to vouch for what a delivery brought there."""

    transaction_uid: str
    delivery: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a study.

    Attributes
    ----------
    kind
        ``association``, ``attempt``, ``replay``, ``retry``, ``discard`` or ``repair``.
    subject
        Key of the piece of work, or number of the association.
    who
        Peer, worker or person; ``host`` and ``version`` are those of the Limen that wrote it.
    at, until
        From when until when; None: it has not ended, or whoever did it died.
    times
        How often in a row it ended like that.
    how, text
        How it ended: in a word, and in words.
    detail
        What else is known, by name.
    """

    revision: int
    kind: str
    subject: str
    who: str
    host: str
    version: str
    at: datetime
    until: datetime | None
    times: int
    how: str
    text: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a version of a model said of a study, shown to people or in shadow.

    Attributes
    ----------
    instances
        How many instances the study had then, every content that was kept.
    probability
        Of the finding, 0..1; None without a finding.
    """

    study_key: str
    revision: int
    instances: int
    version: str
    outcome: Outcome
    probability: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a delivery stands among those of its study to the same destination.

    Attributes
    ----------
    replaced
        There is a later one, of the next phase or of a newer revision, that was not given up.
    follows
        One before it is on its way.
    sent
        Something of the study was sent before, by any delivery.
    revises
        Something of an earlier revision was.
    """

    replaced: bool
    follows: bool
    sent: bool
    revises: bool


@dataclass(frozen=True, slots=True)
class WorkRow:
    """A piece of work as ``limen status`` shows it; only a delivery has a destination.

    Attributes
    ----------
    objects
        What a delivery to a PACS brings there, as far as it was tried.
    originals
        Whether it brings the received instances to the archive, and the prediction waits for it.
    """

    key: str
    destination: str
    phase: str
    state: str
    attempts: int
    last_error: str
    objects: tuple[SentObject, ...] = ()
    originals: bool = False


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study revision as ``limen status`` shows it.

    Attributes
    ----------
    positive_slices, slices
        Of the finding: slices at or above the threshold, of all slices of the selected series.
    instances
        Instances of every series, up to this revision, every content that was kept.
    """

    study_key: str
    study_uid: str
    revision: int
    state: str
    outcome: str | None
    reason: str
    probability: float | None
    positive_slices: int | None
    slices: int | None
    instances: int
    received_at: datetime
    last_instance_at: datetime
    complete_at: datetime | None
    predicted_at: datetime | None
    explained_at: datetime | None
    jobs: tuple[WorkRow, ...]
    shadows: tuple[WorkRow, ...]
    deliveries: tuple[WorkRow, ...]


@dataclass(frozen=True, slots=True)
class Awaited:
    """A study that people sent and whose result they cannot read yet.

    Attributes
    ----------
    state
        ``receiving``, ``complete`` (the prediction is due), or a later one: the result has yet to
        reach the results server.
    outcome
        What was found, where the result is on its way.
    instances
        Every content that was kept, up to this revision.
    """

    study_uid: str
    revision: int
    accession: str
    state: str
    outcome: str | None
    instances: int
    received_at: datetime
    last_instance_at: datetime


@dataclass(frozen=True, slots=True)
class Lane:
    """How much of a lane waits, runs and is dead.

    Attributes
    ----------
    oldest_s
        Age of the oldest that has not ended, in seconds.
    unsent_s
        For how long the oldest has been due that no message went out for, in seconds; not where
        its destination is away.
    sent
        Deliveries that a PACS has and has yet to vouch for.
    away_s
        How long its destination has been away, in seconds; None while it is there.
    unwelcome
        Why it rejects this node; empty while it does not.
    waits_for
        What work of it waits for that no attempt is counted for, in words: an archive or a server
        of models that is away.
    """

    queued: int = 0
    running: int = 0
    dead: int = 0
    sent: int = 0
    oldest_s: float = 0.0
    unsent_s: float = 0.0
    away_s: float | None = None
    unwelcome: str = ""
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class WorkerSign:
    """What a worker says of itself with each sign of life.

    Attributes
    ----------
    id
        The owner of its claims.
    lanes
        What it works on.
    """

    id: str
    host: str
    version: str
    lanes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as ``limen status`` shows it.

    Attributes
    ----------
    seen_s
        Seconds since its last sign of life.
    late
        Whether the next one is overdue: it is dead, or its journal does not answer it.
    clock_off_s
        How far the clock of its host is ahead of the one that decides, in seconds.
    """

    id: str
    host: str
    version: str
    lanes: tuple[str, ...]
    started_at: datetime
    seen_s: float
    late: bool
    clock_off_s: float

    @property
    def name(self) -> str:
        """How people are told of it."""
        return f"{self.id[:8]} on {self.host}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version of a model that somebody asked for, and what became of that.

    Attributes
    ----------
    name
        Of the model: what its bundles are called.
    digest
        Of all files of its bundle: a worker runs no others under this version.
    percent
        So many of a hundred studies it looks at; 100: all that nothing else looks at.
    served_at, ended_at
        From when until when it looked at studies; None: it has not, or still does.
    ended_by
        Who took it back; empty where nobody did.
    note
        Why it was refused or taken back, in words.
    """

    id: int
    name: str
    version: str
    digest: str
    percent: int
    state: DeploymentState
    asked_by: str
    asked_at: datetime
    served_at: datetime | None
    ended_by: str
    ended_at: datetime | None
    note: str

    @property
    def is_canary(self) -> bool:
        """Whether it looks at a part of the studies only."""
        return self.percent < EVERY_STUDY


@dataclass(frozen=True, slots=True)
class Holding:
    """How far a worker is with a version.

    Attributes
    ----------
    deployment
        Which it is about; 0 where no version of the model is deployed.
    text
        What stands in the way, in words.
    host
        Of the worker, where the journal tells of it.
    """

    worker: str
    name: str
    deployment: int
    state: HoldingState
    text: str = ""
    host: str = ""

    @property
    def who(self) -> str:
        """How people are told of the worker."""
        return f"{self.worker[:8]} on {self.host}"


@dataclass(frozen=True, slots=True)
class Deployed:
    """How the versions of all models stand at a moment.

    Attributes
    ----------
    at
        When, by the clock that decides.
    deployments
        What serves or is asked for, and what was refused where nothing was asked for since.
    holdings
        How far the workers are that live.
    """

    at: datetime
    deployments: tuple[Deployment, ...] = ()
    holdings: tuple[Holding, ...] = ()

    @property
    def names(self) -> list[str]:
        """The models that have versions."""
        return sorted({d.name for d in self.deployments} | {h.name for h in self.holdings})

    def serving(self, name: str) -> list[Deployment]:
        """Return what serves a model: first what serves all studies, then what serves a part."""
        found = [d for d in self.deployments if d.name == name]
        return sorted(
            (d for d in found if d.state is DeploymentState.SERVING), key=lambda d: -d.percent
        )

    def share(self, one: Deployment) -> str:
        """Return which studies a version that serves looks at, in words."""
        beside = sum(d.percent for d in self.serving(one.name) if d.is_canary)
        percent = one.percent if one.is_canary else EVERY_STUDY - beside
        return "all studies" if percent == EVERY_STUDY else f"{percent} % of studies"


EVERY_STUDY = 100
"""Percent."""
