"""Data sets as they lie in files, and one set of reasons for those that cannot be read."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from limen.errors import Unreadable

__all__ = ["PixelElement", "load", "reasons"]

UNDEFINED: Final = 0xFFFFFFFF
"""Length of an element that ends with a delimiter (PS3.5 7.1.1)."""

_CUT_OFF: Final = "(End of file|No tag to read).* in file"
"""How pydicom warns before it returns a data set without its elements."""


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixel data of a file are (PS3.5 7.1.2).

    Attributes
    ----------
    tag
        0x7FE00010, or one of the tags of floating point pixel data.
    offset
        Of the first byte of the value in the file.
    length
        Bytes of the value as announced; None for encapsulated pixel data, which end with
        a delimiter.
    is_word
        Written as words (OW), which matters to big endian only.
    """

    tag: int
    offset: int
    length: int | None
    is_word: bool


@contextmanager
def reasons(what: str) -> Iterator[None]:
    """Turn whatever a library raises inside into one ``Unreadable`` with its reason.

    Parameters
    ----------
    what
        Begins the reason where nothing more is known: "its data set is broken".
    """
    try:
        yield
    except Unreadable:
        raise
    except InvalidDicomError as exc:
        raise Unreadable("it is not a DICOM file (PS3.10 7.1: no DICM prefix)") from exc
    except RecursionError as exc:
        raise Unreadable("its sequences are nested too deeply") from exc
    except MemoryError as exc:
        raise Unreadable("reading it needs more memory than is allowed") from exc
    except FileNotFoundError as exc:
        raise Unreadable("it is no longer kept here: purged, or removed by hand") from exc
    except OSError as exc:
        if exc.errno is None:  # not of the system: pydicom raises it for what it reads, too
            raise Unreadable(f"{what} ({type(exc).__name__})") from exc
        raise Unreadable(f"its file cannot be read ({exc.strerror})") from exc
    except Exception as exc:  # libraries raise whatever they like on damaged input
        raise Unreadable(f"{what} ({type(exc).__name__})") from exc


def load(path: Path, keywords: Iterable[str]) -> tuple[Dataset, PixelElement | None]:
    """Return the named elements of a file, and where pixel data follow them.

    Raises
    ------
    Unreadable
        Not a DICOM file, a broken, cut off or too deep data set, or the deflated
        syntax (a few bytes of it can fill the memory).
    """
    tags: list[Any] = [tag_for_keyword(keyword) for keyword in keywords]
    with reasons("its file meta information is broken"):
        meta = read_file_meta_info(str(path))
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise Unreadable("the deflated transfer syntax is not accepted")
    with reasons("its data set is broken"), path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", _CUT_OFF, UserWarning)
        try:
            dataset = dcmread(file, stop_before_pixels=True, specific_tags=tags)
        except UserWarning as exc:
            raise Unreadable("its data set ends inside an element: it is cut off") from exc
        return dataset, _pixel_element(file, dataset)


def _pixel_element(file: BinaryIO, dataset: Dataset) -> PixelElement | None:
    """Read the head of the element that pydicom stopped at; None at the end of the file."""
    is_implicit, is_little = dataset.original_encoding
    order = "<" if is_little else ">"
    head = file.read(8)
    if len(head) < 8:
        return None
    group, element = struct.unpack(f"{order}HH", head[:4])
    vr = "" if is_implicit else head[4:6].decode("latin_1")
    if vr in EXPLICIT_VR_LENGTH_32:
        length = struct.unpack(f"{order}L", file.read(4).ljust(4, b"\0"))[0]
    elif vr.isalpha() and vr.isupper():
        length = struct.unpack(f"{order}H", head[6:])[0]
    else:  # implicit, or an explicit sender that forgot itself
        length = struct.unpack(f"{order}L", head[4:])[0]
    return PixelElement(
        tag=group << 16 | element,
        offset=file.tell(),
        length=None if length == UNDEFINED else length,
        is_word=vr != "OB",
    )
