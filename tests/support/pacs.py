"""A PACS that does what a test tells it, on a loopback port; and objects to send there."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import BaseServer

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from pynetdicom.transport import ThreadedAssociationServer

from limen.scu import EXPLICIT, IMPLICIT, Peer
from worker.destinations import DicomObject

__all__ = ["CLASSES", "Pacs", "Said", "dicom_object", "pacs", "report_of_pairs", "tell"]

CLASSES = {
    "sr": "1.2.840.10008.5.1.4.1.1.88.34",
    "seg": "1.2.840.10008.5.1.4.1.1.66.4",
    "sc": "1.2.840.10008.5.1.4.1.1.7",
    "ko": "1.2.840.10008.5.1.4.1.1.88.59",
    "pm": "1.2.840.10008.5.1.4.1.1.30",
    "pr": "1.2.840.10008.5.1.4.1.1.11.1",
}
_COMMITMENT = str(StorageCommitmentPushModel)
_STOP_S = 10.0
_STOPS_WITHIN_S = 0.02  # pynetdicom itself looks twice a second


@dataclass
class Said:
    """What the PACS answers; changed by a test at any time.

    Attributes
    ----------
    statuses
        SOP class -> status of C-STORE; Success for every other.
    aborts
        SOP classes on which it aborts instead.
    stalls
        When set, it answers no C-STORE until this is set.
    keeps
        Whether it vouches for an instance.
    reports
        Whether it reports at all; ``reports_to``: on another association, to this address.
    """

    statuses: dict[str, int] = field(default_factory=dict)
    aborts: set[str] = field(default_factory=set)
    stalls: threading.Event | None = None
    comment: str = ""
    asked: int = 0x0000
    keeps: Callable[[str], bool] = lambda _: True
    reason: int = 0x0112
    reports: bool = True
    reports_to: Peer | None = None


@dataclass
class Pacs:
    """What reached it.

    Attributes
    ----------
    stored
        SOP Instance UID -> data sets, each time that it came and was taken.
    offered
        SOP classes, one set for each association.
    """

    peer: Peer
    said: Said
    ae: AE
    stored: dict[str, list[Dataset]] = field(default_factory=dict)
    offered: list[set[str]] = field(default_factory=list)
    came: list[str] = field(default_factory=list)
    asked: list[tuple[str, list[str]]] = field(default_factory=list)


@contextmanager
def pacs(
    said: Said | None = None,
    *,
    port: int = 0,
    ae_title: str = "PACS",
    callers: tuple[str, ...] = (),
    classes: Mapping[str, str] = CLASSES,
    commitment: bool = True,
    syntaxes: tuple[str, ...] = (EXPLICIT, IMPLICIT),
    tls: ssl.SSLContext | None = None,
) -> Iterator[Pacs]:
    """Run it.

    Parameters
    ----------
    callers
        Whom it lets in; empty: everybody.
    classes
        Kind -> SOP class that it takes.
    """
    said = said or Said()
    ae = AE(ae_title=ae_title)
    ae.require_called_aet = True
    ae.require_calling_aet = list(callers)
    for sop_class in classes.values():
        ae.add_supported_context(sop_class, list(syntaxes))
    if commitment:
        ae.add_supported_context(_COMMITMENT, list(syntaxes))
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def on_open(event: evt.Event) -> None:
        sockets.append(event.assoc.dul.socket.socket)

    def on_request(event: evt.Event) -> None:
        contexts = event.assoc.requestor.requested_contexts
        found.offered.append({str(c.abstract_syntax) for c in contexts})

    def on_store(event: evt.Event) -> int | Dataset:
        sop_class = str(event.request.AffectedSOPClassUID)
        found.came.append(sop_class)
        if said.stalls is not None:
            said.stalls.wait(_STOP_S)
        if sop_class in said.aborts:
            event.assoc.abort()
            return 0xC000
        status = said.statuses.get(sop_class, 0x0000)
        if status == 0 or status & 0xF000 == 0xB000:  # noqa: PLR2004 - a warning is stored
            uid = str(event.request.AffectedSOPInstanceUID)
            found.stored.setdefault(uid, []).append(event.dataset)
        if said.comment:
            answer = Dataset()
            answer.Status, answer.ErrorComment = status, said.comment
            return answer
        return status

    def on_ask(event: evt.Event) -> tuple[int, None]:
        asked = event.action_information
        pairs = [
            (str(i.ReferencedSOPClassUID), str(i.ReferencedSOPInstanceUID))
            for i in asked.ReferencedSOPSequence
        ]
        found.asked.append((str(asked.TransactionUID), [uid for _, uid in pairs]))
        if said.asked == 0 and said.reports:
            report = report_of_pairs(str(asked.TransactionUID), pairs, said.keeps, said.reason)
            tell = _tell_here if said.reports_to is None else _tell_there
            thread = threading.Thread(target=tell, args=(event, report, said, ae_title))
            threads.append(thread)
            thread.start()
        return said.asked, None

    server = ae.make_server(
        ("127.0.0.1", port),
        server_class=ThreadedAssociationServer,
        ssl_context=tls,
        evt_handlers=[
            (evt.EVT_CONN_OPEN, on_open),
            (evt.EVT_REQUESTED, on_request),
            (evt.EVT_C_STORE, on_store),
            (evt.EVT_N_ACTION, on_ask),
        ],
    )
    found = Pacs(Peer(ae_title, "127.0.0.1", server.server_address[1]), said, ae)
    serving = threading.Thread(target=server.serve_forever, args=(_STOPS_WITHIN_S,))
    serving.start()
    try:
        yield found
    finally:
        BaseServer.shutdown(server)  # its own counts on its own thread
        server.server_close()
        serving.join(_STOP_S)
        for thread in threads:
            thread.join(_STOP_S)
        for sock in sockets:  # pynetdicom leaves one open whose peer hung up
            sock.close()


def report_of_pairs(
    transaction: str,
    pairs: list[tuple[str, str]],
    keeps: Callable[[str], bool],
    reason: int = 0x0112,
) -> Dataset:
    """Return the data set of a report on pairs of SOP class and instance."""
    report = Dataset()
    report.TransactionUID = transaction
    report.ReferencedSOPSequence = [_item(*pair) for pair in pairs if keeps(pair[1])]
    report.FailedSOPSequence = [_item(*pair, reason=reason) for pair in pairs if not keeps(pair[1])]
    return report


def _item(sop_class: str, uid: str, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    if reason is not None:
        item.FailureReason = reason
    return item


def _tell_here(event: evt.Event, report: Dataset, _: Said, __: str) -> None:
    event.assoc.send_n_event_report(
        report, _type(report), StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )


def _tell_there(_: evt.Event, report: Dataset, said: Said, ae_title: str) -> None:
    assert said.reports_to is not None
    tell(said.reports_to, report, ae_title)


def tell(there: Peer, report: Dataset, ae_title: str = "PACS", event_type: int = 0) -> int | None:
    """Report on an association of its own, in the role of the SCP; return the status."""
    ae = AE(ae_title=ae_title)
    ae.add_requested_context(_COMMITMENT)
    role = build_role(_COMMITMENT, scp_role=True)
    association = ae.associate(there.host, there.port, ae_title=there.ae_title, ext_neg=[role])
    try:
        assert association.is_established
        status, _ = association.send_n_event_report(
            report,
            event_type or _type(report),
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
        return int(status.Status) if "Status" in status else None
    finally:
        association.release()


def _type(report: Dataset) -> int:
    return 2 if report.get("FailedSOPSequence") else 1


def dicom_object(kind: str, folder: Path, study_uid: str = "1.2.3") -> DicomObject:
    """Write a small object of a kind."""
    ds = Dataset()
    ds.SOPClassUID = UID(CLASSES[kind])
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, generate_uid()
    ds.PatientID, ds.PatientName = "P1", "Doe^Jane"
    ds.Modality = {"sc": "OT", "pm": "OT"}.get(kind, kind.upper())
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    path = folder / f"{kind}-{ds.SOPInstanceUID}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return DicomObject(kind, ds.SOPClassUID, ds.SOPInstanceUID, path)
