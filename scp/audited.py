"""What the receiver tells the audit trail: which association brought what, and who was not let in.

An association that brought instances of three studies is three messages: each is about one patient
(PS3.15 A.5.3.7).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from limen.audit import Kind, Trail
from limen.audit.event import FAILED
from limen.errors import Unreadable
from limen.instance import NewInstance
from scp.header import IMPLICIT_VR, Elements

__all__ = ["Audited"]

_MOST_STUDIES: Final = 1000
_HEAD_BYTES: Final = 256 * 1024
_CHARACTER_SET, _ACCESSION, _PATIENT_ID = 0x00080005, 0x00080050, 0x00100020
_CODECS: Final = {"ISO_IR 192": "utf-8", "ISO_IR 100": "latin-1"}
_SILENCE_S: Final = 60.0
"""An address that knocks all day is told of once a minute."""
_MOST_SILENCED: Final = 1000


@dataclass(slots=True)
class _Brought:
    """What one association brought of one study; ``first`` is its first instance."""

    first: NewInstance
    instances: Counter[str] = field(default_factory=Counter)


class Audited:
    """Gathers what each association brings, and tells it when the association is over.

    Parameters
    ----------
    spool
        The folder of the spool: a study's first instance says who the patient is.
    """

    def __init__(self, trail: Trail, spool: Path) -> None:
        self._trail = trail
        self._spool = spool
        self._lock = threading.Lock()
        self._brought: dict[int, dict[str, _Brought]] = {}
        self._silenced: dict[tuple[str, str], float] = {}

    def came(self, instance: NewInstance, association: int, address: str) -> None:
        """Note a kept instance."""
        if not self._trail.is_on:
            return
        with self._lock:
            studies = self._brought.setdefault(association, {})
            study = studies.setdefault(instance.study_uid, _Brought(instance))
            study.instances[instance.sop_class_uid] += 1
            full = len(studies) > _MOST_STUDIES
        if full:
            self.ended(association, address)

    def ended(self, association: int, address: str) -> None:
        """Tell what an association has brought; it is over."""
        with self._lock:
            studies = self._brought.pop(association, {})
        for study_uid, study in studies.items():
            patient_id, accession = self._about(study.first)
            self._trail.record(
                Kind.RECEIVED,
                peer=study.first.peer,
                address=address,
                study_uid=study_uid,
                accession=accession,
                patient_id=patient_id,
                instances=dict(study.instances),
            )

    def rejected(self, reason: str, peer: str, address: str) -> None:
        """Tell that somebody was not let in, once a minute for each."""
        if not self._trail.is_on:
            return
        # Not by AE title: who makes up a new one each time would fill the folder of notes.
        who, now = (reason, address), time.monotonic()
        with self._lock:
            if now - self._silenced.get(who, float("-inf")) < _SILENCE_S:
                return
            if len(self._silenced) >= _MOST_SILENCED:
                self._silenced.clear()
            self._silenced[who] = now
        self._trail.record(Kind.REJECTED, outcome=FAILED, peer=peer, address=address, reason=reason)

    def _about(self, instance: NewInstance) -> tuple[str, str]:
        """Return patient ID and accession number, empty where they cannot be read."""
        try:
            with (self._spool / instance.path).open("rb") as file:
                head = file.read(_HEAD_BYTES)
        except OSError:
            return "", ""
        # Behind preamble and (0002,0000), which says how long the file meta group is.
        data = head[144 + int.from_bytes(head[140:144], "little") :]
        found: dict[int, bytes] = {}
        try:
            for tag, start, end in Elements(data, instance.transfer_syntax == IMPLICIT_VR):
                if tag > _PATIENT_ID:
                    break
                if tag in (_CHARACTER_SET, _ACCESSION, _PATIENT_ID):
                    found[tag] = data[start:end]
        except Unreadable:  # what was read before that holds
            pass
        codec = _CODECS.get(found.get(_CHARACTER_SET, b"").decode("ascii", "replace").strip())
        patient_id, accession = (
            found.get(tag, b"").decode(codec or "ascii", "replace").strip("\0 ")
            for tag in (_PATIENT_ID, _ACCESSION)
        )
        return patient_id, accession
