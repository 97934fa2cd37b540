"""worker.destinations.hl7: a RIS that is away, refuses and comes back is told once, in order."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from limen.config import Hl7Destination
from limen.errors import Unreachable
from limen.result import Finding, Outcome, Phase
from tests.support.messages import Courier
from tests.support.mllp import Ris, receiver
from tests.support.ports import free_ports
from worker.destinations.mllp import Receiver

FIRST, SECOND = Phase.PREDICTION, Phase.EXPLANATION
NEGATIVE: dict[str, Any] = {
    "outcome": Outcome.NEGATIVE,
    "finding": Finding("any", "Intracranial hemorrhage", 0.1, 0, 1, 1),
    "images": [],
}


@pytest.fixture
def ris() -> Iterator[Ris]:
    with receiver() as made:
        yield made


def courier(folder: Path, port: int, **keys: Any) -> Courier:
    entry = Hl7Destination(name="ris", host="127.0.0.1", port=port, timeout_s=0.5, **keys)
    return Courier(folder, "ris", hl7=(entry,))


@pytest.fixture
def to(tmp_path: Path, ris: Ris) -> Iterator[Courier]:
    with courier(tmp_path, ris.port) as made:
        yield made


def field(message: str, segment: str, number: int) -> str:
    """Return a field of the first segment of a name, as it stands there."""
    (first, *_) = [line for line in message.split("\r") if line.startswith(segment)]
    fields = first.split("|")
    return fields[number - (segment == "MSH")]


def said(ris: Ris) -> list[tuple[str, str]]:
    """Outcome and status of what was taken, in order."""
    return [(field(m, "OBX", 5), field(m, "OBR", 25)) for m in ris.took.values()]


def test_a_positive_study_is_preliminary_then_final_then_corrected(to: Courier, ris: Ris) -> None:
    for phase, revision in ((FIRST, 1), (SECOND, 1), (FIRST, 2)):
        to.commit(phase, revision, accession="A77", patient_id="P-4711")
        to.work()
    assert said(ris) == [("positive", "P"), ("positive", "F"), ("positive", "C")]
    message = ris.came[0]
    assert field(message, "MSH", 9) == "ORU^R01^ORU_R01"
    assert field(message, "MSH", 18) == "UNICODE UTF-8"
    assert (field(message, "OBR", 3), field(message, "OBR", 18)) == ("A77", "A77")
    assert (field(message, "OBR", 5), field(message, "OBX", 8)) == ("S", "A")
    assert "Müller^Jürgen" in field(message, "PID", 5)
    assert "Not for diagnostic use." in message
    assert "Intracranial hemorrhage: present." in message
    assert set(to.states().values()) == {"done"}


def test_a_negative_study_is_final_at_once_and_carries_no_flag_for_normal(
    to: Courier, ris: Ris
) -> None:
    to.commit(FIRST, 1, explain=False, **NEGATIVE)
    to.work()
    assert said(ris) == [("negative", "F")]
    assert (field(ris.came[0], "OBR", 5), field(ris.came[0], "OBX", 8)) == ("R", "")


def test_after_an_hour_away_each_study_is_told_once_and_nothing_that_was_replaced(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    with courier(tmp_path, port) as to:
        to.commit(FIRST, 1)
        to.commit(FIRST, 1, study_uid="1.2.4")
        for quarter in range(4):
            for _ in range(5):
                to.clock.forward(180)
                to.work()
            if quarter == 0:
                to.commit(SECOND, 1)
            if quarter == 1:
                to.commit(FIRST, 2, **NEGATIVE)
        with receiver(port=port) as ris:
            for _ in range(3):
                to.clock.forward(15)
                to.work()
        assert len(ris.came) == len(ris.took) == 2
        assert sorted(said(ris)) == [("negative", "F"), ("positive", "P")]
        assert set(to.states().values()) == {"done"}
        replaced = [key for key, note in to.notes().items() if "replaces it" in note]
        assert [key.split("-", 1)[1] for key in replaced] == [
            "1-explanation-ris",
            "1-prediction-ris",
        ]


def test_who_has_the_preliminary_and_is_away_for_an_hour_gets_the_correction_once_and_last(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    with courier(tmp_path, port) as to:
        with receiver(port=port) as ris:
            to.commit(FIRST, 1)
            to.work()
            before = said(ris)
        for minutes in range(0, 60, 3):  # nobody listens
            if minutes == 15:
                to.commit(SECOND, 1)
            if minutes == 30:
                to.commit(FIRST, 2)
            to.work()
            to.clock.forward(180)
        with receiver(port=port) as ris:
            ris.script = ["AE", "lost", "AR", "AA"]  # not now; taken, but not said; never; taken
            for _ in range(6):
                to.work()
                to.clock.forward(900)
            (rejected,) = [key for key, state in to.states().items() if state == "dead"]
            assert to.journal.work.retry(rejected)
            to.commit(SECOND, 2)
            for _ in range(3):
                to.work()
                to.clock.forward(60)
            assert before + said(ris) == [("positive", "P"), ("positive", "C"), ("positive", "C")]
            assert len(set(ris.came)) == 2, "the same bytes each time"
        assert set(to.states().values()) == {"done"}


@pytest.mark.parametrize("step", ["AE", "silent", "hang up", "garbage", "half", "another", "lost"])
def test_what_was_not_acknowledged_comes_again_with_the_same_bytes_and_is_taken_once(
    to: Courier, ris: Ris, step: str
) -> None:
    ris.script = [step, step]
    to.commit(FIRST, 1)
    for _ in range(4):
        to.work()
        to.clock.forward(60)
    to.commit(SECOND, 1)
    to.work()
    assert len(ris.came) == 4
    assert len(set(ris.came[:3])) == 1
    assert said(ris) == [("positive", "P"), ("positive", "F")]
    assert set(to.states().values()) == {"done"}


def test_what_is_rejected_is_dead_with_its_reason_and_comes_again_when_a_person_says_so(
    to: Courier, ris: Ris
) -> None:
    ris.script = ["AR"]
    (key,) = [to.commit(FIRST, 1)]
    to.work()
    assert to.states() == {key: "dead"}
    note = to.notes()[key]
    assert "answered AR (error 102)" in note
    assert f"limen retry {key}" in note
    assert "Doe" not in note  # what a receiver says in its own words may name a patient
    assert to.journal.work.retry(key)
    to.work()
    assert said(ris) == [("positive", "P")]


def test_one_that_is_not_taken_holds_up_no_other_study(to: Courier, ris: Ris) -> None:
    ris.script = ["AE", "AA"]
    to.commit(FIRST, 1)
    to.commit(FIRST, 1, study_uid="1.2.4")
    to.work()
    assert len(ris.took) == 1


def test_only_a_receiver_whose_certificate_is_trusted_is_sent_anything(tmp_path: Path) -> None:
    ca, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    me = ca.issue_cert("limen")
    me.private_key_and_cert_chain_pem.write_to_path(tmp_path / "me")
    for name, authority in (("ca", ca), ("other", other)):
        authority.cert_pem.write_to_path(tmp_path / name)
    message = b"MSH|^~\\&|LIMEN||||20260102||ORU^R01^ORU_R01|1|P|2.5.1\r"
    with receiver(context) as ris:
        where = ("ris", "127.0.0.1", ris.port, 5.0)
        mine = {"tls": True, "certificate_file": tmp_path / "me"}
        assert b"MSA|AA|1" in Receiver(*where, ca_file=tmp_path / "ca", **mine).exchange(message)
        with pytest.raises(Unreachable, match="not trusted"):
            Receiver(*where, ca_file=tmp_path / "other", **mine).exchange(message)
        with pytest.raises(Unreachable):  # it asks who we are
            Receiver(*where, ca_file=tmp_path / "ca", tls=True).exchange(message)
        with pytest.raises(Unreachable, match="cannot be read"):
            Receiver(*where, ca_file=tmp_path / "absent", **mine).exchange(message)
        assert len(ris.came) == 1
