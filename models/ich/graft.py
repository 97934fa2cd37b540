"""A synthetic bleed in a real slice, with the same slice without it (training only).

The cavity, its fluid and its ventricles are read off the slice. Blood takes the place of what was
there and keeps its grain, so that a model cannot tell blood by its texture.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from models.ich.real import Volume

__all__ = ["Graft", "bleed", "degrade", "of_average", "shrink"]

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

KINDS = ("epidural", "subdural", "subarachnoid", "intraparenchymal", "intraventricular")
_OFTEN = (0.12, 0.26, 0.28, 0.22, 0.12)
_BONE_HU = 160.0
_VISIBLE_HU = 7.0
_POSITIVE_MM2 = 40.0
_SIZE = 256


@dataclass(frozen=True, slots=True)
class Graft:
    """A slice with blood and its twin.

    Attributes
    ----------
    hu, twin
        (rows, columns) float32, HU.
    lesion
        (rows, columns) bool.
    pixel_mm
        Side of a pixel.
    """

    hu: Floats
    twin: Floats
    lesion: Bools
    kind: str
    area_mm2: float
    pixel_mm: float

    @property
    def positive(self) -> bool:
        """The slice shows enough blood."""
        return self.area_mm2 >= _POSITIVE_MM2


@dataclass(frozen=True, slots=True)
class _Anatomy:
    """What a slice shows: mm and fractions for each pixel."""

    cavity: Bools
    table: Floats
    fluid: Floats
    ventricle: Floats
    x: Floats
    y: Floats
    texture: Floats


def bleed(hu: Floats, pixel_mm: float, rng: np.random.Generator) -> Graft | None:
    """Return the slice with one or two bleeds; None where it shows no cavity to bleed into."""
    found = _anatomy(hu, pixel_mm, rng)
    if found is None:
        return None
    twin = _calcified(hu, found, pixel_mm, rng)
    smooth = ndimage.gaussian_filter(twin, 1.0)
    image, total, kinds = twin.copy(), np.zeros_like(hu), []
    for _ in range(2 if rng.uniform() < 0.2 else 1):
        kind = str(rng.choice(KINDS, p=_OFTEN))
        fraction, oedema = _PLACES[kind](found, rng)
        if fraction.max() < 0.3:
            continue
        fraction = ndimage.gaussian_filter(fraction, rng.uniform(0.4, 1.1) / pixel_mm)
        level_hu = rng.uniform(48, 82) + 4 * found.texture * rng.uniform()
        image -= oedema * np.clip(smooth - rng.uniform(12, 26), 0, None)
        image += fraction * np.maximum(level_hu - smooth, 0)
        total = np.maximum(total, fraction)
        kinds.append(kind)
    lesion = (total > 0.4) & (image - twin > _VISIBLE_HU)
    area = float(lesion.sum()) * pixel_mm**2
    return Graft(image, twin, lesion, ",".join(sorted(set(kinds))), area, pixel_mm)


def degrade(hu: Floats, rng: np.random.Generator) -> Floats:
    """Return the slice as a poorer chain of scanner, archive and export would give it."""
    u = rng.uniform
    if u() < 0.4:
        hu = ndimage.gaussian_filter(hu, u(0.3, 0.9))
    if u() < 0.4:
        noise = ndimage.gaussian_filter(rng.standard_normal(hu.shape, np.float32), u(0.3, 1.2))
        hu = hu + noise * np.float32(u(0.5, 4) / noise.std())
    if u() < 0.6:  # two 8-bit windows, as figures and public sets are kept
        quality = int(rng.integers(60, 97))
        narrow, wide = _through_jpeg(hu, -20, 100, quality), _through_jpeg(hu, -900, 2300, quality)
        hu = np.where((narrow > -18) & (narrow < 98), narrow, wide)
    return np.asarray(hu, np.float32)


def shrink(hu: NDArray[np.int16], size: int = _SIZE) -> Floats:
    """Return a square slice at ``size`` pixels, averaged where it gets smaller."""
    image = Image.fromarray(hu.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.float32)


def of_average(volume: Volume, rng: np.random.Generator) -> tuple[Floats, float]:
    """Return a slice of the average head, tilted and stretched, and the size of its pixels, mm."""
    u = rng.uniform
    pixel_mm = u(0.75, 1.05)
    line = ((np.arange(_SIZE) - (_SIZE - 1) / 2) * pixel_mm).astype(np.float32)
    y, x = np.meshgrid(line, line, indexing="ij")
    tilt, roll, turn = np.deg2rad([u(-25, 15), rng.normal(0, 3), rng.normal(0, 6)])
    x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    x = x * u(0.9, 1.1) + u(0, 3) * np.sin(y / 35 + u(0, 6.3))
    y = y * u(0.9, 1.1) + u(0, 3) * np.sin(x / 33 + u(0, 6.3))
    middle = (np.array(volume.hu.shape, np.float32) - 1) / 2
    z_mm, thick_mm = u(-85, 85), u(2, 7)
    layers = []
    for part in (-0.33, 0.0, 0.33):
        z = z_mm + part * thick_mm + np.tan(tilt) * y + np.tan(roll) * x
        place = [z / volume.step_mm + middle[0], y / 2 + middle[1], x / 2 + middle[2]]
        layers.append(
            ndimage.map_coordinates(volume.hu, place, np.float32, 1, cval=-1000, prefilter=False)
        )
    hu = np.mean(layers, axis=0)
    hu = np.where(hu > 120, 120 + (hu - 120) * u(1.0, 3.0), hu)
    noise = ndimage.gaussian_filter(rng.standard_normal(hu.shape, np.float32), u(0.4, 1.2))
    wide = ndimage.gaussian_filter(rng.standard_normal(hu.shape, np.float32), 3)
    hu = hu + noise * np.float32(u(2, 7) / noise.std()) + wide * np.float32(u(0, 3) / wide.std())
    return np.asarray(hu, np.float32), float(pixel_mm)


def _through_jpeg(hu: Floats, low: float, high: float, quality: int) -> Floats:
    grey = np.rint(np.clip((hu - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    held = io.BytesIO()
    Image.fromarray(grey).save(held, "JPEG", quality=quality)
    read = np.asarray(Image.open(held), np.float32)
    return np.asarray(read / 255 * (high - low) + low, np.float32)


def _anatomy(hu: Floats, pixel_mm: float, rng: np.random.Generator) -> _Anatomy | None:
    smooth = ndimage.gaussian_filter(hu, 1.0)
    bone = smooth > _BONE_HU
    reach = max(int(round(4 / pixel_mm)), 1)
    shell = ndimage.binary_closing(np.pad(bone, 2 * reach), iterations=reach)
    shell = shell[2 * reach : -2 * reach, 2 * reach : -2 * reach]
    cavity = ndimage.binary_fill_holes(shell) & ~bone & (smooth > -30) & (smooth < 130)
    cavity = ndimage.binary_opening(cavity, iterations=reach)
    parts, count = ndimage.label(cavity)
    if not count:
        return None
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    cavity = ndimage.binary_fill_holes(parts == sizes.argmax())
    soft = smooth[cavity]
    if cavity.sum() * pixel_mm**2 < 1500 or not 12 < float(np.median(soft)) < 55:
        return None
    table = (ndimage.distance_transform_edt(cavity) * pixel_mm).astype(np.float32)
    fluid = np.clip((0.62 * np.median(soft) + 4 - smooth) / 8, 0, 1) * cavity
    inner = (fluid > 0.5) & (table > 22)
    chambers, _ = ndimage.label(inner)
    large = np.flatnonzero(np.bincount(chambers.ravel()) * pixel_mm**2 > 40)
    ventricle = np.clip(2 * fluid, 0, 1) * np.isin(chambers, large[large > 0])
    rows, columns = np.indices(hu.shape, np.float32)
    y, x = (rows - rows[cavity].mean()) * pixel_mm, (columns - columns[cavity].mean()) * pixel_mm
    texture = ndimage.gaussian_filter(
        rng.standard_normal(hu.shape).astype(np.float32), rng.uniform(1.5, 5) / pixel_mm
    )
    texture /= texture.std()
    return _Anatomy(cavity, table, fluid.astype(np.float32), ventricle, x, y, texture)


def _step(v: Floats) -> Floats:
    return np.asarray(np.clip(v + 0.5, 0, 1), np.float32)


def _spot(rng: np.random.Generator, good: Bools) -> tuple[int, int] | None:
    spots = np.argwhere(good)
    return (int(spots[k][0]), int(spots[k][1])) if (k := _any(rng, len(spots))) >= 0 else None


def _any(rng: np.random.Generator, count: int) -> int:
    return int(rng.integers(count)) if count else -1


Blood = tuple[Floats, Floats]


def _intraparenchymal(a: _Anatomy, rng: np.random.Generator) -> Blood:
    u, none = rng.uniform, np.zeros_like(a.table)
    spot = _spot(rng, a.cavity & (a.table > 4) & (a.fluid < 0.3))
    if spot is None:
        return none, none
    radius = np.exp(u(np.log(3.5), np.log(24)))
    angle, flat = u(0, np.pi), u(0.6, 1.0)
    dx, dy = a.x - a.x[spot], a.y - a.y[spot]
    along = np.cos(angle) * dx + np.sin(angle) * dy
    across = (np.cos(angle) * dy - np.sin(angle) * dx) / flat
    away = np.hypot(along, across) + u(0.02, 0.18) * radius * a.texture
    rim = _step((radius + u(1, 8) - away) / 3) * (a.table > 1) * u(0, 1)
    return _step((radius - away) / 1.2) * (a.table > 0.8), rim * a.cavity


def _extra_axial(a: _Anatomy, rng: np.random.Generator, lens: bool) -> Blood:
    u, none = rng.uniform, np.zeros_like(a.table)
    spot = _spot(rng, a.cavity & (a.table < 3))
    if spot is None:
        return none, none
    if not lens and u() < 0.2:
        return _falx(a, rng), none
    turn = np.arctan2(a.y, a.x) - np.arctan2(a.y[spot], a.x[spot])
    arc_mm = np.abs(np.angle(np.exp(1j * turn))) * np.hypot(a.x[spot], a.y[spot])
    half_mm = u(12, 40) if lens else u(20, 110)
    profile = np.clip(1 - arc_mm / half_mm, 0, 1) ** (0.9 if lens else 0.4)
    deep_mm = u(5, 25) if lens else u(2.5, 14)
    thick = deep_mm * profile * (1 + 0.08 * a.texture)
    same = 1.0 if lens else _step(a.x * np.sign(a.x[spot]) - 1.5)
    return _step(thick - a.table) * a.cavity * same * (profile > 0), none


def _falx(a: _Anatomy, rng: np.random.Generator) -> Floats:
    u = rng.uniform
    along = np.clip(1 - np.abs(a.y - u(-60, 60)) / u(15, 60), 0, 1) ** 0.4
    beside = a.x * rng.choice([-1, 1])
    return _step(u(2, 7) * along - beside) * _step(beside + 0.5) * a.cavity * (a.table < 40)


def _subarachnoid(a: _Anatomy, rng: np.random.Generator) -> Blood:
    u, none = rng.uniform, np.zeros_like(a.table)
    free = a.fluid * (a.ventricle < 0.1)
    spot = _spot(rng, free > 0.4)
    if spot is None:
        return none, none
    reach = u(8, 45), u(8, 45)
    away = np.hypot((a.x - a.x[spot]) / reach[0], (a.y - a.y[spot]) / reach[1])
    near = np.clip((1.2 - away) / 0.5, 0, 1)
    return near * np.clip(1.4 * free, 0, 1), none


def _intraventricular(a: _Anatomy, rng: np.random.Generator) -> Blood:
    u, none = rng.uniform, np.zeros_like(a.table)
    inside = a.ventricle > 0.5
    if not inside.any():
        return none, none
    # The patient is supine: blood settles at the back.
    level = float(np.quantile(a.y[inside], u(0, 0.88))) if u() < 0.8 else -999.0
    side = 1.0 if u() < 0.5 else _step(a.x * rng.choice([-1, 1]))
    return a.ventricle * _step((a.y - level) / 1.5) * side, none


_PLACES = {
    "epidural": lambda a, rng: _extra_axial(a, rng, lens=True),
    "subdural": lambda a, rng: _extra_axial(a, rng, lens=False),
    "subarachnoid": _subarachnoid,
    "intraparenchymal": _intraparenchymal,
    "intraventricular": _intraventricular,
}


def _calcified(hu: Floats, a: _Anatomy, pixel_mm: float, rng: np.random.Generator) -> Floats:
    """Return the slice with up to three calcifications: dense is not fresh."""
    made = hu.copy()
    for _ in range(int(rng.integers(1, 4)) if rng.uniform() < 0.25 else 0):
        spot = _spot(rng, a.cavity)
        if spot is None:
            break
        away = np.hypot(a.x - a.x[spot], a.y - a.y[spot])
        weight = _step((rng.uniform(0.8, 3.5) - away) / pixel_mm) * a.cavity
        made += weight * rng.uniform(60, 500)
    return np.asarray(made, np.float32)
