"""C-STORE of files that may be broken: what no well-behaved SCU would send."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import CTImageStorage, generate_uid

from limen.command.send import Peer
from limen.uids import is_uid
from tests.support.associations import ask, associate

_FIRST_GROUP = b"\x08\x00"
_META_OFFSET = 132


def data_set_of(path: Path) -> tuple[str, str, bytes]:
    """Return SOP class, SOP instance and the encoded data set of a file that may be broken.

    The data set is what follows the file meta group: the bytes from the first element of group
    0008 on, found without trusting any length in the file.
    """
    raw = path.read_bytes()
    start = raw.find(_FIRST_GROUP, _META_OFFSET)
    body = raw[start:] if start >= 0 else raw
    sop_class, sop_uid = str(CTImageStorage), str(generate_uid())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ds = dcmread(BytesIO(raw), force=True, stop_before_pixels=True)
            sop_class = str(ds.get("SOPClassUID") or sop_class)
            sop_uid = str(ds.get("SOPInstanceUID") or sop_uid)
        except Exception:  # broken on purpose; the defaults do
            pass
    return sop_class if is_uid(sop_class) else str(CTImageStorage), sop_uid, body


def store(peer: Peer, files: list[Path]) -> dict[Path, int | None]:
    """Send the data sets of ``files`` as they are; return each status, None without an answer."""
    return {path: _store_one(peer, path) for path in files}


def _store_one(peer: Peer, path: Path) -> int | None:
    sop_class, sop_uid, body = data_set_of(path)
    assoc = associate(peer, "BADSCU", sop_class=sop_class)
    if not assoc.is_established:
        return None
    status = ask(assoc, body, sop_uid if is_uid(sop_uid) else str(generate_uid()), sop_class)
    if assoc.is_established:
        assoc.release()
    return status
