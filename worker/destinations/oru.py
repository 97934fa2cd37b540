"""The HL7 v2 message of a result: an unsolicited observation (ORU^R01), by a template.

A template says which segments and fields a receiver gets (``oru.toml`` is the shipped one). Every
value is escaped (HL7 v2.5.1 2.7), so that nothing in a name or an accession number is a delimiter
or ends a segment or a frame. Whatever is built is parsed again, strictly, before it leaves.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limen.errors import ConfigError, Rejected
from limen.result import Finding, Outcome, Phase, Provenance, Result, Study, Timings

__all__ = ["Header", "Template", "status_of"]

_SHIPPED: Final = Path(__file__).with_name("oru.toml")
_VERSION: Final = "2.5.1"
_VALUE: Final = re.compile(r"\{([a-z_]*)\}")
_ESCAPES: Final = str.maketrans(
    {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
    | {chr(code): " " for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}
)
"""Control characters would end a segment or a frame; no value needs one."""

_MOST: Final = 64
"""Characters of a value of the sender: what DICOM lets it have (PS3.5 6.2)."""

_NO_NAME: Final = "^^^^^^U"
"""XPN-7 is U, unspecified (table 0200): PID-5 must not be empty."""

_PRESENCE: Final = {Outcome.POSITIVE: "Present", Outcome.NEGATIVE: "Absent"}
_SEXES: Final = frozenset({"M", "F", "O"})
_REPRESENTATIONS: Final = ("A", "I", "P")
"""Alphabetic, ideographic, phonetic: of DICOM's PN in this order, in XPN-8 by these letters."""

Status = Literal["P", "F", "C"]
"""Of OBR-25 and OBX-11 (tables 0123 and 0085): preliminary, final, corrected."""


class _Segment(BaseModel):
    """What a template says of one segment."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[Annotated[str, Field(pattern=r"^[1-9][0-9]?$")], str]

    name: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9]{2}$")]
    when: str = ""
    each: Literal["", "sentence"] = ""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    segment: Annotated[tuple[_Segment, ...], Field(min_length=1, max_length=100)]


@dataclass(frozen=True, slots=True)
class Header:
    """Who sends to whom: MSH-3 to MSH-6, and MSH-11."""

    sending_application: str
    sending_facility: str
    receiving_application: str
    receiving_facility: str
    processing_id: str = "P"


class Template:
    """Which segments and fields a receiver gets.

    Parameters
    ----------
    path
        A file like ``oru.toml``; None: that one.

    Raises
    ------
    ConfigError
        It cannot be read, names what there is not, or makes no ORU^R01 of HL7 v2.5.1.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or _SHIPPED
        try:
            tree = tomllib.loads(self._path.read_text("utf-8"))
            self._segments = _File.model_validate(tree).segment
        except OSError as exc:
            raise self._fault(f"cannot be read ({exc.strerror})") from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise self._fault(f"is not valid TOML: {exc}") from exc
        except ValidationError as exc:
            said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
            raise self._fault(said) from exc
        known = {*_values(_SAMPLE, "F", "limen"), "sentence", "set_id"}
        for segment in self._segments:
            texts = [f"{{{segment.when}}}"] if segment.when else []
            for text in (*texts, *(segment.model_extra or {}).values()):
                for name in _VALUE.findall(text):
                    if name not in known:
                        raise self._fault(f"there is no value {{{name}}}; see {_SHIPPED.name}")
        try:
            self.message(_SAMPLE, Header("A", "B", "C", "D"), "0", "F", "limen", ["x"])
        except Rejected as exc:
            raise self._fault(str(exc)) from exc

    def message(
        self,
        result: Result,
        header: Header,
        control_id: str,
        status: Status,
        node: str,
        sentences: Sequence[str],
    ) -> bytes:
        """Return the message of a result, UTF-8, without a frame: the same bytes each time.

        Parameters
        ----------
        control_id
            MSH-10, by which who has it already knows it again: 20 characters at most.
        sentences
            What is said of the study, for people.

        Raises
        ------
        Rejected
            It would not be sound; the text names the segment and no value.
        """
        values = _values(result, status, node)
        lines = [_msh(header, control_id, values["result_time"])]
        counted: Counter[str] = Counter()
        for segment in self._segments:
            if segment.when and not values[segment.when]:
                continue
            for sentence in sentences if segment.each else ("",):
                counted[segment.name] += 1
                more = {"sentence": _escaped(sentence), "set_id": str(counted[segment.name])}
                lines.append(_line(segment, values | more))
        text = "".join(f"{line}\r" for line in lines)
        _check(text, lines)
        return text.encode()

    def _fault(self, what: str) -> ConfigError:
        return ConfigError(f"the HL7 template {self._path}: {what}")


def status_of(result: Result, *, revises: bool) -> Status:
    """Return what a message is: corrected where an earlier revision was sent before.

    Otherwise preliminary while an explanation is to follow, and final when none is.
    """
    if revises:
        return "C"
    follows = result.phase is Phase.PREDICTION and result.wants_explanation
    return "P" if follows else "F"


