"""Fresh blood: what kind, how much, and where it lies in an analytic head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from models.ich.anatomy import Bools, Field, Floats

_VENTRICLE = 1.1  # blood widens the ventricle a little

__all__ = ["Bleed", "Kind", "Lesion", "place"]


class Kind(StrEnum):
    """Compartments that the phantom can bleed into. Subarachnoid blood is not modelled."""

    INTRAPARENCHYMAL = "intraparenchymal"
    SUBDURAL = "subdural"
    EPIDURAL = "epidural"
    INTRAVENTRICULAR = "intraventricular"


@dataclass(frozen=True, slots=True)
class Lesion:
    """What to put into a head.

    Attributes
    ----------
    size_ml
        Volume aimed at, millilitres; what the slices really show is ``Head.size_ml``.
    level_hu
        Mean level of the clot, HU; fresh blood is 50-80.
    """

    kind: Kind
    size_ml: float
    level_hu: float = 65.0


@dataclass(frozen=True, slots=True)
class Bleed:
    """A lesion at its place.

    Attributes
    ----------
    centre
        (3,) mm in the head frame; used by the intraparenchymal kind.
    radii
        (3,) mm.
    direction
        (3,) unit vector from the middle of the braincase; used by the crescent and the lens.
    cosine
        Cosine of the half angle that the crescent or lens covers.
    thickness_mm
        Greatest thickness under the inner table.
    level_y_mm
        Ventricular blood lies behind this plane (the patient is supine).
    """

    lesion: Lesion
    centre: Floats
    radii: Floats
    direction: Floats
    cosine: float
    thickness_mm: float
    level_y_mm: float
    ragged: float

    def mask(self, points: Floats, field: Field) -> Bools:
        """Return where the blood is.

        Parameters
        ----------
        points
            (n, 3) float32, mm in the head frame.
        field
            The anatomy at these points.
        """
        kind, inside = self.lesion.kind, field.depth > 0
        if kind is Kind.INTRAPARENCHYMAL:
            return np.asarray(inside & (self._distance(points, field) < 1))
        if kind is Kind.INTRAVENTRICULAR:
            return np.asarray(
                inside & (field.ventricle < _VENTRICLE) & (points[:, 1] > self.level_y_mm)
            )
        away = (1 - field.direction @ self.direction) / (1 - self.cosine)
        profile = np.clip(1 - away, 0, 1) ** (0.45 if kind is Kind.SUBDURAL else 0.9)
        same_side = points[:, 0] * np.sign(self.direction[0]) > 1.5
        thick = self.thickness_mm * profile * (1 + 0.1 * field.texture)
        return np.asarray(inside & same_side & (field.table < thick))

    def oedema(self, points: Floats, field: Field) -> Bools:
        """Return the dark rim around blood in the brain; the other kinds have none."""
        if self.lesion.kind is not Kind.INTRAPARENCHYMAL:
            return np.zeros(len(points), bool)
        return np.asarray((field.depth > 2) & (self._distance(points, field) < 1.9))

    def _distance(self, points: Floats, field: Field) -> Floats:
        q = (((points - self.centre) / self.radii) ** 2).sum(-1)
        return np.asarray(q + self.ragged * field.texture, np.float32)


def place(
    lesion: Lesion,
    rng: np.random.Generator,
    points: Sequence[Floats],
    fields: Sequence[Field],
    voxel_ml: float,
) -> Bleed:
    """Choose a place that the given slices show.

    Parameters
    ----------
    points, fields
        One (n, 3) array and one field for each plane.
    voxel_ml
        Volume that one point stands for, millilitres.
    """
    radius = (lesion.size_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    stretch = rng.uniform(0.75, 1.3, 3)
    radii = radius * stretch / np.cbrt(stretch.prod())
    spots = []
    for p, f in zip(points, fields, strict=True):
        if lesion.kind in (Kind.SUBDURAL, Kind.EPIDURAL):
            good = (f.depth > 0) & (f.table < 5) & (np.abs(p[:, 0]) > 25) & (p[:, 2] > 5)
        else:
            good = (f.depth > min(0.8 * radius, 25)) & (p[:, 2] > -18) & (f.ventricle > 1)
        spots.append(np.flatnonzero(good))
    # A slice is as likely as the tissue it shows; the vertex is not favoured.
    weights = np.array([len(s) for s in spots], float)
    if not weights.sum():
        raise ValueError(f"no room for {lesion.kind} of {lesion.size_ml} ml in these slices")
    k = int(rng.choice(len(spots), p=weights / weights.sum()))
    i = int(rng.choice(spots[k]))
    thickness, cosine = _cap(lesion, rng)
    return Bleed(
        lesion,
        centre=points[k][i].astype(np.float32),
        radii=radii.astype(np.float32),
        direction=fields[k].direction[i],
        cosine=cosine,
        thickness_mm=thickness,
        level_y_mm=_blood_level(lesion, points, fields, voxel_ml),
        ragged=float(rng.uniform(0.05, 0.25)),
    )


def _cap(lesion: Lesion, rng: np.random.Generator) -> tuple[float, float]:
    """Return thickness (mm) and half-angle cosine of a cap with about the volume asked for."""
    root = lesion.size_ml**0.5
    if lesion.kind is Kind.SUBDURAL:
        thickness, fill = float(rng.uniform(3.2, 5.0) + 0.9 * root), 0.7
    else:
        thickness, fill = float(rng.uniform(6, 9) + 2.0 * root), 0.52
    area = lesion.size_ml * 1000 / (fill * thickness)
    return thickness, float(np.clip(1 - area / (2 * np.pi * 75**2), 0.25, 0.985))


def _blood_level(
    lesion: Lesion, points: Sequence[Floats], fields: Sequence[Field], voxel_ml: float
) -> float:
    """Return y (mm) of the plane behind which the ventricles hold the volume asked for."""
    if lesion.kind is not Kind.INTRAVENTRICULAR:
        return 0.0
    back = np.concatenate(
        [
            p[(f.ventricle < _VENTRICLE) & (f.depth > 0), 1]
            for p, f in zip(points, fields, strict=True)
        ]
    )
    if not back.size:
        raise ValueError("these slices show no ventricle")
    count = min(max(int(lesion.size_ml / voxel_ml), 1), back.size)
    return float(np.partition(back, back.size - count)[back.size - count])
