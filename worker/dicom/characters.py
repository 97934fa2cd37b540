"""Bytes of texts and names into Unicode (PS3.5 6.1, PS3.3 C.12.1.1.2).

pydicom leaves escape sequences in a name that uses several sets, splits a name at bytes
that belong to a character, and reads what a set does not hold as Latin-1. Here a byte is
what the sets say it is, and what they cannot say is U+FFFD.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Characters"]

UNKNOWN: Final = "\ufffd"
"""Stands for every byte that the character sets of the instance cannot say."""

_ASCII: Final = "ascii"
_JAPANESE: Final = "euc_jp"
_ROMAJI: Final = "shift_jis"

# By number of the ISO registry: what bytes from 0x80 on mean. A G1 set of two bytes a character
# is its EUC form; gb18030 reads all of GB 2312 and what senders put beside it.
_UPPER: Final = {
    13: _ROMAJI,
    58: "gb18030",
    100: "latin_1",
    101: "iso8859_2",
    109: "iso8859_3",
    110: "iso8859_4",
    126: "iso8859_7",
    127: "iso8859_6",
    138: "iso8859_8",
    144: "iso8859_5",
    148: "iso8859_9",
    149: "euc_kr",
    166: "tis_620",
    203: "iso8859_15",
}
_PAIRS: Final = {"gb18030", "euc_kr"}
"""Codecs of G1 whose characters are two bytes."""

_NO_EXTENSION: Final = {"ISO_IR 192": "utf_8", "GB18030": "gb18030", "GBK": "gb18030"}
"""Sets without code extension (PS3.5 6.1.2.5.4); GB 18030 reads what GBK writes."""

_OTHER_NAMES: Final = {
    "UTF-8": "ISO_IR 192",
    "UTF8": "ISO_IR 192",
    "ISO 2022 GBK": "GBK",
    "ISO 2022 GB18030": "GB18030",
    "ISO 2022 58": "ISO 2022 IR 58",
    "GB2312": "ISO 2022 IR 58",
}
_NUMBERED: Final = re.compile(r"^ISO[ _-]?(?:2022)?[ _-]?IR[ _-]?(\d+)$")

_LOWER: Final = {
    b"(B": _ASCII,
    b"(J": _ROMAJI,
    b"$B": "jis_x_0208",
    b"$@": "jis_x_0208",
    b"$(D": "jis_x_0212",
}
"""Escape sequences that say what bytes below 0x80 mean (PS3.3 Tables C.12-3 and C.12-4)."""

_RAISING: Final = {
    b")I": 13,
    b"$)A": 58,
    b"-A": 100,
    b"-B": 101,
    b"-C": 109,
    b"-D": 110,
    b"-F": 126,
    b"-G": 127,
    b"-H": 138,
    b"-L": 144,
    b"-M": 148,
    b"$)C": 149,
    b"-T": 166,
    b"-b": 203,
}
"""Escape sequences that say what bytes from 0x80 on mean."""

_JIS_PREFIX: Final = {"jis_x_0208": b"", "jis_x_0212": b"\x8f"}
_SEQUENCES: Final = sorted((*_LOWER, *_RAISING), key=len, reverse=True)
_ESCAPE: Final = re.compile(b"\x1b(" + b"|".join(map(re.escape, _SEQUENCES)) + b")")

# What ends a code extension: the next value, line, component or component group (PS3.5 6.1.2.5.3).
_ENDS: Final = frozenset(b"\\\r\n\f\t")
_ENDS_NAME: Final = _ENDS | frozenset(b"^=")


@dataclass(frozen=True, slots=True)
class Characters:
    """How an instance writes its texts.

    Attributes
    ----------
    upper
        Codec of bytes from 0x80 on before any escape sequence; empty for none.
    lower
        Codec of the other bytes.
    whole
        Codec of everything, for sets without code extension; empty for none.
    implied
        Codec of bytes from 0x80 on where no escape sequence says one: the only set that
        SpecificCharacterSet names besides the first.
    """

    upper: str = ""
    lower: str = _ASCII
    whole: str = ""
    implied: str = ""

    @classmethod
    def of(cls, terms: Sequence[str]) -> Characters:
        """Return what the values of SpecificCharacterSet mean; unknown ones mean nothing."""
        names = [_plain(term) for term in terms]
        whole = next((_NO_EXTENSION[name] for name in names if name in _NO_EXTENSION), "")
        numbers = [int(found[1]) if (found := _NUMBERED.match(n)) else 0 for n in names]
        uppers = [_UPPER.get(number, "") for number in numbers] or [""]
        others = list(dict.fromkeys(codec for codec in uppers[1:] if codec))
        return cls(
            upper=uppers[0],
            lower=_ROMAJI if numbers[:1] == [13] else _ASCII,
            whole=whole,
            implied=others[0] if len(others) == 1 else "",
        )

    def decode(self, raw: bytes, *, is_name: bool = False) -> str:
        """Return ``raw`` as Unicode; never an error.

        Parameters
        ----------
        is_name
            A name (PN): its delimiters end a code extension.
        """
        if raw.isascii() and b"\x1b" not in raw and self.lower == _ASCII:
            return raw.decode(_ASCII)
        if not _ESCAPE.search(raw):
            if self.whole:
                return raw.decode(self.whole, "replace")
            if self._may_be_utf_8() and not raw.isascii():
                try:
                    return raw.decode("utf_8")
                except UnicodeDecodeError:
                    pass
        return "".join(_Reader(self, raw, _ENDS_NAME if is_name else _ENDS))

    def _may_be_utf_8(self) -> bool:
        """Return True where bytes that are well-formed UTF-8 can be nothing else.

        The default repertoire has no such bytes. In Latin-1 and Latin-5 the second byte of
        each pair would be a control or a symbol, never a letter.
        """
        return not self.implied and self.upper in {"", "latin_1", "iso8859_9", "iso8859_15"}


class _Reader:
    """Iterates over the characters of one text."""

    def __init__(self, characters: Characters, raw: bytes, ends: frozenset[int]) -> None:
        self._characters = characters
        self._raw = raw
        self._ends = ends
        self._at = 0
        self._lower = characters.lower
        self._upper = characters.upper
        self._latest = characters.implied

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> str:
        while escape := _ESCAPE.match(self._raw, self._at):
            self._designate(escape[1])
            self._at = escape.end()
        if self._at >= len(self._raw):
            raise StopIteration
        byte = self._raw[self._at]
        if byte >= 0x80:
            return self._high(self._upper or self._latest)
        if self._lower in _JIS_PREFIX and self._is_pair():
            pair = bytes(b | 0x80 for b in self._take(2))
            return _decoded(_JIS_PREFIX[self._lower] + pair, _JAPANESE)
        if byte in self._ends:
            self._lower, self._upper = self._characters.lower, self._characters.upper
        return _decoded(self._take(1), _ROMAJI if self._lower == _ROMAJI else _ASCII)

    def _designate(self, sequence: bytes) -> None:
        if sequence in _LOWER:
            self._lower = _LOWER[sequence]
        else:
            # Senders leave the sequence out after a delimiter: it is remembered beyond it.
            self._upper = self._latest = _UPPER[_RAISING[sequence]]

    def _high(self, codec: str) -> str:
        """Return the next character from 0x80 on."""
        if codec not in _PAIRS:
            return _decoded(self._take(1), codec)
        follows = self._raw[self._at + 1 : self._at + 2] >= b"\xa1"
        return _decoded(self._take(2 if follows else 1), codec)

    def _is_pair(self) -> bool:
        """Return True where two bytes of a set of two bytes a character follow."""
        pair = self._raw[self._at : self._at + 2]
        return len(pair) == 2 and all(0x21 <= byte <= 0x7E for byte in pair)

    def _take(self, count: int) -> bytes:
        taken = self._raw[self._at : self._at + count]
        self._at += count
        return taken


def _plain(term: str) -> str:
    """Return a term of SpecificCharacterSet as the standard writes it, nearly."""
    name = " ".join(term.upper().split())
    name = _OTHER_NAMES.get(name, name)
    numbered = _NUMBERED.match(name)
    return "ISO_IR 192" if numbered and int(numbered[1]) == 192 else name


def _decoded(raw: bytes, codec: str) -> str:
    """Return one character; U+FFFD for none, and for a control that only a set of 8 bits has."""
    try:
        text = raw.decode(codec or _ASCII)
    except UnicodeDecodeError:
        return UNKNOWN
    is_control = unicodedata.category(text[0]) == "Cc"
    return UNKNOWN if is_control and (raw[0] >= 0x80 or raw[0] == 0x1B) else text