def _msh(header: Header, control_id: str, at: str) -> str:
    fields = {
        3: _escaped(header.sending_application),
        4: _escaped(header.sending_facility),
        5: _escaped(header.receiving_application),
        6: _escaped(header.receiving_facility),
        7: at,
        9: "ORU^R01^ORU_R01",
        10: control_id,
        11: header.processing_id,
        12: _VERSION,
        18: "UNICODE UTF-8",
    }
    return "MSH|^~\\&|" + "|".join(fields.get(n, "") for n in range(3, 19))


def _line(segment: _Segment, values: Mapping[str, str]) -> str:
    given = {int(number): text for number, text in (segment.model_extra or {}).items()}
    filled = {n: _VALUE.sub(lambda m: values[m[1]], text) for n, text in given.items()}
    last = max((n for n, text in filled.items() if text), default=0)
    return "|".join([segment.name, *(filled.get(n, "") for n in range(1, last + 1))])


def _check(text: str, lines: Sequence[str]) -> None:
    """Parse a message as a receiver does that takes HL7 at its word."""
    from hl7apy.consts import VALIDATION_LEVEL  # noqa: PLC0415 - a second to import
    from hl7apy.exceptions import HL7apyException  # noqa: PLC0415
    from hl7apy.parser import parse_message, parse_segment  # noqa: PLC0415

    try:
        parse_message(text, validation_level=VALIDATION_LEVEL.STRICT).validate()
    except (HL7apyException, ValueError) as exc:
        where = "message"
        for line in lines[1:]:
            try:
                parse_segment(line, _VERSION, validation_level=VALIDATION_LEVEL.STRICT)
            except (HL7apyException, ValueError):
                where = f"segment {line[:3]}"
                break
        # What the library says may quote a value.
        raise Rejected(
            f"not sent: {where} is no sound ORU^R01 of HL7 {_VERSION} ({type(exc).__name__})"
        ) from exc


# -- values ----------------------------------------------------------------------------------------


def _values(result: Result, status: Status, node: str) -> dict[str, str]:
    """Return what a template may name, escaped."""
    study, finding, model = result.study, result.finding, result.model
    first = result.outcome in {Outcome.POSITIVE, Outcome.UNDETERMINED} or bool(
        finding and finding.positive_slices
    )
    at = result.timings.explained if result.phase is Phase.EXPLANATION else result.timings.predicted
    threshold = finding.threshold if finding and finding.threshold is not None else None
    if threshold is None and model is not None:
        threshold = model.threshold
    return {
        "accession": _escaped(study.accession[:_MOST]),
        "birth_date": _digits(study.patient_birth_date, 8),
        "finding": _finding(result),
        "flag": "A" if first else "",
        "modality": _escaped(study.modality[:_MOST]),
        "model": _escaped(f"{model.name} {model.version}" if model else ""),
        "node": _escaped(node),
        "outcome": result.outcome.value,
        "patient_id": _escaped(study.patient_id[:_MOST]),
        "patient_name": "~".join(_names(study.patient_name)) or _NO_NAME,
        "presence": _PRESENCE.get(result.outcome, "Undetermined"),
        "priority": "S" if first else "R",
        "probability": f"{finding.probability:.4f}"
        if finding and finding.volume_ml is None
        else "",
        "result_time": _time(at or result.timings.complete),
        "revision": str(result.revision),
        "sex": study.patient_sex if study.patient_sex in _SEXES else "",
        "slices": str(finding.slices) if finding else "",
        "status": status,
        "study_time": _digits(study.study_date, 8) + _digits(study.study_time[:6], 6)
        if _digits(study.study_date, 8)
        else "",
        "study_uid": study.study_uid,
        "threshold": f"{threshold:g}" if threshold is not None else "",
    }


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES).strip()


def _digits(text: str, count: int) -> str:
    return text if len(text) == count and text.isascii() and text.isdigit() else ""


def _finding(result: Result) -> str:
    finding = result.finding
    if finding is None:
        return ""
    value, scheme = finding.code or (finding.label[:16], "99LIMEN")
    return "^".join(map(_escaped, (value, finding.meaning[:_MOST], scheme)))


def _names(value: str) -> Iterator[str]:
    """Yield the representations of a name: DICOM's PN (PS3.5 6.2.1) as HL7's XPN."""
    for letter, text in zip(_REPRESENTATIONS, value.split("="), strict=False):
        family, given, middle, prefix, suffix = [
            _escaped(part[:_MOST]) for part in [*text.split("^"), "", "", "", "", ""][:5]
        ]
        if any((family, given, middle, prefix, suffix)):
            parts = [family, given, middle, suffix, prefix, "", "", letter]
            yield "^".join(parts)


def _time(at: str) -> str:
    """Return a time (RFC 3339, UTC) as HL7 has it."""
    return f"{re.sub('[^0-9]', '', at[:19])}+0000"


_SAMPLE: Final = Result(
    study=Study("1.2.3", "A1", "P1", "Doe^Jane", "F", "19700101", "20260102", "030405", "CT"),
    revision=1,
    phase=Phase.PREDICTION,
    outcome=Outcome.POSITIVE,
    reason="",
    model=None,
    finding=Finding("any", "Finding", 0.5, 1, 1, 1, ("1", "SCT"), 0.5),
    timings=Timings("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
    provenance=Provenance("0", "host", "0" * 64),
)
