"""Which model looks at a study: what the settings name, or, of a folder of versions, what serves.

The journal says which version serves (``limen.journal.deployments``) and is asked before each
prediction, so that no worker misses a change. What is asked for is loaded, warmed and tried beside
what serves. At rest a worker has two versions of a model at most: those that serve, or the one that
serves and the one before, to go back to at once. An older one that a prediction came from comes
back for its explanation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from limen.config import Config
from limen.errors import BundleError, Delayed, LimenError, NotAnalysable, Transient
from limen.journal import Deployment, Holding, Journal, chosen
from limen.result import Result
from limen.rounds import Rounds
from limen.states import DeploymentState, HoldingState
from worker.bundles import versions
from worker.bundles.bundle import Bundle
from worker.serving.engine import Engine
from worker.serving.repository import Repository
from worker.work.memory import resident_bytes

__all__ = ["Chosen", "Models"]

log = structlog.get_logger("worker.work.models")

_LOOK_S: Final = 1.0
_TELL_S: Final = 30.0
_RETRY_S: Final = 30.0
_IDLE_S: Final = 30.0
_WAIT_S: Final = 20.0
_ELSEWHERE_S: Final = 2.0
_TIMES_FILES: Final = 8
"""A model whose like was never loaded here is taken to need so many times the size of its files."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model that looks at a study, from its first slice to the commit.

    Attributes
    ----------
    deployment
        Which one it serves by; 0 where the settings name the bundle itself.
    """

    bundle: Bundle
    engine: Engine
    deployment: int = 0


@dataclass(frozen=True, slots=True)
class _Took:
    """What loading a version took, in bytes, and how large its files are."""

    name: str
    grown: int
    files: int


class Models:
    """Keeps what serves loaded, and hands it out.

    Parameters
    ----------
    worker
        Under which name this worker says how far it is.
    resident
        How many bytes this process has; replaced in tests.
    """

    def __init__(
        self,
        config: Config,
        worker: str,
        journal: Journal,
        repository: Repository,
        resident: Callable[[], int] = resident_bytes,
    ) -> None:
        self._config = config
        self._worker = worker
        self._deployments = journal.deployments
        self._repository = repository
        self._resident = resident
        self._took: dict[str, _Took] = {}
        self._standing: dict[str, list[Holding]] = {}
        self._told: list[Holding] = []
        self._told_s = self._tried_s = -float("inf")
        self._before: dict[str, list[Deployment]] = {}  # what served all, the last two
        self._making_room = threading.Lock()
        self._rounds = Rounds("models", self.look, _LOOK_S)

    # -- the thread ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Load what serves, and say so: before the first sign of life of this worker.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        if self._repository.versioned:
            self._go(self._open(asked=False))

    def start(self) -> None:
        """Look every second from now on."""
        if self._repository.versioned:
            self._rounds.start()

    def close(self) -> None:
        """Look no more, and end every engine; what is being loaded is not waited for."""
        self._rounds.stop(0)
        self._repository.close()

    def look(self) -> None:
        """Load what serves and what is asked for, say how far that is, let go what is not needed.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        self._go(self._open(asked=True))

    def _open(self, *, asked: bool) -> dict[str, list[Deployment]]:
        found: dict[str, list[Deployment]] = {name: [] for name in self._repository.versioned}
        for one in self._deployments.open():
            if one.name in found and (asked or one.state is DeploymentState.SERVING):
                found[one.name].append(one)
        return found

    def _go(self, open_now: dict[str, list[Deployment]]) -> None:
        for name, wanted in open_now.items():
            serving = [one for one in wanted if one.state is DeploymentState.SERVING]
            self._note_what_served(name, serving)
            self._forget_what_is_over(name, wanted)
            for one in serving:
                if self._state(one) is not HoldingState.READY and self._may_try_again(one):
                    self._bring(one)
            for one in wanted:
                if one not in serving and self._state(one) is None:
                    self._bring(one, beside=serving)
        self._repository.drop(self._kept(open_now), _IDLE_S)
        self._tell(decide=[n for n, wanted in open_now.items() if any(map(_is_asked, wanted))])

    def _bring(self, one: Deployment, beside: Sequence[Deployment] | None = None) -> None:
        """Load a version, and note how that went.

        Parameters
        ----------
        beside
            What serves meanwhile, where this one is only asked for; None: it has to be there.
        """
        self._tried_s = time.monotonic()
        if not self._repository.has(one.digest):
            self._set(one, HoldingState.LOADING)
            self._tell()
        try:
            if beside is None:
                self._load(one)
            else:
                self._load_beside(one, beside, patient=False)
        except Exception as exc:  # whatever a model does: it must not end what serves
            known = isinstance(exc, LimenError)
            text = str(exc) if known else f"it cannot be loaded: {type(exc).__name__} (see log)"
            if isinstance(exc, Delayed) and beside is not None:  # it is not tried again unasked
                text += f"; when that is over: limen model deploy {one.name} {one.version}"
            which = {"bundle": one.name, "version": one.version}
            log.error("model.failed", **which, error=exc, exc_info=not known)
            self._set(one, HoldingState.FAILED, text)
        else:
            self._set(one, HoldingState.READY)

    def _may_try_again(self, one: Deployment) -> bool:
        """A version that serves may come to this host yet, or its files be put right."""
        failed = self._state(one) is HoldingState.FAILED
        return not failed or time.monotonic() - self._tried_s >= _RETRY_S

    def _load(self, one: Deployment, *, patient: bool = True) -> None:
        """Load a version, and measure what it takes.

        Raises
        ------
        BundleError
            It must not be loaded.
        """
        if self._repository.has(one.digest):
            return
        folder, before = self._folder(one), self._resident()
        self._repository.load(folder, one.digest, patient=patient)
        grown = max(0, self._resident() - before)
        self._took[one.digest] = _Took(one.name, grown, versions.size_of(folder))

    def _load_beside(self, one: Deployment, beside: Iterable[Deployment], *, patient: bool) -> None:
        """Load a version where there is room for it beside what serves.

        Raises
        ------
        BundleError
            There is no room, or it must not be loaded.
        """
        with self._making_room:
            if self._repository.has(one.digest):
                return
            others = [digest for digest, took in self._took.items() if took.name != one.name]
            self._repository.drop([*others, *(d.digest for d in beside)], 0.0)
            self._refuse_without_room(one)
            self._load(one, patient=patient)
            self._refuse_when_too_large(one)

    def _refuse_without_room(self, one: Deployment) -> None:
        limit, has_bytes = self._config.worker.max_memory_bytes, self._resident()
        folder = self._folder(one)
        if not limit or not folder.is_dir():
            return
        size = versions.size_of(folder)
        alike = [took for took in self._took.values() if took.name == one.name and took.files]
        needs = max((took.grown * max(1, size / took.files) for took in alike), default=0)
        needs = needs or _TIMES_FILES * size
        if has_bytes + needs > limit:
            raise BundleError(
                f"{one.name} {one.version} needs about {_mib(needs)} MiB beside what is loaded, "
                f"and this worker has {_mib(has_bytes)} of {_mib(limit)} MiB "
                "(worker.max_memory_bytes): raise that, or run fewer slots"
            )

    def _refuse_when_too_large(self, one: Deployment) -> None:
        limit, now = self._config.worker.max_memory_bytes, self._resident()
        if limit and now > limit:
            self._repository.drop([d for d in self._took if d != one.digest], 0.0)
            raise BundleError(
                f"{one.name} {one.version} took {_mib(self._took[one.digest].grown)} MiB, and with "
                f"it this worker has {_mib(now)} of {_mib(limit)} MiB "
                "(worker.max_memory_bytes): raise that, or run fewer slots"
            )

    # -- what stays --------------------------------------------------------------------------

    def _note_what_served(self, name: str, serving: Iterable[Deployment]) -> None:
        known = self._before.setdefault(name, [])
        for one in serving:
            if not one.is_canary and one.id not in {k.id for k in known}:
                known.append(one)
        del known[:-2]

    def _kept(self, open_now: dict[str, list[Deployment]]) -> list[str]:
        """Return the digests of what stays: all that is open, or one that serves and its last."""
        kept = []
        for name, wanted in open_now.items():
            kept += [one.digest for one in wanted]
            if len({one.version for one in wanted}) == 1:
                kept += [one.digest for one in self._before[name]]
        return kept

    # -- what is said ------------------------------------------------------------------------

    def _state(self, one: Deployment) -> HoldingState | None:
        found = [h for h in self._standing.get(one.name, []) if h.deployment == one.id]
        return found[0].state if found else None

    def _set(self, one: Deployment, state: HoldingState, text: str = "") -> None:
        rest = [h for h in self._standing.get(one.name, []) if h.deployment not in {0, one.id}]
        said = Holding(self._worker, one.name, one.id, state, text)
        self._standing[one.name] = [*rest, said]

    def _forget_what_is_over(self, name: str, wanted: Iterable[Deployment]) -> None:
        numbers = {one.id for one in wanted}
        left = [h for h in self._standing.get(name, []) if h.deployment in numbers]
        self._standing[name] = left or [Holding(self._worker, name, 0, HoldingState.MISSING)]

    def _tell(self, decide: Iterable[str] = ()) -> None:
        """Say how far this worker is where that is new, or was said some time ago."""
        now = [one for name in sorted(self._standing) for one in self._standing[name]]
        if now != self._told or time.monotonic() - self._told_s >= _TELL_S:
            self._deployments.report(self._worker, now)
            self._told, self._told_s = now, time.monotonic()
            return
        for name in decide:
            self._deployments.decide(name)

    # -- what a study is looked at by ------------------------------------------------------------

    @contextmanager
    def for_study(self, bundle: str, study_key: str) -> Iterator[Chosen]:
        """Yield the model that looks at a study; nobody closes it until the end.

        Parameters
        ----------
        bundle
            What the route names.

        Raises
        ------
        Delayed
            No version of it is deployed, or this worker has not the one that is.
        """
        folder = self._repository.folder_of(bundle)
        if folder not in self._repository.versioned.values():
            with self._repository.using(self._repository.named[folder]) as (found, engine):
                yield Chosen(found, engine)
            return
        one = chosen(self._deployments.serving(folder.name), study_key)
        if one is None:
            raise Delayed(
                f"no version of {folder.name} is deployed: limen model deploy {folder.name} VERSION"
            )
        self._see_that_it_is_here(one)
        with self._repository.using(one.digest) as (found, engine):
            yield Chosen(found, engine, one.id)

    def _see_that_it_is_here(self, one: Deployment) -> None:
        """Wait while it is being loaded.

        Raises
        ------
        Delayed
            It is not to be had here now.
        """
        if self._repository.has(one.digest):
            return
        self._rounds.ring()
        failed = self._state(one) is HoldingState.FAILED
        if not failed and self._repository.wait_for(one.digest, _WAIT_S):
            return
        elsewhere = any(
            h.deployment == one.id and h.state is HoldingState.READY
            for h in self._deployments.standing().holdings
        )
        raise Delayed(
            f"{one.name} {one.version} serves, and this worker cannot run it; `limen status` says "
            "why",
            wait_s=_ELSEWHERE_S if elsewhere else None,
        )

    @contextmanager
    def that_made(self, result: Result) -> Iterator[tuple[Bundle, Engine]]:
        """Yield the model that a prediction came from; nobody closes it until the end.

        Raises
        ------
        NotAnalysable
            It is not configured any more; an explanation by another one would be untrue.
        Transient
            It is a version that cannot be loaded here now.
        """
        made_by = result.model
        one = None
        if made_by is not None and made_by.name in self._repository.versioned:
            known = self._deployments.all(made_by.name)
            one = next((d for d in known if d.version == made_by.version), None)
        if one is None:
            with self._repository.using(self._repository.maker_of(result)) as pair:
                yield pair
            return
        self._bring_back(one)
        with self._repository.using(one.digest) as (bundle, engine):
            if made_by is None or bundle.sha256 != made_by.sha256:
                raise NotAnalysable(f"{one.name} {one.version} had other weights then")
            yield bundle, engine

    def _bring_back(self, one: Deployment) -> None:
        serving = self._deployments.serving(one.name)
        try:
            self._load_beside(one, serving, patient=True)
        except BundleError as exc:
            raise Transient(f"the model that made the prediction is not here: {exc}") from exc

    def _folder(self, one: Deployment) -> Path:
        return self._repository.versioned[one.name] / one.version


def _is_asked(one: Deployment) -> bool:
    return one.state is DeploymentState.ASKED


def _mib(size: float) -> int:
    return int(size) >> 20
