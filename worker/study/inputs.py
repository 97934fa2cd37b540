"""The input of the model for a slice, whatever makes it: the declaration, or code of the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.bundles import code as bundle_code
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder
from worker.dicom.headers import Header
from worker.dicom.hounsfield import AIR_HU
from worker.study.crop import field_of
from worker.study.tensors import Stacker, Upright, same_place

__all__ = ["Coded", "Inputs", "inputs_of"]

Tensor = NDArray[np.float32]


class Inputs(Protocol):
    """Makes the input of slices that follow each other."""

    def __call__(self, slices: Sequence[Upright], header: Header, frame: int) -> Tensor:
        """Return (rows, columns, channels) float32, 0..1.

        Parameters
        ----------
        slices
            ``2 * neighbours + 1`` of them; see ``worker.study.tensors.stacked``.
        header, frame
            Of the one in the middle.

        Raises
        ------
        Unreadable
            Code of the bundle fails on it.
        """


def inputs_of(bundle: Bundle, decoder: Decoder) -> Inputs:
    """Return what makes the inputs of a bundle.

    Parameters
    ----------
    decoder
        Its children run the code of the bundle, where it may.

    Raises
    ------
    BundleError
        There is code, and it may not.
    """
    return Declared(bundle) if bundle.code is None else Coded(bundle, decoder)


class Declared:
    """As the manifest says."""

    def __init__(self, bundle: Bundle) -> None:
        self._stack = Stacker(bundle)

    def __call__(self, slices: Sequence[Upright], header: Header, frame: int) -> Tensor:
        """See ``Inputs``."""
        del header, frame
        return self._stack(slices)


class Coded:
    """By ``preprocess.py``, in a decoder child; see ``worker.bundles.code``."""

    def __init__(self, bundle: Bundle, decoder: Decoder) -> None:
        assert bundle.code is not None  # noqa: S101 - else the manifest says it all
        bundle_code.refuse_unless_allowed(bundle.code, allowed=decoder.runs_code)
        self._bundle = bundle
        self._code = bundle.code
        self._decoder = decoder

    def __call__(self, slices: Sequence[Upright], header: Header, frame: int) -> Tensor:
        """See ``Inputs``."""
        middle = slices[len(slices) // 2]
        parts = _parts(slices, self._bundle)
        if self._bundle.preparation.direction == "down":
            parts.reverse()
        return self.run(np.stack(parts), middle.pixel_mm, facts_of(header, frame))

    def run(self, hu: Tensor, spacing_mm: float | None, facts: dict[str, Any]) -> Tensor:
        """Return what the code makes of pixels; see ``worker.bundles.code.run``."""
        facts = facts | {"size": list(self._bundle.size)}
        return self._decoder.call(
            f"{self._code.path.name} of its bundle:",
            bundle_code.run,
            *(self._code, hu, spacing_mm, facts, self._bundle.input_shape),
        )


def _parts(slices: Sequence[Upright], bundle: Bundle) -> list[Tensor]:
    """Return the part of each slice that becomes the input, all as large as that in the middle."""
    how = bundle.preparation
    middle = slices[len(slices) // 2]
    field = field_of(middle.hu, middle.pixel_mm, bundle)
    fill = AIR_HU if how.padding == "air" else how.padding
    wanted = field.cut(middle.hu, fill)
    found = []
    for one in slices:
        part = wanted if one is middle else same_place(field, middle, one).cut(one.hu, fill)
        if part.shape != wanted.shape:
            size = (wanted.shape[1], wanted.shape[0])
            part = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BILINEAR))
        found.append(part)
    return found


def facts_of(header: Header, frame: int) -> dict[str, Any]:
    """Return what a header says that matters to pixels: no name, number, date or UID."""
    one = header.frames[frame - 1]
    return {
        "modality": header.modality,
        "rows": header.rows,
        "columns": header.columns,
        "thickness_mm": one.thickness_mm,
        "kernel": one.kernel,
    }
