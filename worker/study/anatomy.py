"""Which part of the body a frame shows, as its header says it: in codes, or in common languages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from worker.dicom.headers import Code, Frame, Header

__all__ = ["Anatomy", "Part", "judge", "parts_of_text"]


class Part(StrEnum):
    """A part of the body, as far as a choice of series needs it."""

    HEAD = "head"
    FACE = "face"
    NECK = "neck"
    SPINE = "spine"
    CHEST = "chest"
    ABDOMEN = "abdomen"
    PELVIS = "pelvis"
    LIMB = "arm or leg"


class Anatomy(Enum):
    """What the header of a frame says of a wanted part."""

    WANTED = "it is shown"
    UNSAID = "nothing is said"
    UNCLEAR = "it and other parts are named"
    OTHER = "only other parts are named"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the header says, and in words what that is taken from."""

    anatomy: Anatomy
    reason: str


# Beginnings of words, accents taken off; "=" before a word that counts only as a whole.
_WORDS: Final[dict[Part, str]] = {
    Part.HEAD: (
        "head brain skull crani neurocran cerebr cerveau encephal encefal intracran =cct =ncct"
        " kopf schadel schaedel hirn gehirn =tete =crane cabeza cerebro craneo =testa =capo"
        " cranio cervello cabeca hoofd schedel hersen glow mozg czaszk huvud hjarn skalle"
        " =hode hodet =hoved hjerne kranium beyin =kafa golov golovn mozk hlav fej koponya"
    ),
    Part.FACE: (
        "face facial =gesicht visage viscerocran midface maxill mandib sinus =nnh =pns orbit dental"
        " =jaw kiefer zahn =dvt felsenbein petrous temporalbone =iac =ear =nose nasal"
    ),
    Part.NECK: (
        "neck =hals halsweich =cou cuello collo pescoco =nek szyj =krk carotid karotis laryn pharyn"
    ),
    Part.SPINE: (
        "spine spinal cspine tspine lspine cervic =hws =bws =lws wirbel rachis columna colonna"
        " coluna vertebr lumbar lumbal wervel kregos sacr =ws"
    ),
    Part.CHEST: (
        "chest thora lung pulmon torax torac pecho poumon polmon brust klatk pluc =long longen"
        " mediast cardiac heart herz coronary koronar brost =rib =ribs grud hrud mellkas"
    ),
    Part.ABDOMEN: (
        "abd liver leber kidney renal =niere nieren bauch ventre foie fegato addom higado"
        " oberbauch unterbauch buik brzuch =buk =karin pancrea pankrea"
        " =bowel =colon =kub =leber zivot bricho"
    ),
    Part.PELVIS: "pelv becken bassin bacino bacia bekken miednic =hip =hips huft hueft panev",
    Part.LIMB: (
        "knee knie =foot feet =fuss =hand =hands wrist shoulder schulter ankle elbow femur tibia"
        " =arm =leg =legs extrem humer forearm finger calcane rodilla genou ginocchio"
    ),
}
_SIGNS: Final = {
    Part.HEAD: "頭脳颅脑头",
    Part.NECK: "頸颈",
    Part.CHEST: "胸肺",
    Part.ABDOMEN: "腹肝",
    Part.PELVIS: "盤盆",
}
_CYRILLIC: Final = {"голов": Part.HEAD, "мозг": Part.HEAD, "череп": Part.HEAD, "груд": Part.CHEST,
                    "легк": Part.CHEST, "живот": Part.ABDOMEN, "брюш": Part.ABDOMEN,
                    "таз": Part.PELVIS, "ше": Part.NECK, "позвон": Part.SPINE}  # fmt: skip
_WHOLE_BODY: Final = frozenset(
    {"wholebody", "ganzkorper", "polytrauma", "panscan", "traumaspirale"}
)

