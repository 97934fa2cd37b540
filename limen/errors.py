"""The error tree. The one bit a retry needs is which branch an error is on.

::

    LimenError                 what went wrong, why, and the next step
      +-- ConfigError          the settings cannot be used            (exit code 2)
      +-- Transient            the same call may work later: try again, with back-off
      |     +-- Busy           a bounded queue or a lane is full
      |     +-- Delayed        what the work needs is away: no attempt is counted
      |     +-- OutOfSpace     the disk is full or failed             (C-STORE 0xA700)
      |     +-- Unreachable    broker, journal, web server, bucket or PACS does not answer
      |           +-- Unwelcome    a PACS rejects us: it is asked again when a person says so
      |           +-- JournalAway  the journal: no work is to blame
      +-- Permanent            the same call will never work: stop, keep the reason
            +-- Rejected       a destination refused the result
            +-- Unreadable     an instance that cannot be parsed or decoded
            +-- NotAnalysable  a study with nothing the model can look at
            +-- BundleError    a model bundle that must not be loaded
            +-- EngineError    the model failed on this item or is gone
            +-- JournalError   the journal refuses a statement: another version, or a fault of ours
            |     +-- NewerJournal  a newer Limen has written it            (exit code 2)
            |     +-- LostJournal   it is damaged, or empty beside what was received
            |     +-- AnotherSpool  whoever writes it too keeps its instances elsewhere
            +-- IllegalTransition  a state change that limen.states does not allow
"""

from __future__ import annotations

__all__ = [
    "AnotherSpool",
    "BundleError",
    "Busy",
    "ConfigError",
    "Delayed",
    "EngineError",
    "IllegalTransition",
    "JournalAway",
    "JournalError",
    "LimenError",
    "LostJournal",
    "NewerJournal",
    "NotAnalysable",
    "OutOfSpace",
    "Permanent",
    "Rejected",
    "Transient",
    "Unreachable",
    "Unreadable",
    "Unwelcome",
]


class LimenError(Exception):
    """Base of every error that Limen raises on purpose.

    Its text is shown to people and kept in the journal: it names keys, hosts
    of peers and files of the installation, never anything a patient is known by.

    Attributes
    ----------
    exit_code
        What a command that it ends returns (``limen.command.edge``).
    """

    exit_code = 1


class ConfigError(LimenError):
    """The settings cannot be used; the text lists every fault at once."""

    exit_code = 2


class Transient(LimenError):
    """The same call may work later."""


class Busy(Transient):
    """A bounded queue or a lane is full."""


class Delayed(Transient):
    """What a piece of work needs cannot be had now; neither it nor where it goes is at fault.

    Attributes
    ----------
    wait_s
        After how many seconds it may be there; None: nobody knows.
    """

    def __init__(self, text: str = "", wait_s: float | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class OutOfSpace(Transient):
    """No space is left under the watermark, or the disk failed."""


class Unreachable(Transient):
    """A service does not answer, or not in time.

    Attributes
    ----------
    wait_s
        How long it asks not to be called again, in seconds; 0: it does not say.
    """

    def __init__(self, text: str = "", wait_s: float = 0.0) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class Unwelcome(Unreachable):
    """A destination rejects this node: nothing is sent there until a person says so."""


class JournalAway(Unreachable):
    """The journal does not answer: whoever asks waits for it, and no work is to blame."""


class Permanent(LimenError):
    """The same call will never work."""


class Rejected(Permanent):
    """A destination refused the result for good."""


class Unreadable(Permanent):
    """An instance cannot be parsed or decoded within its limits."""


class NotAnalysable(Permanent):
    """A study holds nothing that the model can look at; the text is the reason."""


class BundleError(Permanent):
    """A model bundle is incomplete, altered, or does not do what it says."""


class JournalError(Permanent):
    """The journal refuses a statement: its tables are of another version, or Limen is at fault."""


class NewerJournal(JournalError):
    """The tables of the journal are of a newer Limen than this one."""

    exit_code = 2


class LostJournal(JournalError):
    """The journal is damaged, or does not know what lies beside it: it has to be rebuilt."""


class AnotherSpool(JournalError):
    """The journal is shared with a receiver that keeps its instances where we cannot see them."""


class EngineError(Permanent):
    """The model failed on one item, or is gone."""


class IllegalTransition(Permanent):
    """A state change that the tables in ``limen.states`` do not allow."""
