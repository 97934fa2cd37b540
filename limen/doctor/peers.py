"""DICOM peers: our own receiver, the PACS that results go to, the devices that may send."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from limen.config import PacsDestination
from limen.config import Peer as Sender
from limen.doctor.certificates import judge, of_peer
from limen.doctor.check import Finding, Node, failed, ok, skipped, warning
from limen.errors import LimenError
from limen.scu import COMMITMENT, EXPLICIT, IMPLICIT, Peer, Refused, Requestor, Tls, echo
from limen.selftest import AE_TITLE

__all__ = ["OBJECT_CLASSES", "our_receiver", "pacs", "receiver", "senders"]

OBJECT_CLASSES = {
    "sr": "1.2.840.10008.5.1.4.1.1.88.34",
    "seg": "1.2.840.10008.5.1.4.1.1.66.4",
    "sc": "1.2.840.10008.5.1.4.1.1.7",
    "ko": "1.2.840.10008.5.1.4.1.1.88.59",
    "pm": "1.2.840.10008.5.1.4.1.1.30",
    "pr": "1.2.840.10008.5.1.4.1.1.11.1",
}
"""Kind of object, as the settings name it -> its SOP class (PS3.4 B.5)."""

LISTED = f'[[scp.peer]] ae_title = "{AE_TITLE}", address = "127.0.0.1"'
"""What lets this node send to itself where senders are listed."""

_VERIFICATION = "1.2.840.10008.1.1"
_TIMEOUT_S = 5.0
_NAMES = {EXPLICIT: "explicit", IMPLICIT: "implicit"}
_AT_ONCE = 16
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


def our_receiver(node: Node) -> Peer:
    """Return where the receiver of this node is reached from this host."""
    scp = node.settings.scp
    return Peer(scp.ae_title, _EVERYWHERE.get(scp.host, scp.host), scp.port)


def receiver(node: Node) -> Iterator[Finding]:
    """Ask our own receiver for C-ECHO."""
    peer = our_receiver(node)
    try:
        seconds = echo(peer, AE_TITLE, _TIMEOUT_S)
    except Refused as exc:
        if "calling ae" not in str(exc).lower():
            raise
        yield warning(
            f"{peer} listens, and lets in listed senders alone: this node cannot test itself",
            f"list its own title: {LISTED}",
        )
    except LimenError as exc:
        yield failed(str(exc), "start the receiver: `limen scp`, or `limen up`")
    else:
        yield ok(f"{peer} answers C-ECHO ({seconds * 1e3:.0f} ms)")


def pacs(node: Node) -> Iterator[Finding]:
    """Ask each PACS for C-ECHO and for what we would send; look whether it can report to us."""
    entries = node.settings.destination.pacs
    if not entries:
        yield skipped("no [[destination.pacs]] is configured")
        return
    try:
        with node.journal() as journal:
            seen = journal.status.last_received()
    except LimenError:
        seen = {}
    yield from _side_by_side([lambda e=entry: _pacs(node, e, seen) for entry in entries])  # type: ignore[misc]


def senders(node: Node) -> Iterator[Finding]:
    """Say when each sender sent last; ask those that listen for C-ECHO."""
    listed = [peer for peer in node.settings.scp.peer if peer.ae_title != AE_TITLE]
    if not listed:
        yield skipped("no [[scp.peer]] is configured")
        return
    with node.journal() as journal:
        seen = journal.status.last_received()
    yield from _side_by_side([lambda p=peer: _sender(node, p, seen) for peer in listed])  # type: ignore[misc]


def _side_by_side(looks: Sequence[Callable[[], Iterable[Finding]]]) -> Iterator[Finding]:
    with ThreadPoolExecutor(min(_AT_ONCE, len(looks))) as pool:
        for found in pool.map(lambda look: list(look()), looks):
            yield from found


def _pacs(node: Node, entry: PacsDestination, seen: dict[str, datetime]) -> Iterator[Finding]:
    peer = Peer(entry.ae_title, entry.host, entry.port)
    calling = entry.calling_ae_title or node.settings.scp.ae_title
    timeout_s = min(entry.timeout_s, _TIMEOUT_S)
    tls = Tls(entry.ca_file, entry.certificate_file, entry.key_file) if entry.tls else None
    classes = [*(OBJECT_CLASSES[kind] for kind in entry.objects), COMMITMENT]
    contexts = [(uid, syntax) for uid in classes for syntax in (EXPLICIT, IMPLICIT)]
    contexts.append((_VERIFICATION, IMPLICIT))
    try:
        with Requestor(peer, calling, contexts, timeout_s, tls) as line:
            answers = bool(line.accepted(_VERIFICATION)) and line.echo()
            taken = {uid: line.accepted(uid) for uid in classes}
    except LimenError as exc:
        yield failed(f"{entry.name}: {exc}", "")
        return
    if not answers:
        yield failed(
            f"{entry.name}: {peer} does not answer C-ECHO with Success",
            "look at the log of the PACS; is its AE title up?",
        )
        return
    yield from _negotiated(entry, peer, taken)
    yield from _reports(node, entry, calling, takes=bool(taken[COMMITMENT]), seen=seen)
    if tls is not None:
        ends = of_peer(entry.host, entry.port, tls.context(), timeout_s)
        yield judge(f"{entry.name}: the certificate of the PACS", ends)


def _negotiated(
    entry: PacsDestination, peer: Peer, taken: dict[str, frozenset[str]]
) -> Iterator[Finding]:
    kinds = {kind: taken[OBJECT_CLASSES[kind]] for kind in entry.objects}
    shown = ", ".join(
        f"{kind} ({', '.join(sorted(_NAMES[s] for s in syntaxes))})"
        for kind, syntaxes in kinds.items()
        if syntaxes
    )
    yield ok(f"{entry.name}: {peer} answers C-ECHO and takes {shown or 'none of our objects'}")
    left = [kind for kind, syntaxes in kinds.items() if not syntaxes]
    if len(left) == len(kinds):
        yield failed(
            f"{entry.name}: it takes none of the objects that it is to be sent",
            "let it take them, or set objects of this [[destination.pacs]] to what it takes",
        )
    elif left:
        yield warning(
            f"{entry.name}: it does not take {', '.join(left)}",
            "let it take them, or leave them out of objects of this [[destination.pacs]]",
        )


def _reports(
    node: Node,
    entry: PacsDestination,
    calling: str,
    *,
    takes: bool,
    seen: dict[str, datetime],
) -> Iterator[Finding]:
    """Look whether the PACS can vouch for what it was sent, also when it calls us for that."""
    if entry.commitment == "off":
        return
    if not takes:
        text = f"{entry.name}: it offers no storage commitment"
        if entry.commitment == "required":
            yield failed(text, 'let it, or set commitment = "ask": it is then taken at its word')
        else:
            yield ok(f"{text}; it is taken at its word")
        return
    scp = node.settings.scp
    if calling != scp.ae_title:
        yield warning(
            f"{entry.name}: we call it as {calling}, and our receiver is {scp.ae_title}: a report "
            "of storage commitment that it calls for does not find us",
            "leave calling_ae_title out, or let the PACS send reports to our receiver's title",
        )
    if scp.allow_any_peer or any(peer.ae_title == entry.ae_title for peer in scp.peer):
        last = seen.get(entry.ae_title)
        when = (
            f"its last instance came on {last:%Y-%m-%d %H:%M} UTC"
            if last
            else "no instance came from it lately"
        )
        yield ok(f"{entry.name}: it may call our receiver; {when}")
    elif not _is_loopback(entry.host):
        yield warning(
            f"{entry.name}: our receiver does not let it in: a report of storage commitment comes "
            "only while we hold the association open",
            f'list it: [[scp.peer]] ae_title = "{entry.ae_title}", address = its address',
        )


def _sender(node: Node, sender: Sender, seen: dict[str, datetime]) -> Iterator[Finding]:
    last = seen.get(sender.ae_title)
    when = f"sent last on {last:%Y-%m-%d %H:%M} UTC" if last else "has sent nothing lately"
    network = ipaddress.ip_network(sender.address, strict=False)
    if sender.port is None or network.num_addresses > 1:
        yield ok(f"{sender.ae_title}: {when}")
        return
    peer = Peer(sender.ae_title, str(network.network_address), sender.port)
    try:
        echo(peer, node.settings.scp.ae_title, _TIMEOUT_S)
    except LimenError as exc:
        yield warning(f"{when}; {exc}", "reports of storage commitment cannot be sent to it")
    else:
        yield ok(f"{peer} answers C-ECHO; it {when}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