# SNOMED CT, and the SRT codes that it replaced (PS3.16 CID 4, CID 4031).
_CODES: Final[dict[str, tuple[Part, ...]]] = {
    **dict.fromkeys(("69536005", "T-D1100", "12738006", "T-A0100", "89546000", "T-11100"),
                    (Part.HEAD,)),
    **dict.fromkeys(("774007", "T-D1000", "T-D1001"), (Part.HEAD, Part.NECK)),
    **dict.fromkeys(("89545001", "T-D1200", "2095001", "T-22000", "363654007", "T-D1480"),
                    (Part.FACE,)),
    **dict.fromkeys(("45048000", "T-D1600"), (Part.NECK,)),
    **dict.fromkeys(("421060004", "T-11500", "122494005", "122495006", "122496007", "T-11501",
                     "T-11502", "T-11503"), (Part.SPINE,)),
    **dict.fromkeys(("51185008", "816094009", "43799004", "T-D3000", "T-28000", "39607008"),
                    (Part.CHEST,)),
    **dict.fromkeys(("818981001", "818983003", "113345001", "T-D4000"), (Part.ABDOMEN,)),
    **dict.fromkeys(("12921003", "816092008", "T-D6000"), (Part.PELVIS,)),
    **dict.fromkeys(("818982008", "416949008", "R-FAB56"), (Part.ABDOMEN, Part.PELVIS)),
    **dict.fromkeys(("416775004", "R-FAB55"), (Part.CHEST, Part.ABDOMEN)),
    **dict.fromkeys(("416550000", "R-FAB57"), (Part.CHEST, Part.ABDOMEN, Part.PELVIS)),
}  # fmt: skip


def judge(header: Header, frame: Frame, wanted: frozenset[Part]) -> Judgement:
    """Return what the header says of the wanted parts.

    Codes go before Body Part Examined, that before the description of the series, the name of
    the protocol, and the description of the study. What is written by hand can make a code
    unclear, not the other way round.

    Parameters
    ----------
    wanted
        Parts that a bundle accepts; empty accepts all.
    """
    if not wanted:
        return Judgement(Anatomy.WANTED, "")
    said = list(_statements(header, frame))
    if not said:
        return Judgement(Anatomy.UNSAID, "nothing in the header says what part of the body it is")
    source, parts = said[0]
    named = _named(parts)
    if not parts & wanted:
        return Judgement(Anatomy.OTHER, f"another body part: {named} ({source})")
    by_hand = next((other for where, other in said if where == _BY_HAND), parts)
    if parts <= wanted and by_hand & wanted:
        return Judgement(Anatomy.WANTED, "")
    return Judgement(Anatomy.UNCLEAR, f"the header names {_named(parts | by_hand)}")


_BY_HAND: Final = "description of the series"


def _statements(header: Header, frame: Frame) -> Iterator[tuple[str, frozenset[Part]]]:
    """Yield who says what, the most reliable first; who says nothing is left out."""
    found = (
        ("code of the anatomic region", _of_codes(frame.anatomy)),
        ("Body Part Examined", parts_of_text(header.body_part)),
        (_BY_HAND, parts_of_text(header.series_description)),
        ("name of the protocol", parts_of_text(header.protocol_name)),
        ("description of the study", parts_of_text(header.study_description)),
    )
    return ((source, parts) for source, parts in found if parts)


def _named(parts: Iterable[Part]) -> str:
    return " and ".join(part.value for part in Part if part in parts)


def _of_codes(codes: Iterable[Code]) -> frozenset[Part]:
    found: set[Part] = set()
    for code in codes:
        found |= set(_CODES.get(code.value.upper(), ())) or parts_of_text(code.meaning)
    return frozenset(found)


def parts_of_text(text: str) -> frozenset[Part]:
    """Return the parts of the body that a text names."""
    found = {part for part, signs in _SIGNS.items() if set(signs) & set(text)}
    lower = text.lower()
    found |= {part for start, part in _CYRILLIC.items() if re.search(rf"\b{start}", lower)}
    for word in _plain_words(text):
        if word in _WHOLE_BODY:
            found |= {Part.HEAD, Part.CHEST, Part.ABDOMEN}
        found |= {part for part, starts in _STARTS.items() if word.startswith(starts)}
        found |= {part for part, wholes in _WHOLES.items() if word in wholes}
    return frozenset(found)


def _plain_words(text: str) -> list[str]:
    """Return the words in lower case without accents; digits and signs part them."""
    folded = unicodedata.normalize("NFKD", text.lower().replace("ø", "o").replace("ł", "l"))
    ascii_only = "".join(c for c in folded if not unicodedata.combining(c)).replace("ß", "ss")
    return re.findall(r"[a-z]+", ascii_only)


_STARTS: Final = {
    part: tuple(w for w in words.split() if not w.startswith("=")) for part, words in _WORDS.items()
}
_WHOLES: Final = {
    part: frozenset(w[1:] for w in words.split() if w.startswith("="))
    for part, words in _WORDS.items()
}
