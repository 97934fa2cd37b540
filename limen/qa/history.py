"""What test studies came to, run after run: one file in the data folder of this host.

A file and not the journal, because it is about this host's receiver, and because who asks (``limen
status``, the metrics, an alarm) must get an answer while the journal is away. It holds no patient.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from limen.durable import beside, sync_folder, write_new
from limen.errors import LimenError

__all__ = ["Baseline", "History", "Run", "Verdict", "alone", "history_file"]

_KEPT: Final = 1000
"""Runs; their baselines stay beside them, however old."""


class Verdict(StrEnum):
    """What is said of a run."""

    OK = "ok"
    WARNING = "warning"
    """It came through, and something has moved: somebody should look."""
    FAILED = "failed"
    """It did not come through, or not with what it should say."""


class Baseline(StrEnum):
    """Whether others are compared with a run."""

    NO = ""
    FIRST = "first"
    """It was the first of its bundle."""
    ACCEPTED = "accepted"
    """A person said so (``limen qa --accept``)."""


class Run(BaseModel):
    """One test study, and what was said of it.

    Attributes
    ----------
    at
        When the call of ``limen qa`` began that sent it; the same for all of that call.
    head, pixels_sha256
        What it shows.
    bundle, bundle_version, bundle_sha256
        What looked at it; empty where nothing did.
    outcome
        Empty where it did not come through; then nothing else is known of it.
    latency_s
        From its last image to the arrival of its prediction.
    latency_limit_s
        Above that it is slow; None for a run that had nothing to be compared with.
    next
        What to do about it; "" where that is nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    head: str
    verdict: Verdict
    text: str
    next: str = ""
    baseline: Baseline = Baseline.NO
    pixels_sha256: str = ""
    bundle: str = ""
    bundle_version: str = ""
    bundle_sha256: str = ""
    outcome: str = ""
    probability: float | None = None
    latency_s: float | None = None
    latency_limit_s: float | None = None
    slow: bool = False

    def is_comparable_with(self, other: Run) -> bool:
        """Return whether both are of the same pixels, and the same version and weights."""
        return self._what() == other._what()

    def _what(self) -> tuple[str, ...]:
        return (self.head, self.pixels_sha256, self.bundle_version, self.bundle_sha256)


class _File(BaseModel):
    """What is in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_number: int = 1
    runs: tuple[Run, ...] = ()


class History:
    """Runs, the oldest first."""

    def __init__(self, runs: Sequence[Run] = ()) -> None:
        self.runs = tuple(runs)

    @classmethod
    def read(cls, data_dir: Path) -> History:
        """Read what there is; nothing where there is no file.

        Raises
        ------
        LimenError
            The file cannot be read.
        """
        path = history_file(data_dir)
        try:
            return cls(_File.model_validate_json(path.read_bytes()).runs)
        except FileNotFoundError:
            return cls()
        except OSError as exc:
            raise LimenError(
                f"{path} cannot be read ({exc.strerror}); run this as the account that Limen runs "
                "as, and give that account the file (chown)"
            ) from exc
        except ValidationError as exc:
            raise LimenError(
                f"{path} is no history of test studies; move it away: the next `limen qa` begins "
                "another"
            ) from exc

    @property
    def last(self) -> dict[str, Run]:
        """The last run of each head."""
        return {run.head: run for run in self.runs}

    @property
    def last_success(self) -> datetime | None:
        """When the last call began of which no test study failed; None: none did."""
        failed = {run.at for run in self.runs if run.verdict is Verdict.FAILED}
        return max((run.at for run in self.runs if run.at not in failed), default=None)

    def baseline(self, run: Run) -> Run | None:
        """Return what a run is compared with; None: nothing yet."""
        found = [one for one in self.runs if one.baseline and one.is_comparable_with(run)]
        return found[-1] if found else None

    def latencies_s(self, run: Run, count: int) -> list[float]:
        """Return the latencies of the last runs since the baseline that came through in time.

        A slow one is left out: it stays slow until it is not, or until somebody accepts it.
        """
        alike = [one for one in self.runs if one.is_comparable_with(run)]
        since = max((n for n, one in enumerate(alike) if one.baseline), default=0)
        found = [
            one.latency_s
            for one in alike[since:]
            if one.latency_s is not None and not one.slow and one.verdict is not Verdict.FAILED
        ]
        return found[-count:]

    def write(self, data_dir: Path) -> None:
        """Put it on the disk: who reads finds the old one or the whole new one.

        Raises
        ------
        LimenError
            It cannot be written.
        """
        path = history_file(data_dir)
        kept = [
            run
            for n, run in enumerate(self.runs)
            if n >= len(self.runs) - _KEPT or (run.baseline and self.baseline(run) is run)
        ]
        try:
            with beside(path) as part:
                write_new(part, [_File(runs=tuple(kept)).model_dump_json(indent=1).encode()])
            sync_folder(path.parent)
        except OSError as exc:
            raise LimenError(
                f"{path} cannot be written ({exc.strerror}); see `limen doctor disk`"
            ) from exc


def history_file(data_dir: Path) -> Path:
    """Return where the history of a host is."""
    return data_dir / "qa-history.json"


@contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """Let one call of ``limen qa`` run at a time on this host.

    Raises
    ------
    LimenError
        Another one runs, or the data folder is not there.
    """
    try:
        folder = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise LimenError(
            f"there is no folder {data_dir} that this account may enter ({exc.strerror}); start "
            "Limen there (`limen up`), or name its settings with --config"
        ) from exc
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise LimenError("another `limen qa` runs on this host; wait until it ends") from exc
        yield
    finally:
        os.close(folder)
