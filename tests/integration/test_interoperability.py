"""Senders that others wrote, against our receiver: every one gets Success, every byte is kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from limen.command.send import Peer, Tls, echo, send
from tests.support.node import until
from tests.support.orthanc import Orthanc
from tests.support.ports import free_ports
from tests.support.samples import data_set, encode, write_file
from tests.support.services import program, require_service
from tests.support.siege import Receiver
from tests.support.wire import (
    CT,
    EXPLICIT,
    IMPLICIT,
    RELEASE,
    VERIFICATION,
    Context,
    RawPeer,
    Response,
    associate,
    echo_rq,
    message,
    p_data,
    store_rq,
    user_information,
    value,
)

DCMJS = Path(__file__).parent / "dcmjs"
ROOT = "1.2.826.0.1.3680043.10.88"
MIB = 1 << 20
_studies = iter(range(1, 1_000_000))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificates(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and certificate and key of the receiver and of a sender."""
    folder = tmp_path_factory.mktemp("certificates")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("127.0.0.1", "sender.example.org"):
        issued = authority.issue_cert(name)
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
    return folder


@pytest.fixture(scope="module")
def orthanc_port() -> int:
    """Where Orthanc will listen for DICOM."""
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def receiver(
    certificates: Path, orthanc_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Receiver]:
    """A receiver with a TLS port that wants to know who calls."""
    (tls_port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("receiver")
    (folder / "config.toml").write_text(
        f'[[scp.peer]]\nae_title = "ORTHANC"\naddress = "127.0.0.1"\nport = {orthanc_port}\n'
    )
    with Receiver(
        folder,
        folder / "config.toml",
        allow_any_peer=True,
        max_associations_per_address=64,
        max_pdu_bytes=MIB,
        max_instance_bytes=3 << 30,
        tls__port=tls_port,
        tls__certificate_file=certificates / "127.0.0.1.crt",
        tls__key_file=certificates / "127.0.0.1.key",
        tls__ca_file=certificates / "ca.pem",
        tls__client_certificate="required",
    ) as receiver:
        yield receiver


def new_study(folder: Path, count: int = 3, size_bytes: int = 2000) -> dict[str, bytes]:
    """Write a study of ``count`` instances; return their data sets by SOP Instance UID."""
    study = f"{ROOT}.{os.getpid()}.{next(_studies)}"
    sent = {}
    for n in range(count):
        ds = data_set(n + 1, study, PixelData=bytes([n % 256]) * size_bytes)
        sent[str(ds.SOPInstanceUID)] = write_file(folder / f"{n:04d}.dcm", ds)
    return sent


def kept(receiver: Receiver) -> dict[str, bytes]:
    """Return the data sets in the spool by SOP Instance UID."""
    found = {}
    for path in receiver.instances():
        raw = path.read_bytes()
        content = raw[144 + int.from_bytes(raw[140:144], "little") :]
        found[str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = content
    return found


def run(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(w) for w in words],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_kept(receiver: Receiver, sent: dict[str, bytes]) -> None:
    found = kept(receiver)
    assert {uid: found.get(uid) for uid in sent} == sent


# -- DCMTK -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodelay", ["0", "1"])
@pytest.mark.parametrize("options", [["-R"], [], ["-xi"], ["+C"]], ids=str)
def test_storescu_of_dcmtk(
    receiver: Receiver, tmp_path: Path, options: list[str], nodelay: str
) -> None:
    sent = new_study(tmp_path)
    command = [program("storescu", "dcmtk"), *options, "-aec", "LIMEN", "+sd", "127.0.0.1"]
    done = run(*command, receiver.port, tmp_path, TCP_NODELAY=nodelay)
    assert done.returncode == 0, done.stderr
    if options == ["-xi"]:  # DCMTK writes the data set again
        assert set(sent) <= set(kept(receiver))
    else:
        assert_kept(receiver, sent)


def test_dcmsend_of_dcmtk(receiver: Receiver, tmp_path: Path) -> None:
    sent = new_study(tmp_path, 20)
    command = [program("dcmsend", "dcmtk"), "-aec", "LIMEN", "+sd", "127.0.0.1"]
    done = run(*command, receiver.port, tmp_path)
    assert done.returncode == 0, done.stderr
    assert_kept(receiver, sent)


@pytest.mark.parametrize("contexts", [1, 128])
def test_echoscu_of_dcmtk(receiver: Receiver, contexts: int) -> None:
    command = [program("echoscu", "dcmtk"), "-aec", "LIMEN", "-ppc", contexts]
    done = run(*command, "--repeat", 3, "127.0.0.1", receiver.port)
    assert done.returncode == 0, done.stderr


def test_dcmtk_is_told_that_it_calls_somebody_else(receiver: Receiver) -> None:
    done = run(program("echoscu", "dcmtk"), "-aec", "OTHER", "127.0.0.1", receiver.port)
    assert done.returncode != 0
    assert "Called AE Title Not Recognized" in done.stdout + done.stderr


# -- TLS -------------------------------------------------------------------------------------------


def tls_port(receiver: Receiver) -> int:
    return receiver.node.config.scp.tls.port


def dcmtk_tls(certificates: Path) -> list[object]:
    pem = certificates / "sender.example.org"
    return ["+tls", f"{pem}.key", f"{pem}.crt", "+cf", certificates / "ca.pem"]


@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_echoscu_and_storescu_of_dcmtk_over_tls(
    receiver: Receiver, certificates: Path, tmp_path: Path, profile: str
) -> None:
    sent = new_study(tmp_path)
    where = ["127.0.0.1", tls_port(receiver)]
    options = [*dcmtk_tls(certificates), profile, "-aec", "LIMEN"]
    done = run(program("echoscu", "dcmtk"), *options, *where)
    assert done.returncode == 0, done.stderr
    done = run(program("storescu", "dcmtk"), *options, "-R", "+sd", *where, tmp_path)
    assert done.returncode == 0, done.stderr
    assert_kept(receiver, sent)


def test_who_shows_no_certificate_is_not_served(receiver: Receiver, certificates: Path) -> None:
    options = ["+tla", "+cf", certificates / "ca.pem", "-aec", "LIMEN"]
    done = run(program("echoscu", "dcmtk"), *options, "127.0.0.1", tls_port(receiver))
    assert done.returncode != 0


def test_our_own_sender_over_tls(receiver: Receiver, certificates: Path, tmp_path: Path) -> None:
    pem = certificates / "sender.example.org"
    tls = Tls(certificates / "ca.pem", Path(f"{pem}.crt"), Path(f"{pem}.key"))
    peer = Peer("LIMEN", "127.0.0.1", tls_port(receiver))
    assert echo(peer, "CT1", tls=tls) > 0
    sent = new_study(tmp_path, 12)
    report = send(sorted(tmp_path.iterdir()), peer, "CT1", associations=3, tls=tls)
    assert (report.sent, report.failed) == (12, {})
    assert_kept(receiver, sent)


def test_a_peer_that_stalls_in_the_handshake_keeps_nobody_waiting(
    receiver: Receiver, certificates: Path
) -> None:
    """The library shakes hands in its accept loop: one silent client kept everyone out."""
    silent = [RawPeer(tls_port(receiver)) for _ in range(5)]
    for n, peer in enumerate(silent):
        peer.send(b"\x16\x03\x01\x02\x00\x01"[:n])
    pem = certificates / "sender.example.org"
    tls = Tls(certificates / "ca.pem", Path(f"{pem}.crt"), Path(f"{pem}.key"))
    began = time.monotonic()
    echo(Peer("LIMEN", "127.0.0.1", tls_port(receiver)), "CT1", tls=tls)
    assert time.monotonic() - began < 2
    for peer in silent:
        peer.sock.close()


# -- pynetdicom, dcmjs, Orthanc --------------------------------------------------------------------


def test_the_applications_of_pynetdicom(receiver: Receiver, tmp_path: Path) -> None:
    sent = new_study(tmp_path)
    where = ["127.0.0.1", receiver.port, "-aec", "LIMEN"]
    done = run(sys.executable, "-m", "pynetdicom", "echoscu", *where, "-v")
    assert done.returncode == 0, done.stderr
    done = run(sys.executable, "-m", "pynetdicom", "storescu", *where, tmp_path, "-cx")
    assert done.returncode == 0, done.stderr
    assert_kept(receiver, sent)


def test_dcmjs_dimse_from_npm(receiver: Receiver, tmp_path: Path) -> None:
    modules = Path(os.environ.get("LIMEN_DCMJS", DCMJS / "node_modules"))
    require_service(
        modules.is_dir() and shutil.which("node"),
        "dcmjs-dimse is not installed (npm ci --ignore-scripts --prefix tests/integration/dcmjs)",
    )
    sent = new_study(tmp_path, 4)
    files = sorted(tmp_path.glob("*.dcm"))
    node = program("node", "nodejs")
    done = run(node, DCMJS / "send.js", receiver.port, *files, NODE_PATH=str(modules))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"echo": 0, "stores": [0] * 4}
    # dcmjs encodes the data set anew: the pixels are what has to be the same.
    for path in receiver.instances():
        ds = dcmread(path)
        if ds.SOPInstanceUID in sent:
            assert ds.PixelData in sent.pop(str(ds.SOPInstanceUID))
    assert sent == {}


@pytest.fixture(scope="module")
def orthanc(
    receiver: Receiver, orthanc_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Orthanc with our receiver as a modality; yields the root of its REST API."""
    ours = {"limen": ["LIMEN", "127.0.0.1", receiver.port]}
    folder = tmp_path_factory.mktemp("orthanc")
    with Orthanc(folder, ours, dicom_port=orthanc_port) as running:
        yield running.url


def upload(orthanc: str, folder: Path) -> list[str]:
    """Give Orthanc the files of a folder; return what it calls them."""
    paths = sorted(folder.iterdir())
    done = [requests.post(f"{orthanc}/instances", p.read_bytes(), timeout=30) for p in paths]
    return [answer.json()["ID"] for answer in done]


def test_orthanc_echoes_and_sends(receiver: Receiver, orthanc: str, tmp_path: Path) -> None:
    sent = new_study(tmp_path, 3)
    assert requests.post(f"{orthanc}/modalities/limen/echo", json={}, timeout=30).ok
    done = requests.post(
        f"{orthanc}/modalities/limen/store", json=upload(orthanc, tmp_path), timeout=60
    )
    assert done.ok, done.text
    assert done.json()["FailedInstancesCount"] == 0
    assert_kept(receiver, sent)


def test_orthanc_gets_its_commitment(receiver: Receiver, orthanc: str, tmp_path: Path) -> None:
    sent = new_study(tmp_path, 3)
    done = requests.post(
        f"{orthanc}/modalities/limen/store",
        json={"Resources": upload(orthanc, tmp_path), "StorageCommitment": True},
        timeout=60,
    )
    assert done.ok, done.text
    assert_kept(receiver, sent)
    transaction = done.json()["StorageCommitmentTransactionUID"]

    def report() -> str | None:
        answer = requests.get(f"{orthanc}/storage-commitment/{transaction}", timeout=30)
        status = str(answer.json()["Status"])
        return None if status == "Pending" else status

    assert until(report, 30, "the commitment", receiver.node.tell) == "Success"


# -- sizes -----------------------------------------------------------------------------------------


def test_a_thousand_instances_on_one_association(receiver: Receiver) -> None:
    study = f"{ROOT}.{os.getpid()}.{next(_studies)}"
    digests = set()
    with RawPeer(receiver.port) as peer:
        peer.open()
        for n in range(1000):
            ds = data_set(n, study)
            content = encode(ds)
            digests.add(hashlib.sha256(content).hexdigest())
            answer = peer.ask(3, store_rq(str(ds.SOPInstanceUID), message_id=n + 1), content)
            assert (answer.status, answer.number(0x00000120)) == (0, n + 1)
        peer.release()
    assert digests <= {hashlib.sha256(c).hexdigest() for c in kept(receiver).values()}
    until(
        lambda: any(r.instances == 1000 for r in receiver.node.rows(study)), 20, "a thousand rows",
        receiver.node.tell,
    )  # fmt: skip


@pytest.mark.parametrize("max_pdu", [0, 4096, 16384, MIB])
def test_any_maximum_pdu_size_of_the_sender(
    receiver: Receiver, max_pdu: int, tmp_path: Path
) -> None:
    ds = data_set(1, f"{ROOT}.{os.getpid()}.{next(_studies)}", PixelData=bytes(3 * MIB))
    content = encode(ds)
    with RawPeer(receiver.port) as peer:
        announced = peer.open(associate(user=user_information(max_pdu))).max_length
        chunk = min(max_pdu or announced, announced) - 6
        answer = peer.ask(1, echo_rq())
        assert answer.status == 0
        peer.send(message(3, store_rq(str(ds.SOPInstanceUID)), content, chunk))
        heard = peer.hear()
        assert Response.decode(heard.body[6:]).status == 0
        assert not max_pdu or len(heard.body) <= max_pdu
        peer.release()
    assert kept(receiver)[str(ds.SOPInstanceUID)] == content


@pytest.mark.parametrize("our_max", [4096, 16384, MIB])
def test_any_maximum_pdu_size_of_ours(tmp_path: Path, our_max: int) -> None:
    sent = new_study(tmp_path / "in", 2, 200_000)
    with Receiver(tmp_path / "node", max_pdu_bytes=our_max) as receiver:
        done = run(
            program("storescu", "dcmtk"), "-R", "-aec", "LIMEN", "+sd", "127.0.0.1",
            receiver.port, tmp_path / "in",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert_kept(receiver, sent)


def test_128_contexts_with_an_instance_on_the_last(receiver: Receiver) -> None:
    classes = [str(c.abstract_syntax) for c in AllStoragePresentationContexts[:127]]
    classes = [c for c in classes if c != CT] + [VERIFICATION, CT]
    contexts = [Context(2 * n + 1, c, (IMPLICIT, EXPLICIT)) for n, c in enumerate(classes[-128:])]
    contexts[-1] = Context(contexts[-1].id, CT, (EXPLICIT,))
    ds = data_set(1, f"{ROOT}.{os.getpid()}.{next(_studies)}")
    with RawPeer(receiver.port) as peer:
        results = peer.open(associate(contexts)).results
        assert all(result == 0 for result, _ in results.values())
        last = contexts[-1].id
        assert peer.ask(last, store_rq(str(ds.SOPInstanceUID)), encode(ds)).status == 0
        peer.release()


def test_a_multi_frame_instance_of_two_gib_is_streamed(receiver: Receiver) -> None:
    size = 2 << 30
    free = shutil.disk_usage(receiver.spool).free
    require_service(free > 3 * size, f"{free / 1e9:.1f} GB are free on the disk, 6.5 are needed")
    study = f"{ROOT}.{os.getpid()}.{next(_studies)}"
    ds = data_set(1, study, Rows=1024, Columns=1024, NumberOfFrames=1024, PixelData=b"\0\0")
    head = encode(ds)[:-6] + size.to_bytes(4, "little")
    digest = hashlib.sha256(head)
    frame = bytes(MIB - 6)
    receiver.forget_peak()
    before = receiver.usage().rss_bytes
    with RawPeer(receiver.port) as peer:
        peer.sock.settimeout(120)
        assert peer.open().max_length == MIB
        peer.send(message(3, store_rq(str(ds.SOPInstanceUID))))
        peer.send(p_data(value(3, head, command=False, last=False)))
        whole, rest = divmod(size, len(frame))
        middle = p_data(value(3, frame, command=False, last=False))
        for _ in range(whole):
            peer.sock.sendall(middle)
            digest.update(frame)
        peer.send(p_data(value(3, bytes(rest), command=False, last=True)))
        digest.update(bytes(rest))
        assert peer.answer().status == 0
        assert receiver.usage().peak_bytes - before < 16 * MIB
        peer.send(RELEASE)
    (path,) = [p for p in receiver.instances() if p.stat().st_size > size]
    with path.open("rb") as file:
        file.seek(140)
        file.seek(144 + int.from_bytes(file.read(4), "little"))
        assert hashlib.file_digest(file, "sha256").digest() == digest.digest()
    path.unlink()


# -- what pynetdicom tests of its acceptor, as cases of ours ---------------------------------------
# pynetdicom 3.0.4, tests/test_assoc.py and tests/test_acse.py: the behaviours, not the code.


@pytest.fixture
def ae() -> AE:
    ae = AE(ae_title="PYNETDICOM")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    ae.add_requested_context("1.2.840.10008.1.1")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    return ae


def test_asynchronous_operations_are_answered_with_one_at_a_time(
    receiver: Receiver, ae: AE
) -> None:
    """TestAssociationAcceptor, asynchronous operations window; PS3.7 D.3.3.3."""
    from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation

    item = AsynchronousOperationsWindowNegotiation()
    item.maximum_number_operations_invoked = 5
    item.maximum_number_operations_performed = 0
    assoc = ae.associate("127.0.0.1", receiver.port, ae_title="LIMEN", ext_neg=[item])
    assert assoc.is_established
    assert assoc.acceptor.asynchronous_operations in {(1, 1), None}
    assert assoc.send_c_echo().Status == 0
    assoc.release()


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("wants_answer", [False, True])
def test_a_user_identity_of_any_kind_is_let_in(
    receiver: Receiver, ae: AE, kind: int, wants_answer: bool
) -> None:
    """TestUserIdentityNegotiation: an acceptor without a handler lets it in; PS3.7 D.3.3.7."""
    from pynetdicom.pdu_primitives import UserIdentityNegotiation

    item = UserIdentityNegotiation()
    item.user_identity_type = kind
    item.primary_field = b"somebody"
    item.secondary_field = b"hunter2" if kind == 2 else b""
    item.positive_response_requested = wants_answer
    assoc = ae.associate("127.0.0.1", receiver.port, ae_title="LIMEN", ext_neg=[item])
    assert assoc.is_established
    assert assoc.send_c_echo().Status == 0
    assoc.release()
    assert "hunter2" not in receiver.node.logs()


@pytest.mark.parametrize(("scu", "scp"), [(True, False), (True, True), (False, True)])
def test_roles_are_negotiated_and_we_are_never_the_user(
    receiver: Receiver, ae: AE, scu: bool, scp: bool
) -> None:
    """TestNegotiateAsAcceptorWithRoleSelection; PS3.7 D.3.3.4."""
    from pynetdicom import build_role

    role = build_role(CTImageStorage, scu_role=scu, scp_role=scp)
    assoc = ae.associate("127.0.0.1", receiver.port, ae_title="LIMEN", ext_neg=[role])
    assert assoc.is_established
    for context in assoc.accepted_contexts:
        assert not (context.abstract_syntax == CTImageStorage and context.as_scp)
    assoc.release()


def test_an_abort_of_the_requestor_is_taken(receiver: Receiver, ae: AE) -> None:
    """TestAssociation.test_peer_aborts_assoc and relatives: the next association is served."""
    for _ in range(5):
        ae.associate("127.0.0.1", receiver.port, ae_title="LIMEN").abort()
    assert receiver.serves() < 5


def test_associations_of_pynetdicom_side_by_side(receiver: Receiver, ae: AE) -> None:
    """TestAEGoodAssociation: several associations at once, each released by its requestor."""
    open_ = [ae.associate("127.0.0.1", receiver.port, ae_title="LIMEN") for _ in range(8)]
    assert all(a.is_established for a in open_)
    assert [a.send_c_echo().Status for a in open_] == [0] * 8
    for assoc in open_:
        assoc.release()
    assert all(a.is_released for a in open_)


def test_a_commitment_of_pynetdicom_is_reported_on_the_same_association(
    receiver: Receiver, ae: AE, tmp_path: Path
) -> None:
    """PS3.4 J: what the spool holds is committed, what it does not is named."""
    from pydicom.dataset import Dataset

    sent = new_study(tmp_path, 2)
    reports: list[Dataset] = []
    arrived = threading.Event()

    def on_report(event: evt.Event) -> tuple[int, None]:
        report = event.event_information
        report.event_type = event.event_type
        reports.append(report)
        arrived.set()
        return 0x0000, None

    ae.add_requested_context(StorageCommitmentPushModel)
    handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
    assoc = ae.associate("127.0.0.1", receiver.port, ae_title="LIMEN", evt_handlers=handlers)
    assert assoc.is_established
    for path in sorted(tmp_path.iterdir()):
        assert assoc.send_c_store(path).Status == 0
    request = Dataset()
    request.TransactionUID = f"{ROOT}.{os.getpid()}.{next(_studies)}"
    request.ReferencedSOPSequence = []
    for uid in [*sent, f"{ROOT}.0"]:
        reference = Dataset()
        reference.ReferencedSOPClassUID = CTImageStorage
        reference.ReferencedSOPInstanceUID = uid
        request.ReferencedSOPSequence.append(reference)
    status, _ = assoc.send_n_action(
        request, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1"
    )
    assert status.Status == 0
    assert arrived.wait(20), receiver.node.tell()
    assoc.release()
    (report,) = reports
    assert report.event_type == 2  # failures exist
    assert report.TransactionUID == request.TransactionUID
    assert {r.ReferencedSOPInstanceUID for r in report.ReferencedSOPSequence} == set(sent)
    (failed,) = report.FailedSOPSequence
    assert failed.ReferencedSOPInstanceUID == f"{ROOT}.0"
    assert failed.FailureReason == 0x0112  # no such object instance
