"""An examination: checks side by side, each with a deadline, so that none holds it up."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from limen.doctor.check import Check, Finding, Node, Verdict, failed, skipped
from limen.errors import LimenError

__all__ = ["Examined", "examine"]

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Examined:
    """A check that was made.

    Attributes
    ----------
    seconds
        From its beginning, not counting what it waited for others.
    """

    check: Check
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def has_failed(self) -> bool:
        """Whether anything that it looked at does not work."""
        return any(f.verdict is Verdict.FAILED for f in self.findings)

    @property
    def says_nothing(self) -> bool:
        """Whether what builds on it cannot be looked at: it failed, or was skipped altogether."""
        return self.has_failed or all(f.verdict is Verdict.SKIPPED for f in self.findings)


def examine(
    node: Node, checks: Sequence[Check], on_done: Callable[[Examined], None] = lambda _: None
) -> list[Examined]:
    """Make all checks side by side.

    Parameters
    ----------
    checks
        Each after those that it needs.
    on_done
        Called with each as soon as it has ended, from this thread.

    Returns
    -------
    list
        In the order of ``checks``.
    """
    done: dict[str, Examined] = {}
    running: dict[str, _Look] = {}
    waiting = list(checks)
    while waiting or running:
        for check in list(waiting):
            if all(name in done for name in check.needs):
                waiting.remove(check)
                blind = [name for name in check.needs if done[name].says_nothing]
                if blind:
                    why = f"not looked at: {_and(blind)} comes first"
                    _end(done, Examined(check, (skipped(why),), 0.0), on_done)
                else:
                    running[check.name] = _Look(node, check)
        for name, look in list(running.items()):
            ended = look.ended()
            if ended is not None:
                del running[name]
                _end(done, ended, on_done)
        if running:
            next(iter(running.values())).wait(_POLL_S)
    return [done[check.name] for check in checks]


def _end(
    done: dict[str, Examined], examined: Examined, on_done: Callable[[Examined], None]
) -> None:
    done[examined.check.name] = examined
    on_done(examined)


def _and(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


class _Look:
    """One check in a thread of its own, which is left behind where it does not end."""

    def __init__(self, node: Node, check: Check) -> None:
        self._check = check
        self._began_s = time.monotonic()
        self._findings: tuple[Finding, ...] = ()
        self._over = threading.Event()
        threading.Thread(
            target=self._run, args=(node,), name=f"check {check.name}", daemon=True
        ).start()

    def wait(self, timeout_s: float) -> None:
        self._over.wait(timeout_s)

    def ended(self) -> Examined | None:
        """Return what was found, None while there is still time for it."""
        seconds = round(time.monotonic() - self._began_s, 2)
        if self._over.is_set():
            return Examined(self._check, self._findings, seconds)
        if seconds < self._check.timeout_s:
            return None
        late = failed(
            f"no answer within {self._check.timeout_s:g} s",
            "look whether this machine is overloaded, or a firewall swallows what is sent",
        )
        return Examined(self._check, (late,), seconds)

    def _run(self, node: Node) -> None:
        try:
            self._findings = tuple(self._check.run(node)) or (skipped("nothing to look at"),)
        except LimenError as exc:
            self._findings = (Finding(Verdict.FAILED, str(exc)),)
        except Exception as exc:  # the edge: a check that breaks must not hide the others
            frame = traceback.extract_tb(exc.__traceback__)[-1]
            where = f"{type(exc).__name__} at {Path(frame.filename).name}:{frame.lineno}"
            self._findings = (failed(f"unexpected fault ({where})", "please report it"),)
        finally:
            self._over.set()
