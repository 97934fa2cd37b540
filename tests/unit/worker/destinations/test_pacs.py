"""worker.destinations.pacs and sending: against a real SCP whose answers a test writes."""

from __future__ import annotations

import shutil
import ssl
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from limen.errors import OutOfSpace, Rejected, Transient, Unreachable, Unwelcome
from limen.instance import CommitmentReport
from limen.journal import Journal
from limen.result import Outcome, Phase
from limen.scu import IMPLICIT, Tls
from limen.states import WorkState
from tests.support.journals import KEY, claimed, receive
from tests.support.node import until
from tests.support.pacs import CLASSES, Pacs, Said, dicom_object, pacs
from tests.support.ports import free_ports
from tests.support.samples import SUMMARY, result
from worker.destinations import DicomObject, Parcel, Receipt
from worker.destinations.pacs import PacsWay
from worker.destinations.sending import ObjectDestination

# pynetdicom leaves a socket open that found nobody.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

NAME = "main-pacs"
DELIVERY = f"{KEY}-1-prediction-{NAME}"
ALL = ("sr", "seg", "sc", "ko", "pm")
COMMITMENT = "1.2.840.10008.1.20.1"


class Scene:
    """A delivery in a real journal, the objects it brings, and what was said of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(f"sqlite:///{folder / 'journal.db'}")
        receive(self.journal)
        assert self.journal.work.commit(claimed(self.journal), "a", SUMMARY, [NAME])
        self.objects = [dicom_object(kind, folder) for kind in ALL]
        self.picture = dicom_object("sc", folder)
        self.result = replace(result(), outcome=Outcome.POSITIVE)

        self.note = dicom_object("ko", folder)
        self.revision = 1
        self.held: list[set[str]] = []

    def rejection(self, held: Collection[str]) -> Sequence[DicomObject]:
        """As the builder: the first revision, and what is rejected already, need no note."""
        self.held.append(set(held))
        return [] if self.revision == 1 or self.note.sop_uid in held else [self.note]

    def revise(self) -> None:
        """Analyse the study anew."""
        assert self.journal.receiving.replay(KEY) == 2
        self.revision = 2
        job = claimed(self.journal, f"{KEY}-2-prediction")
        assert self.journal.work.commit(job, "a", SUMMARY, [NAME])
        self.objects = [dicom_object(kind, self.folder) for kind in ALL]

    @property
    def delivery(self) -> str:
        return f"{KEY}-{self.revision}-prediction-{NAME}"

    def built(self, kinds: frozenset[str]) -> Sequence[DicomObject]:
        """As the builder: a page of text stands in where pictures alone are asked for."""
        if kinds == {"sc"}:
            return [self.picture]
        return [one for one in self.objects if one.kind in kinds]

    @property
    def parcel(self) -> Parcel:
        return Parcel(
            *(KEY, self.revision, Phase.PREDICTION, b"", {}, ()),
            delivery=self.delivery,
            result=self.result,
            objects=self.built,
            rejection=self.rejection,
        )

    def states(self) -> dict[str, str]:
        return {one.kind: one.state.value for one in self.journal.objects.of(DELIVERY)}

    def reasons(self) -> dict[str, str]:
        return {one.kind: one.reason for one in self.journal.objects.of(DELIVERY) if one.reason}

    def uid(self, kind: str) -> str:
        return next(one.sop_uid for one in self.objects if one.kind == kind)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    journal = Journal(f"sqlite:///{path}")
    journal.migrate()
    journal.close()
    return path


@pytest.fixture
def scene(tmp_path: Path, migrated: Path) -> Iterator[Scene]:
    shutil.copy(migrated, tmp_path)
    made = Scene(tmp_path)
    yield made
    made.journal.close()


def destination(
    scene: Scene,
    there: Pacs,
    kinds: Sequence[str] = ALL,
    *,
    timeout_s: float = 5.0,
    tls: Tls | None = None,
    **options: object,
) -> ObjectDestination:
    way = PacsWay(NAME, there.peer, "LIMEN", timeout_s, tls)
    return ObjectDestination(NAME, way, scene.journal.objects, kinds, **options)  # type: ignore[arg-type]


def test_every_object_goes_on_one_association_with_its_contexts_alone(scene: Scene) -> None:
    with pacs() as there:
        assert destination(scene, there).deliver(scene.parcel) == Receipt()
        assert there.offered == [{CLASSES[kind] for kind in ALL}]
    assert set(there.stored) == {one.sop_uid for one in scene.objects}
    assert scene.states() == dict.fromkeys(ALL, "sent")


def test_what_needs_no_association_does_not_say_that_the_pacs_is_there(scene: Scene) -> None:
    with pacs() as there:
        to = destination(scene, there)
        assert to.deliver(scene.parcel).reached
    assert to.deliver(scene.parcel) == Receipt(reached=False)  # all of it is there already


def test_the_same_again_sends_nothing(scene: Scene) -> None:
    with pacs() as there:
        for _ in range(2):
            destination(scene, there).deliver(scene.parcel)
        assert len(there.offered) == 1


def test_only_the_kinds_of_the_settings_go(scene: Scene) -> None:
    with pacs() as there:
        destination(scene, there, ("sr", "ko")).deliver(scene.parcel)
    assert scene.states() == {"sr": "sent", "ko": "sent"}


def test_a_pacs_that_takes_implicit_vr_alone_gets_that(scene: Scene) -> None:
    with pacs(syntaxes=(IMPLICIT,)) as there:
        destination(scene, there).deliver(scene.parcel)
    assert scene.states() == dict.fromkeys(ALL, "sent")
    (stored,) = there.stored[scene.uid("sr")]
    assert stored.PatientName == "Doe^Jane"


def test_a_warning_is_stored_and_told(scene: Scene) -> None:
    with pacs(Said(statuses={CLASSES["seg"]: 0xB000})) as there:
        destination(scene, there).deliver(scene.parcel)
    assert scene.states()["seg"] == "sent"
    assert "coerced" in scene.reasons()["seg"]


def test_an_object_that_is_there_already_is_there(scene: Scene) -> None:
    with pacs(Said(statuses={CLASSES["ko"]: 0x0111})) as there:
        destination(scene, there).deliver(scene.parcel)
    assert scene.states()["ko"] == "sent"


def test_a_refused_object_holds_up_no_other_and_is_told(scene: Scene) -> None:
    with pacs(Said(statuses={CLASSES["seg"]: 0xC000})) as there:
        receipt = destination(scene, there).deliver(scene.parcel)
    assert scene.states() == {**dict.fromkeys(ALL, "sent"), "seg": "refused"}
    assert receipt.note == "segmentation refused (0xC000, peer cannot understand it)"


@pytest.mark.parametrize("by", ["status", "context"])
def test_a_secondary_capture_stands_in_for_a_refused_report(scene: Scene, by: str) -> None:
    classes = {k: v for k, v in CLASSES.items() if k != "sr" or by == "status"}
    with pacs(Said(statuses={CLASSES["sr"]: 0xA900}), classes=classes) as there:
        receipt = destination(scene, there, ("sr",)).deliver(scene.parcel)
        assert set(there.stored) == {scene.picture.sop_uid}
        again = destination(scene, there, ("sr",)).deliver(scene.parcel)
        assert again == replace(receipt, reached=False)
    assert scene.states() == {"sr": "refused", "sc": "sent"}
    assert receipt.note.startswith("report refused (")
    assert receipt.note.endswith("); a secondary capture says it instead")


def test_a_delivery_of_which_nothing_was_taken_is_rejected(scene: Scene) -> None:
    with (
        pacs(classes={}, commitment=True) as there,
        pytest.raises(Rejected, match="presentation context refused"),
    ):
        destination(scene, there).deliver(scene.parcel)


def test_a_report_that_is_not_sound_stays_and_the_rest_goes(scene: Scene) -> None:
    scene.objects[0] = DicomObject("sr", "", "", None, "it lacks Modality")
    with pacs() as there:
        receipt = destination(scene, there).deliver(scene.parcel)
    assert scene.states()["seg"] == "sent"
    assert "report refused (not sent, it is not sound: it lacks Modality)" in receipt.note
    assert scene.picture.sop_uid in there.stored


@pytest.mark.parametrize("status", [0xA700, 0x0213])
def test_a_full_pacs_is_asked_for_nothing_more_and_again_later(scene: Scene, status: int) -> None:
    said = Said(statuses={CLASSES["seg"]: status})
    with pacs(said) as there:
        with pytest.raises(OutOfSpace, match="out of resources"):
            destination(scene, there).deliver(scene.parcel)
        assert there.came == [CLASSES["sr"], CLASSES["seg"]]
        said.statuses.clear()
        assert destination(scene, there).deliver(scene.parcel) == Receipt()
        assert [len(v) for v in there.stored.values()] == [1] * len(ALL)


def test_one_that_is_never_taken_is_given_up_and_the_rest_is_there(scene: Scene) -> None:
    with pacs(Said(statuses={CLASSES["seg"]: 0x0110})) as there:
        for _ in range(4):
            with pytest.raises(Transient, match="segmentation 0x0110, processing failure"):
                destination(scene, there).deliver(scene.parcel)
        receipt = destination(scene, there).deliver(scene.parcel)
        assert there.came.count(CLASSES["sr"]) == 1
    assert receipt.note == "segmentation refused (0x0110, processing failure, 5 times)"


def test_an_object_on_which_the_pacs_aborts_goes_last_the_next_time(scene: Scene) -> None:
    with pacs(Said(aborts={CLASSES["seg"]})) as there:
        for _ in range(2):
            with pytest.raises(Unreachable):
                destination(scene, there).deliver(scene.parcel)
    assert scene.states() == {**dict.fromkeys(ALL, "sent"), "seg": "waiting"}


def test_a_pacs_that_stalls_is_left_in_time(scene: Scene) -> None:
    said = Said(stalls=threading.Event())
    with pacs(said) as there:
        with pytest.raises(Unreachable):
            destination(scene, there, timeout_s=0.3).deliver(scene.parcel)
        assert said.stalls is not None
        said.stalls.set()


def test_a_pacs_that_is_not_there_is_unreachable(scene: Scene) -> None:
    (port,) = free_ports(1)
    with pacs() as there:
        there.peer = replace(there.peer, port=port)
        with pytest.raises(Unreachable, match="does not answer"):
            destination(scene, there).deliver(scene.parcel)
    assert scene.states() == {}


def test_a_pacs_that_does_not_know_us_says_so_and_what_to_do(scene: Scene) -> None:
    with (
        pacs(callers=("OTHER",)) as there,
        pytest.raises(Unwelcome, match="lists LIMEN.*limen retry main-pacs"),
    ):
        destination(scene, there).deliver(scene.parcel)
    assert scene.states() == {}


def test_only_positive_studies_go_where_no_other_is_wanted(scene: Scene) -> None:
    finding = scene.result.finding
    assert finding is not None
    none = replace(finding, positive_slices=0)
    scene.result = replace(scene.result, outcome=Outcome.NEGATIVE, finding=none)
    with pacs() as there:
        receipt = destination(scene, there, only_positive=True).deliver(scene.parcel)
        assert "no slice is positive" in receipt.note
        assert (there.offered, receipt.reached) == ([], False)
        scene.journal.objects.note(DELIVERY, [])
        scene.result = replace(scene.result, finding=replace(finding, positive_slices=1))
        destination(scene, there, only_positive=True).deliver(scene.parcel)
        assert len(there.stored) == len(ALL)


def test_what_came_of_a_positive_study_goes_there_too(scene: Scene) -> None:
    finding = scene.result.finding
    assert finding is not None
    with pacs() as there:
        destination(scene, there, ("sr",), only_positive=True).deliver(scene.parcel)
        scene.result = replace(scene.result, finding=replace(finding, positive_slices=0))
        scene.objects = [dicom_object("sr", scene.folder)]
        destination(scene, there, ("sr",), only_positive=True).deliver(scene.parcel)
        assert len(there.stored) == 2


# -- storage commitment ----------------------------------------------------------------------------


def test_what_the_pacs_vouches_for_at_once_is_committed(scene: Scene) -> None:
    with pacs() as there:
        receipt = destination(scene, there, commitment="ask").deliver(scene.parcel)
        assert there.offered == [{*(CLASSES[kind] for kind in ALL), COMMITMENT}]
    assert receipt == Receipt(WorkState.COMMITTED)
    assert scene.states() == dict.fromkeys(ALL, "committed")


def test_what_it_has_yet_to_vouch_for_is_sent(scene: Scene) -> None:
    with pacs(Said(reports=False)) as there:
        receipt = destination(scene, there, commitment="ask", report_s=7).deliver(scene.parcel)
        assert receipt == Receipt(WorkState.SENT, wait_s=7)
        ((transaction, asked),) = there.asked
        assert scene.journal.objects.reported(CommitmentReport(transaction, tuple(asked), ()))
        receipt = destination(scene, there, commitment="ask").deliver(scene.parcel)
        assert receipt.state is WorkState.COMMITTED
        assert len(there.offered) == 1


def test_what_it_does_not_keep_and_only_that_is_sent_again(scene: Scene) -> None:
    uid = scene.uid("pm")
    said = Said(keeps=lambda one: one != uid)
    with pacs(said) as there:
        with pytest.raises(Transient, match="parametric map not kept: 0x0112"):
            destination(scene, there, commitment="required").deliver(scene.parcel)
        said.keeps = lambda _: True
        receipt = destination(scene, there, commitment="required").deliver(scene.parcel)
        assert there.asked[1][1] == [uid]
    assert receipt.state is WorkState.COMMITTED
    times = {k: len(v) for k, v in there.stored.items()}
    assert times == {one.sop_uid: 1 + (one.sop_uid == uid) for one in scene.objects}


def test_what_it_never_keeps_is_given_up(scene: Scene) -> None:
    uid = scene.uid("sr")
    with pacs(Said(keeps=lambda one: one != uid)) as there:
        for _ in range(5):
            with pytest.raises(Transient, match="report not kept"):
                destination(scene, there, commitment="required").deliver(scene.parcel)
        with pytest.raises(Rejected, match="report refused \\(not kept: 0x0112"):
            destination(scene, there, commitment="required").deliver(scene.parcel)
    assert len(there.stored[uid]) == 5


@pytest.mark.parametrize("by", ["status", "context"])
def test_a_pacs_without_storage_commitment_is_taken_at_its_word(scene: Scene, by: str) -> None:
    with pacs(Said(asked=0x0122), commitment=by == "status") as there:
        receipt = destination(scene, there, commitment="ask").deliver(scene.parcel)
        assert receipt.state is WorkState.DONE
        assert "does not say that it keeps them" in receipt.note
    assert scene.states() == dict.fromkeys(ALL, "sent")


def test_one_that_has_to_vouch_and_cannot_is_told(scene: Scene) -> None:
    with pacs(commitment=False) as there:
        for _ in range(2):
            with pytest.raises(Rejected, match=r"commitment = \"ask\""):
                destination(scene, there, commitment="required").deliver(scene.parcel)
        assert [len(v) for v in there.stored.values()] == [1] * len(ALL)


def test_silence_is_taken_for_yes_only_where_it_is_allowed(scene: Scene) -> None:
    with pacs(Said(reports=False)) as there:
        assert destination(scene, there, commitment="ask").deliver(scene.parcel).state == "sent"
        receipt = destination(scene, there, commitment="ask").deliver(scene.parcel)
        assert receipt.state is WorkState.DONE
        assert receipt.note == "it was asked whether it keeps them, and said nothing"


def test_one_that_has_to_vouch_and_is_silent_is_asked_again(scene: Scene) -> None:
    with pacs(Said(reports=False)) as there:
        target = destination(scene, there, commitment="required")
        assert target.deliver(scene.parcel).state == "sent"
        with pytest.raises(Transient, match="asked again"):
            target.deliver(scene.parcel)
        there.said.reports = True
        assert target.deliver(scene.parcel).state == "committed"
        assert [len(v) for v in there.stored.values()] == [1] * len(ALL)


def test_a_worker_that_died_after_sending_asks_all_the_same(scene: Scene) -> None:
    with pacs() as there:
        destination(scene, there, commitment="off").deliver(scene.parcel)
        receipt = destination(scene, there, commitment="required").deliver(scene.parcel)
        assert receipt.state is WorkState.COMMITTED
        assert there.offered[1] == {COMMITMENT}


def test_a_report_that_came_to_the_receiver_meanwhile_ends_the_wait(scene: Scene) -> None:
    """As Orthanc reports: to our own port, while the association that asked is open."""
    said = Said(reports=False)
    with pacs(said) as there:

        def report() -> None:
            transaction, asked = until(
                lambda: there.asked[0] if there.asked else None, 10, "the question"
            )
            scene.journal.objects.reported(CommitmentReport(transaction, tuple(asked), ()))

        thread = threading.Thread(target=report)
        thread.start()
        receipt = destination(scene, there, commitment="required").deliver(scene.parcel)
        thread.join()
    assert receipt.state is WorkState.COMMITTED


def test_what_a_pacs_says_in_its_own_words_is_not_repeated(scene: Scene) -> None:
    """It may name the patient, and the reason of a delivery is logged."""
    with (
        pacs(Said(statuses=dict.fromkeys(CLASSES.values(), 0xC000), comment="Doe^Jane?")) as there,
        pytest.raises(Rejected) as refused,
    ):
        destination(scene, there).deliver(scene.parcel)
    assert "Doe" not in str(refused.value)
    assert "Doe" not in str(scene.reasons())


# -- a later revision ------------------------------------------------------------------------------


def test_what_a_revision_replaces_is_rejected_when_the_new_objects_are_there(scene: Scene) -> None:
    with pacs(Said(statuses={CLASSES["seg"]: 0xC000})) as there:
        destination(scene, there, reject_replaced=True).deliver(scene.parcel)
        old = {one.sop_uid for one in scene.objects if one.kind != "seg"}
        scene.held.clear()
        scene.revise()
        for _ in range(2):
            destination(scene, there, reject_replaced=True).deliver(scene.parcel)
        new = {one.sop_uid for one in scene.objects if one.kind != "seg"}
        assert scene.held == [old | new, old | new | {scene.note.sop_uid}]
        assert list(there.stored)[-1] == scene.note.sop_uid
        assert len(there.stored[scene.note.sop_uid]) == 1


def test_nothing_is_rejected_where_nobody_asks_for_it(scene: Scene) -> None:
    with pacs() as there:
        destination(scene, there).deliver(scene.parcel)
        scene.revise()
        destination(scene, there).deliver(scene.parcel)
        assert scene.held == []
        assert scene.note.sop_uid not in there.stored


def test_nothing_is_rejected_before_the_new_report_is_there(scene: Scene) -> None:
    said = Said(statuses={CLASSES["sr"]: 0x0110})
    scene.revise()
    with pacs(said) as there:
        with pytest.raises(Transient):
            destination(scene, there, reject_replaced=True).deliver(scene.parcel)
        assert scene.note.sop_uid not in there.stored
        said.statuses.clear()
        destination(scene, there, reject_replaced=True).deliver(scene.parcel)
        assert scene.note.sop_uid in there.stored


def test_what_is_late_of_an_earlier_revision_does_not_come_after_what_rejects_it(
    scene: Scene,
) -> None:
    with pacs() as there:
        late, parcel = scene.objects, scene.parcel
        scene.revise()
        destination(scene, there, reject_replaced=True).deliver(scene.parcel)
        scene.objects = late
        receipt = destination(scene, there, reject_replaced=True).deliver(parcel)
        assert receipt.note == "not sent: a later revision of the study is there already"
        assert not receipt.reached
        assert not {one.sop_uid for one in late} & set(there.stored)


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> ssl.SSLContext:
    """What a PACS has that wants to know who calls."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> Tls:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours = authority.issue_cert("limen.example.org")
    ours.private_key_and_cert_chain_pem.write_to_path(tmp_path / "ours.pem")
    return Tls(tmp_path / "ca.pem", tmp_path / "ours.pem")


