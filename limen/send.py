"""``limen send`` and ``limen echo``: C-STORE and C-ECHO as SCU, with pynetdicom."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from limen.errors import LimenError, Unreachable

__all__ = ["Peer", "Refused", "Report", "echo", "files_of", "send"]

# Send the bytes of a file as they are, without decoding the data set.
_config.STORE_SEND_CHUNKED_DATASET = True

_MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: presentation context ids are odd and below 256
_PEER = re.compile(r"(?P<aet>[ -\[\]-~]{1,16})@(?P<host>[^@:\s]+|\[[0-9a-f:]+\]):(?P<port>\d{1,5})")


class Refused(LimenError):
    """The peer rejected or aborted the association (exit code 4)."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom to call: AE title, host and port."""

    ae_title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Read ``AET@host:port``.

        Raises
        ------
        ValueError
            It is written differently.
        """
        match = _PEER.fullmatch(text)
        named = match is not None and match["aet"].strip()
        if match is None or not named or not 0 < int(match["port"]) < 65536:
            raise ValueError(f"{text!r} is not AET@host:port, for instance LIMEN@127.0.0.1:11112")
        return cls(match["aet"].strip(), match["host"].strip("[]"), int(match["port"]))


@dataclass(slots=True)
class Report:
    """What became of the files: counts by status, and what was not even a DICOM file."""

    sent: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    skipped: list[Path] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Item:
    path: Path
    sop_class: str
    syntax: str


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files of ``paths``; folders are walked, in order."""
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file())
        else:
            yield path


def echo(peer: Peer, calling: str, timeout_s: float = 10.0) -> None:
    """Verify a peer with C-ECHO.

    Raises
    ------
    Refused
        It rejected us, or did not answer with Success.
    Unreachable
        Nobody listens there.
    """
    association = _associate(peer, calling, [(str(Verification), "1.2.840.10008.1.2")], timeout_s)
    try:
        status = association.send_c_echo()
        if status is None or "Status" not in status or status.Status != 0:
            raise Refused(f"{peer.ae_title} did not answer C-ECHO with Success")
    finally:
        _hang_up(association)


def send(
    paths: Iterable[Path],
    peer: Peer,
    calling: str,
    timeout_s: float = 30.0,
    on_file: Callable[[Path], None] = lambda path: None,
) -> Report:
    """Send files by C-STORE, their bytes as they are.

    Raises
    ------
    Refused
        The peer rejected the association.
    Unreachable
        Nobody listens there.
    """
    report = Report()
    items = list(_items(paths, report))
    wanted = sorted({(i.sop_class, i.syntax) for i in items})
    for start in range(0, len(wanted), _MAX_CONTEXTS):
        contexts = wanted[start : start + _MAX_CONTEXTS]
        batch = [i for i in items if (i.sop_class, i.syntax) in set(contexts)]
        _send_batch(batch, contexts, peer, calling, timeout_s, report, on_file)
    return report


def _items(paths: Iterable[Path], report: Report) -> Iterator[_Item]:
    for path in paths:
        try:
            meta = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
            yield _Item(path, str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
        except (Exception, RecursionError):  # not a DICOM file, or one that only looks like it
            report.skipped.append(path)


def _send_batch(
    batch: list[_Item],
    contexts: list[tuple[str, str]],
    peer: Peer,
    calling: str,
    timeout_s: float,
    report: Report,
    on_file: Callable[[Path], None],
) -> None:
    association = _associate(peer, calling, contexts, timeout_s)
    try:
        for item in batch:
            status = _store(association, item)
            report.statuses[status] += 1
            if status == "0x0000":
                report.sent += 1
            else:
                report.failed[item.path] = status
            on_file(item.path)
    finally:
        _hang_up(association)


def _hang_up(association: Association) -> None:
    """Release, and close the socket: pynetdicom leaves it open when the peer died."""
    if association.is_established:
        association.release()
    wrapper = association.dul.socket
    if wrapper is not None and wrapper.socket is not None:
        wrapper.socket.close()


def _store(association: Association, item: _Item) -> str:
    if not association.is_established:
        return "association lost"
    try:
        status = association.send_c_store(item.path)
    except ValueError:  # no accepted presentation context for this file
        return "presentation context refused"
    except (OSError, AttributeError, RuntimeError) as exc:
        return f"not sent ({type(exc).__name__})"
    return f"0x{status.Status:04X}" if "Status" in status else "no answer"


def _associate(
    peer: Peer, calling: str, contexts: list[tuple[str, str]], timeout_s: float
) -> Association:
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
    ae.connection_timeout = timeout_s
    wanted = [build_context(UID(sop), UID(syntax)) for sop, syntax in contexts]
    where = f"{peer.ae_title} at {peer.host}:{peer.port}"
    try:
        association = ae.associate(peer.host, peer.port, contexts=wanted, ae_title=peer.ae_title)
    except OSError as exc:  # pynetdicom catches those of the connection, not that of the name
        raise Unreachable(f"{where}: the host has no address ({exc.strerror})") from exc
    if association.is_established:
        return association
    if association.is_rejected:
        raise Refused(
            f"{where} rejected {calling}; check the called AE title, and that the peer lists "
            f"{calling} with this address"
        )
    if association.requestor.primitive is not None and association.acceptor.primitive is not None:
        raise Refused(f"{where} accepted none of the proposed presentation contexts")
    raise Unreachable(f"{where} does not answer; check host, port and firewall (nothing was sent)")
