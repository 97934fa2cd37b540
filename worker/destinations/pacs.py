"""A PACS by DIMSE: one association for each study, with the contexts of what is sent (PS3.4 B)."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

from limen.errors import ConfigError, Unreachable, Unwelcome
from limen.instance import CommitmentReport
from limen.scu import (
    COMMITMENT,
    EXPLICIT,
    IMPLICIT,
    NOT_ACCEPTED,
    Answer,
    NothingAccepted,
    Peer,
    Refused,
    Requestor,
    Tls,
)
from worker.destinations import DicomObject

__all__ = ["PacsWay"]


class PacsWay:
    """The way to a PACS by C-STORE.

    Parameters
    ----------
    name
        What people call it.
    calling
        As whom we call.
    timeout_s
        For the connection, for each answer, and for the PACS to take a PDU.
    """

    def __init__(
        self, name: str, peer: Peer, calling: str, timeout_s: float, tls: Tls | None = None
    ) -> None:
        self._name = name
        self._peer = peer
        self._calling = calling
        self._timeout_s = timeout_s
        self._tls = tls

    @contextmanager
    def open(self, sop_classes: Collection[str], *, ask: bool) -> Iterator[PacsLine]:
        """Open an association. See ``Way``."""
        classes = [*sorted(sop_classes), *([COMMITMENT] if ask else [])]
        # What every peer has to take is proposed beside what the objects are in (PS3.5 10.1).
        contexts = [(sop, syntax) for sop in classes for syntax in (EXPLICIT, IMPLICIT)]
        try:
            requestor = Requestor(self._peer, self._calling, contexts, self._timeout_s, self._tls)
        except NothingAccepted:
            raise
        except Refused as exc:
            if exc.transient:
                raise Unreachable(str(exc)) from exc
            raise Unwelcome(f"{exc}; then `limen retry {self._name}`") from exc
        except ConfigError as exc:
            raise Unreachable(f"{exc}; put [[destination.pacs]] {self._name} right") from exc
        with requestor:
            yield PacsLine(requestor)


class PacsLine:
    """An open association."""

    def __init__(self, requestor: Requestor) -> None:
        self._requestor = requestor

    @property
    def is_open(self) -> bool:
        """Whether the PACS has not hung up."""
        return self._requestor.is_open

    def store(self, one: DicomObject) -> Answer:
        """Send an object as it is, or in implicit VR to a PACS that takes no other."""
        accepted = self._requestor.accepted(one.sop_class_uid)
        assert one.path is not None  # noqa: S101 - what must not leave has none
        if EXPLICIT in accepted or not self._requestor.is_open:
            return self._requestor.store(one.path)
        if IMPLICIT not in accepted:
            return NOT_ACCEPTED
        with tempfile.TemporaryDirectory(prefix="limen-") as folder:
            path = Path(folder) / "object.dcm"
            _write_implicit(one.path, path)
            return self._requestor.store(path)

    def ask_commitment(self, transaction_uid: str, objects: Sequence[tuple[str, str]]) -> Answer:
        """Ask the PACS to vouch for objects."""
        return self._requestor.ask_commitment(transaction_uid, objects)

    def report(self, timeout_s: float) -> CommitmentReport | None:
        """Wait for what it says to that on this association."""
        return self._requestor.report(timeout_s)


def _write_implicit(source: Path, target: Path) -> None:
    dataset = dcmread(source)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(target, implicit_vr=True, little_endian=True, enforce_file_format=True)