def test_everything_goes_over_tls_to_a_pacs_whose_certificate_is_good(
    scene: Scene, secure: ssl.SSLContext, tls: Tls
) -> None:
    with pacs(tls=secure) as there:
        receipt = destination(scene, there, tls=tls, commitment="ask").deliver(scene.parcel)
    assert receipt == Receipt(WorkState.COMMITTED)
    assert set(there.stored) == {one.sop_uid for one in scene.objects}


def test_a_pacs_whose_certificate_nobody_we_trust_has_signed_gets_nothing(
    scene: Scene, secure: ssl.SSLContext, tls: Tls, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    stranger = replace(tls, ca_file=tmp_path / "other.pem")
    with pacs(tls=secure) as there:
        with pytest.raises(Unreachable, match="TLS handshake failed.*certificate.*ca_file"):
            destination(scene, there, tls=stranger).deliver(scene.parcel)
        assert there.offered == []
    assert scene.states() == {}


def test_a_pacs_without_tls_is_sent_nothing_in_plain(scene: Scene, tls: Tls) -> None:
    with pacs() as there:
        with pytest.raises(Unreachable, match="TLS"):
            destination(scene, there, tls=tls, timeout_s=2).deliver(scene.parcel)
        assert there.offered == []
    assert scene.states() == {}
