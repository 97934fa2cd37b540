"""Texts and names are read as their character sets say; what these cannot say is shown as such."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tests.support.synthetic import instance, save
from worker.dicom.characters import Characters
from worker.dicom.headers import read

LOST = "\ufffd"

# SpecificCharacterSet, bytes of the name, what people must see. The first six are the examples
# of PS3.5 Annexes H, I, J and K.
NAMES = {
    "Japanese, Annex H.3.1": (
        ["", "ISO 2022 IR 87"],
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "Japanese over katakana, Annex H.3.2": (
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J="
        b"\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    "Korean, Annex I.2": (
        ["", "ISO 2022 IR 149"],
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "Unicode, Annex J.1": (
        ["ISO_IR 192"],
        "Wang^XiaoDong=王^小東=".encode(),
        "Wang^XiaoDong=王^小東",
    ),
    "GB 18030, Annex J.3": (
        ["GB18030"],
        "Wang^XiaoDong=王^小东=".encode("gb18030"),
        "Wang^XiaoDong=王^小东",
    ),
    "simplified Chinese, Annex K.2": (
        ["", "ISO 2022 IR 58"],
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东",
    ),
    "JIS X 0212": (["", "ISO 2022 IR 159"], b"A=\x1b$(D0%\x1b(B^x", "A=丒^x"),
    "a character that holds the byte of a delimiter": (
        ["", "ISO 2022 IR 87"],
        b"Sasaki^Haruko=\x1b$B:4!9LZ\x1b(B^\x1b$B=U;R\x1b(B",
        "Sasaki^Haruko=佐々木^春子",
    ),
    "a character of GBK that ends like a backslash": (["GBK"], "乗^誠".encode("gbk"), "乗^誠"),
    "no return to ASCII before a delimiter": (
        ["", "ISO 2022 IR 87"],
        b"A^B=\x1b$B;3ED^\x1b$BB@O:",
        "A^B=山田^太郎",
    ),
    "no escape sequence after a delimiter, Korean": (
        ["", "ISO 2022 IR 149"],
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\xd1\xce\xd4\xd7=\xc8\xab^\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "no escape sequence after a delimiter, Chinese": (
        ["", "ISO 2022 IR 58"],
        b"\x1b$)A\xd5\xc5^\xd0\xa1\xb6\xab",
        "张^小东",
    ),
    "no escape sequence at all": (
        ["ISO 2022 IR 6", "ISO 2022 IR 149"],
        b"Hong=\xfb\xf3^\xd1\xce\xd4\xd7",
        "Hong=洪^吉洞",
    ),
    "Latin-1 and Cyrillic in one name": (
        ["ISO 2022 IR 100", "ISO 2022 IR 144"],
        b"M\xfcller^\x1b-L\xbb\xee\xda^\xe4",
        "Müller^Люк^ä",
    ),
    "several sets, Greek by escape": (
        ["", "ISO 2022 IR 100", "ISO 2022 IR 126"],
        b"A=\x1b-A\xfc^\x1b-F\xc4\xe9\xef",
        "A=ü^Διο",
    ),
    "Cyrillic": (["ISO_IR 144"], "Люксембург".encode("iso8859_5"), "Люксембург"),
    "Arabic": (["ISO_IR 127"], "قباني^لنزار".encode("iso8859_6"), "قباني^لنزار"),
    "Greek": (["ISO_IR 126"], "Διονυσιος".encode("iso8859_7"), "Διονυσιος"),
    "Hebrew": (["ISO_IR 138"], "שרון^דבורה".encode("iso8859_8"), "שרון^דבורה"),
    "Thai that is also well-formed UTF-8": (["ISO_IR 166"], "เจน".encode("tis_620"), "เจน"),
    "a set written otherwise": (["ISO-IR_100"], b"M\xfcller", "Müller"),
    "UTF-8 by another name": (["UTF-8"], "Müller".encode(), "Müller"),
    "UTF-8 that says it is Latin-1": (["ISO_IR 100"], "Müller^Jürgen".encode(), "Müller^Jürgen"),
    "UTF-8 without a set": ([], "Müller".encode(), "Müller"),
    "UTF-8 as a further set": (["", "ISO_IR 192"], "山田".encode(), "山田"),
    "Latin-1 without a set": ([], b"M\xfcller", f"M{LOST}ller"),
    "Latin-1 that says it is UTF-8": (["ISO_IR 192"], b"M\xfcller", f"M{LOST}ller"),
    "a set that is none": (["LATIN ALPHABET"], b"M\xfcller", f"M{LOST}ller"),
    "half a character": (["", "ISO 2022 IR 149"], b"\x1b$)C\xfb^B", f"{LOST}^B"),
    "an escape sequence that is none": (["ISO 2022 IR 100"], b"a\x1b%zb", f"a{LOST}%zb"),
    "a control of Windows-1252": (["ISO_IR 100"], b"O\x92Neil", f"O{LOST}Neil"),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_name_is_what_its_character_sets_say(tmp_path: Path, case: str) -> None:
    sets, raw, expected = NAMES[case]
    dataset = instance(SpecificCharacterSet=None, PatientName="X" * (len(raw) + len(raw) % 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the sets that are none
        dataset.add_new("SpecificCharacterSet", "CS", sets)
        path = save(dataset, tmp_path, "one.dcm")
    data = path.read_bytes()
    placeholder = b"X" * (len(raw) + len(raw) % 2)
    assert placeholder in data
    path.write_bytes(data.replace(placeholder, raw.ljust(len(placeholder))))
    assert read(path).patient_name == expected


def test_a_text_goes_on_where_a_name_would_end() -> None:
    korean = Characters.of(["", "ISO 2022 IR 149"])
    assert korean.decode(b"\x1b$)C\xb1\xe6\xb5\xbf^=\xb1\xe6\\A") == "길동^=길\\A"


@pytest.mark.parametrize("sets", [[], ["ISO_IR 192"], ["", "ISO 2022 IR 87"], ["GB18030"], ["?"]])
def test_no_bytes_are_an_error(sets: list[str]) -> None:
    characters = Characters.of(sets)
    for first in range(256):
        for second in (0x00, 0x1B, 0x24, 0x5C, 0x80, 0xFF):
            assert characters.decode(bytes((first, second, 0x1B, first)), is_name=True) is not None


@pytest.mark.parametrize(
    ("given", "shown"),
    [("2024.01.02", "20240102"), ("20240102", "20240102"), ("02/01/24", "02/01/24"), ("x", "x")],
)
def test_old_dates_are_read_and_what_is_no_date_is_shown_as_given(
    tmp_path: Path, given: str, shown: str
) -> None:
    dataset = instance()
    for keyword in ("StudyDate", "PatientBirthDate"):
        dataset.add_new(keyword, "LO", given)
    found = read(save(dataset, tmp_path, "one.dcm"))
    assert (found.study_date, found.patient_birth_date) == (shown, shown)


@pytest.mark.parametrize(("given", "shown"), [("10:15:00.5", "101500.5"), ("10:15", "1015")])
def test_old_times_are_read(tmp_path: Path, given: str, shown: str) -> None:
    dataset = instance()
    dataset.add_new("StudyTime", "LO", given)
    assert read(save(dataset, tmp_path, "one.dcm")).study_time == shown
