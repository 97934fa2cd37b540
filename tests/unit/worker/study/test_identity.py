"""Who a study is about, and which instances claim to be the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.headers import header
from worker.study import identity


def people(*named: dict[str, Any]) -> list[str]:
    headers = [header(n, **one) for n, one in enumerate(named)]
    return [str(patient) for patient in identity.patients(headers)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"patient_id": "P1"}, {"patient_id": " p-1"}),
        ({"patient_id": "P1"}, {}),
        ({"patient_name": "Doe^Jane"}, {"patient_name": "DOE^JANE^^"}),
        ({"patient_name": "Yamada^Tarou=山田^太郎"}, {"patient_name": "YAMADA^TAROU"}),
        ({"patient_name": "Yamada^Tarou"}, {"patient_name": "=山田^太郎"}),
        ({"patient_id": "P1"}, {"patient_id": "E7", "other_patient_ids": ("P1",)}),
    ],
)
def test_two_writings_of_one_patient_are_one(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert len(people(one, other)) == 1
    assert len(people(other, one)) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"patient_id": "P1"}, {"patient_id": "P2"}),
        ({"patient_name": "Doe^Jane"}, {"patient_name": "Doe^John"}),
        ({"patient_birth_date": "19500101"}, {"patient_birth_date": "19500102"}),
        ({"patient_name": "A=山田^太郎"}, {"patient_name": "A=鈴木^太郎"}),
    ],
)
def test_whatever_differs_is_another_patient(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert len(people(one, other)) == 2


def test_patients_are_shown_with_all_that_tells_them_apart() -> None:
    jane = {"patient_id": "P1", "patient_name": "Doe^Jane", "patient_birth_date": "19500101"}
    assert people(jane, {"patient_id": "P2"}) == [
        "Doe^Jane (ID P1, born 19500101)",
        "no name (ID P2)",
    ]


def test_files_of_the_same_bytes_are_one_content(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abcd"]
    for path, body in zip(paths, (b"1", b"2", b"1", b"3"), strict=True):
        path.write_bytes(body)
    uids = ("1.2", "1.2", "1.2", "1.3")
    numbers = identity.copies((uid, "9", path) for uid, path in zip(uids, paths, strict=True))
    assert [numbers[path] for path in paths] == [1, 2, 1, 1]


def test_the_order_of_contents_is_that_of_their_series(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name, "utf-8")
    first, second = tmp_path / "a", tmp_path / "b"
    for order in (1, -1):
        claims = [("1.2", "9.2", first), ("1.2", "9.1", second)][::order]
        assert identity.copies(claims) == {second: 1, first: 2}
