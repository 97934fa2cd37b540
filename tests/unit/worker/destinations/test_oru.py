"""worker.destinations.oru: sound messages whatever a name holds; templates that are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from hypothesis import Phase as Phases
from hypothesis import given, settings
from hypothesis import strategies as st

from limen.errors import ConfigError
from limen.result import Finding, Outcome, Phase, Result
from tests.support.samples import result
from worker.destinations.oru import Header, Template, status_of

TEMPLATE = Template()
HEADER = Header("LIMEN", "radiology", "RIS", "hospital")
HOSTILE = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | st.text(
    "|^~\\&\r\n\x0b\x1c\x00 aé", max_size=80
)


def message(made: Result, status: Any = "F", sentences: Any = ("One.", "Two.")) -> str:
    return TEMPLATE.message(made, HEADER, "K1", status, "limen", sentences).decode()


def of(**study: Any) -> Result:
    made = result()
    return replace(made, study=replace(made.study, **study))


def values(text: str, segment: str, number: int) -> list[str]:
    lines = [line.split("|") for line in text.split("\r") if line.startswith(segment)]
    return [line[number] if len(line) > number else "" for line in lines]


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
@settings(max_examples=15, deadline=None, phases=[Phases.explicit, Phases.generate])
def test_no_value_of_a_sender_changes_the_shape_of_a_message(
    name: str, patient: str, accession: str, sentence: str
) -> None:
    made = of(patient_name=name, patient_id=patient, accession=accession, study_date=name)
    text = message(made, sentences=[sentence])
    plain = message(of(), sentences=["x"])
    shape = [line[:3] for line in text.split("\r") if not line.startswith("PID")]
    assert shape == [line[:3] for line in plain.split("\r")]
    assert not set(text) & set("\n\x0b\x1c\x00")
    parsed = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT)
    assert parsed.validate()
    (line,) = values(text, "OBR", 3)
    unescaped = line
    for escape, char in (("\\F\\", "|"), ("\\S\\", "^"), ("\\T\\", "&"), ("\\R\\", "~")):
        unescaped = unescaped.replace(escape, char)
    clean = "".join(" " if not c.isprintable() and c < "\xa0" else c for c in accession[:64])
    clean = clean.replace("\u2028", " ").replace("\u2029", " ").strip()
    assert unescaped.replace("\\E\\", "\\") == clean


def test_a_name_keeps_its_representations_and_its_parts_change_places(tmp_path: Path) -> None:
    text = message(of(patient_id="P1", patient_name="Yamada^Tarou^M^Dr^Jr=山田^太郎=やまだ^たろう"))
    assert values(text, "PID", 5) == [
        "Yamada^Tarou^M^Jr^Dr^^^A~山田^太郎^^^^^^I~やまだ^たろう^^^^^^P"
    ]


def test_who_has_no_name_or_no_id_is_told_without_and_told(tmp_path: Path) -> None:
    assert values(message(of(patient_id="P1", patient_name="^^")), "PID", 5) == ["^^^^^^U"]
    assert values(message(of(patient_name="Doe^Jane")), "PID", 3) == []
    assert values(message(of()), "OBX", 5)[0] == "positive"


@pytest.mark.parametrize(
    ("outcome", "positive", "flag", "priority", "presence"),
    [
        (Outcome.POSITIVE, 1, "A", "S", "Present"),
        (Outcome.UNDETERMINED, 0, "A", "S", "Undetermined"),
        (Outcome.PARTIAL, 0, "", "R", "Undetermined"),
        (Outcome.PARTIAL, 1, "A", "S", "Undetermined"),
        (Outcome.NEGATIVE, 0, "", "R", "Absent"),
        (Outcome.NEGATIVE, 1, "A", "S", "Absent"),
    ],
)
def test_only_a_negative_is_absent_and_whatever_shows_something_goes_first(
    outcome: Outcome, positive: int, flag: str, priority: str, presence: str
) -> None:
    finding = Finding("any", "Intracranial hemorrhage", 0.4, positive, 1, 1, ("1386000", "SCT"))
    text = message(result(outcome=outcome, finding=finding))
    assert values(text, "OBX", 5)[:3] == [outcome.value, presence, "0.4000"]
    assert values(text, "OBX", 3)[1] == "1386000^Intracranial hemorrhage^SCT"
    assert values(text, "OBX", 8)[0] == flag
    assert values(text, "OBR", 5) == [priority]


def test_what_was_not_analysed_says_so_and_nothing_of_a_finding() -> None:
    made = result(outcome=Outcome.NOT_ANALYSED, finding=None, model=None, images=[])
    text = message(made)
    assert values(text, "OBX", 5)[0] == "not_analysed"
    assert "Absent" not in text
    assert "PROBABILITY" not in text


@pytest.mark.parametrize(
    ("phase", "positive", "revises", "status"),
    [
        (Phase.PREDICTION, True, False, "P"),
        (Phase.PREDICTION, False, False, "F"),
        (Phase.EXPLANATION, True, False, "F"),
        (Phase.PREDICTION, True, True, "C"),
        (Phase.EXPLANATION, True, True, "C"),
    ],
)
def test_a_message_is_preliminary_while_an_explanation_follows(
    phase: Phase, positive: bool, revises: bool, status: str
) -> None:
    outcome = Outcome.POSITIVE if positive else Outcome.NEGATIVE
    made = result(phase, outcome=outcome, **({} if positive else {"images": []}))
    assert status_of(made, revises=revises) == status


def test_a_template_of_ones_own_says_what_a_receiver_gets(tmp_path: Path) -> None:
    path = tmp_path / "ris.toml"
    path.write_text(
        '[[segment]]\nname = "PID"\n3 = "{patient_id}^^^HOSPITAL^MR"\n5 = "{patient_name}"\n'
        '[[segment]]\nname = "OBR"\n3 = "{accession}"\n4 = "X^Triage^L"\n25 = "{status}"\n'
        '[[segment]]\nname = "OBX"\n1 = "{set_id}"\n2 = "TX"\n3 = "X^Triage^L"\n'
        '5 = "{outcome}"\n11 = "{status}"\n'
    )
    text = Template(path).message(of(patient_id="P|1"), HEADER, "K", "P", "limen", []).decode()
    assert text.split("\r")[1].startswith("PID|||P\\F\\1^^^HOSPITAL^MR||")
    assert text.split("\r")[3] == "OBX|1|TX|X^Triage^L||positive||||||P"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "segment: Field required"),
        ("[[segment]", "not valid TOML"),
        ('[[segment]]\nname = "obx"', "name"),
        ('[[segment]]\nname = "OBX"\nfive = "x"', "five"),
        ('[[segment]]\nname = "PID"\n5 = "{patient_nam}"', "no value {patient_nam}"),
        ('[[segment]]\nname = "PID"\nwhen = "luck"\n5 = "x"', "no value {luck}"),
        ('[[segment]]\nname = "ZZZ"\n1 = "x"', "no sound ORU^R01"),
        ('[[segment]]\nname = "OBR"\n4 = "X^Y^L"\n7 = "yesterday"', "segment OBR"),
    ],
)
def test_a_template_that_would_make_no_message_is_refused_with_the_reason(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "ris.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Template(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_template_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent.toml"):
        Template(tmp_path / "absent.toml")
