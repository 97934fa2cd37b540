"""A RIS or worklist server by HL7 v2: a message for each result, to re-order its list by."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from limen.errors import Rejected, Transient, Unreachable
from worker.destinations import ARRIVED, Parcel, Receipt
from worker.destinations.mllp import Receiver
from worker.destinations.oru import Header, Template, status_of
from worker.destinations.sequence import Sequence

__all__ = ["Hl7Destination", "control_id"]

_TAKEN: Final = frozenset({"AA", "CA"})
_NOT_NOW: Final = frozenset({"AE", "CE"})
_NEVER: Final = frozenset({"AR", "CR"})
_CODE: Final = re.compile(r"^[0-9]{1,5}$")


class Hl7Destination:
    """A place that takes ORU^R01 over MLLP.

    Parameters
    ----------
    receiver
        Where it is.
    header
        Who sends to whom.
    template
        What it is told.
    sequence
        Which messages go, and in which order.
    node
        Who we are.
    """

    def __init__(
        self, receiver: Receiver, header: Header, template: Template, sequence: Sequence, node: str
    ) -> None:
        self._receiver = receiver
        self._header = header
        self._template = template
        self._sequence = sequence
        self._node = node

    def deliver(self, parcel: Parcel) -> Receipt:
        """Send a message, the same bytes each time, and read its answer. See ``Destination``."""
        standing = self._sequence.admit(parcel)
        if isinstance(standing, Receipt):
            return standing
        result = parcel.result
        assert result is not None  # noqa: S101 - admit looked at it
        key = control_id(parcel.delivery)
        status = status_of(result, revises=standing.revises)
        message = self._template.message(
            result, self._header, key, status, self._node, parcel.sentences()
        )
        self._judge(self._receiver.exchange(message), key, parcel.delivery)
        self._sequence.sent(parcel)
        return ARRIVED

    def _judge(self, answer: bytes, key: str, delivery: str) -> None:
        """Say what an acknowledgement means (HL7 v2.5.1 2.9.2); its words may name a patient."""
        name = self._receiver.name
        code, about, why = _read(answer)
        if code not in _TAKEN | _NOT_NOW | _NEVER:
            raise Unreachable(f"{name} answers with what is no acknowledgement of HL7")
        if about != key:
            raise Unreachable(f"{name} acknowledges another message than the one it was sent")
        if code in _NOT_NOW:
            raise Transient(f"{name} answered {code}{why}: it could not take the message now")
        if code in _NEVER:
            raise Rejected(
                f"{name} answered {code}{why}: it will never take this message; its log says why; "
                f"when it would, `limen retry {delivery}`"
            )


def control_id(delivery: str) -> str:
    """Return MSH-10 of a delivery, the same for each try: 20 characters (HL7 v2.5.1 2.14.9.10)."""
    return hashlib.sha256(delivery.encode()).hexdigest()[:20].upper()


def _read(answer: bytes) -> tuple[str, str, str]:
    """Return MSA-1, MSA-2 and the number of the error, in words, of an acknowledgement."""
    lines = re.split("[\r\n]+", answer.decode("utf-8", "replace"))
    if not lines[0].startswith("MSH") or len(lines[0]) < 5:  # noqa: PLR2004
        return "", "", ""
    field, component = lines[0][3], lines[0][4]
    found = {line[:3]: [*line.split(field), "", "", "", ""] for line in reversed(lines)}
    msa, err = found.get("MSA", ["", "", ""]), found.get("ERR", [""] * 4)
    number = err[3].split(component)[0]
    return msa[1], msa[2], f" (error {number})" if _CODE.match(number) else ""
