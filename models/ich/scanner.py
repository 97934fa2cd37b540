"""A scanner for the analytic head: pose, slices, blur, shading, noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.ich.anatomy import Anatomy, Bools, Field, Floats
from models.ich.lesion import Lesion, place

__all__ = ["Head", "pair", "volume"]

_AIR_HU = -1000
_LEAST_BLUR_PX = 0.7  # hides the staggered heights of neighbouring pixels
_BLEED_AREA_MM2 = 50.0  # a slice that shows less blood than this is not called positive


@dataclass(frozen=True, slots=True)
class Head:
    """A scanned head and the truth about it.

    Attributes
    ----------
    hu
        (slices, rows, columns) int16, HU; from the lowest slice up.
    lesion
        Same shape, bool: where at least half of the voxel is blood.
    kind
        What bled, or None.
    spacing_mm
        Between slice centres, rows, columns.
    thickness_mm
        Thickness of a slice; slices need not touch.
    origin_mm
        x, y, z of the first voxel (PS3.3 C.7.6.2.1.1).
    sharp
        True for a sharpened reconstruction.
    """

    seed: int
    hu: NDArray[np.int16]
    lesion: Bools
    kind: str | None
    spacing_mm: tuple[float, float, float]
    thickness_mm: float
    origin_mm: tuple[float, float, float]
    sharp: bool

    @property
    def size_ml(self) -> float:
        """Volume of blood that the slices stand for, millilitres."""
        return float(self.lesion.sum() * np.prod(self.spacing_mm) / 1000)

    @property
    def area_mm2(self) -> NDArray[np.float64]:
        """Blood in each slice: (slices,) float64, mm2."""
        return self.lesion.sum(axis=(1, 2)) * self.spacing_mm[1] * self.spacing_mm[2]

    @property
    def positive(self) -> Bools:
        """Slices that show a bleed of at least 50 mm2: (slices,) bool."""
        return np.asarray(self.area_mm2 >= _BLEED_AREA_MM2)


class _Scanner:
    """Pose and physics of one acquisition, all drawn from the seed."""

    def __init__(self, seed: int, slices: int, size: int) -> None:
        rng = np.random.default_rng([seed, 2])
        u = rng.uniform
        self.seed, self.slices, self.size = seed, slices, size
        self.field_mm = u(205, 290)
        self.pixel_mm = self.field_mm / size
        self.turn = np.deg2rad([u(-16, 16), u(-5, 5), rng.normal(0, 7)]).astype(np.float32)
        self.shift_mm = np.array([u(-8, 8), u(-10, 10)], np.float32)
        self.low_mm, self.high_mm = u(-58, -8), u(80, 99)
        self.step_mm = (self.high_mm - self.low_mm) / max(slices - 1, 1)
        self.thickness_mm = float(min(rng.choice([2.5, 4.0, 5.0, 6.0, 8.0]), self.step_mm))
        self.blur_mm = u(0.4, 1.1)
        self.edge = u(0.15, 0.7) if u() < 0.3 else 0.0
        self.noise_hu = u(1.5, 6.5)
        self.grain_mm = u(0.3, 0.9)
        self.rim_hu, self.rim_mm = u(-2, 8), u(3, 12)
        self.cup_hu = u(-4, 4)
        self.streak_hu, self.streak_mm, self.phase = u(0, 14), u(5, 14), u(0, 2 * np.pi)
        self.tilt_hu = u(-2.5, 2.5, 2)
        self.holder = (u(95, 120), u(105, 125), u(1.5, 4), u(-150, 500), u(-40, 40))
        self.padding = int(rng.choice([_AIR_HU, -1024, -1024]))
        self.pad_circle = u() < 0.4

    def plane(self, z_mm: float, spread_mm: float = 0.0) -> tuple[Floats, Floats, Floats]:
        """Return x, y of the pixels in the scanner frame, and their places in the head frame.

        ``spread_mm`` staggers the heights of neighbouring pixels over that range: blur
        then mixes them, and a slice fades through a dome of bone as a real one does.
        """
        half = (self.size - 1) / 2
        line = ((np.arange(self.size) - half) * self.pixel_mm).astype(np.float32)
        y, x = np.meshgrid(line, line, indexing="ij")
        cx, sx = np.cos(self.turn[0]), np.sin(self.turn[0])
        cy, sy = np.cos(self.turn[1]), np.sin(self.turn[1])
        cz, sz = np.cos(self.turn[2]), np.sin(self.turn[2])
        x0, y0 = x - self.shift_mm[0], y - self.shift_mm[1]
        x1, y1 = cz * x0 + sz * y0, -sz * x0 + cz * y0
        rise = np.full(x.shape, z_mm - 30, np.float32)
        for row, column, step in ((0, 0, -0.375), (0, 1, 0.125), (1, 0, 0.375), (1, 1, -0.125)):
            rise[row::2, column::2] += np.float32(step * spread_mm)
        y2, z2 = cx * y1 + sx * rise, -sx * y1 + cx * rise
        x3, z3 = cy * x1 + sy * z2, -sy * x1 + cy * z2
        return x, y, np.stack([x3, y2, z3 + 30], axis=-1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Planes:
    """What was looked at: ``layers`` planes for each slice.

    Attributes
    ----------
    near
        For each plane, the pixels that may be head: (n,) indices.
    points, fields
        For each plane: (n, 3) mm in the head frame, and what is there.
    heights
        (slices,) float64, z of the slice centres, mm.
    """

    near: list[NDArray[np.intp]]
    points: list[Floats]
    fields: list[Field]
    heights: NDArray[np.float64]
    layers: int
    oedema_hu: float


def pair(
    seed: int, lesion: Lesion, *, slices: int = 12, size: int = 256, layers: int = 2
) -> tuple[Head, Head]:
    """Scan one head twice: with the lesion, and its twin without. All else is equal."""
    scanner = _Scanner(seed, slices, size)
    planes = _look(scanner, layers)
    return _bleeding(scanner, planes, lesion), _clean(scanner, planes)


def volume(
    seed: int,
    lesion: Lesion | None = None,
    *,
    slices: int = 12,
    size: int = 256,
    layers: int = 2,
) -> Head:
    """Scan the head of this seed.

    Parameters
    ----------
    seed
        The same seed is the same head in the same scanner, to the bit.
    lesion
        What to put in, or None.
    slices, size
        Slices; rows and columns of each.
    layers
        Planes averaged into a slice (partial volume).
    """
    scanner = _Scanner(seed, slices, size)
    planes = _look(scanner, layers)
    return _bleeding(scanner, planes, lesion) if lesion else _clean(scanner, planes)


def _look(scanner: _Scanner, layers: int) -> _Planes:
    """Ask the anatomy what each plane shows."""
    anatomy = Anatomy(scanner.seed)
    heights = scanner.low_mm + scanner.step_mm * np.arange(scanner.slices)
    offsets = ((np.arange(layers) + 0.5) / layers - 0.5) * scanner.thickness_mm
    near: list[NDArray[np.intp]] = []
    points: list[Floats] = []
    fields: list[Field] = []
    for z in (heights[:, None] + offsets).ravel():
        _, _, place_mm = scanner.plane(float(z), scanner.thickness_mm / layers)
        # The head is less than half of the image: look at nothing else.
        reach = ((place_mm[..., :2] / (98, 122)) ** 2).sum(-1) < 1
        idx = np.flatnonzero(reach)
        here = place_mm.reshape(-1, 3)[idx]
        near.append(idx)
        points.append(here)
        fields.append(anatomy.at(here[:, 0], here[:, 1], here[:, 2]))
    return _Planes(near, points, fields, heights, layers, oedema_hu=anatomy.white - 6)


def _clean(scanner: _Scanner, planes: _Planes) -> Head:
    return _acquire(scanner, planes, [f.hu for f in planes.fields], None)


def _bleeding(scanner: _Scanner, planes: _Planes, lesion: Lesion) -> Head:
    rng = np.random.default_rng([scanner.seed, 3])
    voxel_ml = scanner.pixel_mm**2 * scanner.step_mm / planes.layers / 1000
    bleed = place(lesion, rng, planes.points, planes.fields, voxel_ml)
    levels, masks = [], []
    for p, f in zip(planes.points, planes.fields, strict=True):
        mask, rim = bleed.mask(p, f), bleed.oedema(p, f) & (f.hu < 50)
        hu = np.where(rim, np.minimum(f.hu, planes.oedema_hu), f.hu)
        levels.append(np.where(mask, lesion.level_hu + 3 * f.texture, hu).astype(np.float32))
        masks.append(mask)
    return replace(_acquire(scanner, planes, levels, masks), kind=lesion.kind)


def _acquire(
    scanner: _Scanner, planes: _Planes, levels: list[Floats], masks: list[Bools] | None
) -> Head:
    """Turn levels at points into an image, as a reconstruction would."""
    heights, layers = planes.heights, planes.layers
    n, size = len(heights), scanner.size
    hu = np.full((n, layers, size * size), _AIR_HU, np.float32)
    blood = np.zeros((n, layers, size * size), np.float32)
    depth = np.full((n, size * size), -99, np.float32)
    for i, (idx, f, level) in enumerate(zip(planes.near, planes.fields, levels, strict=True)):
        hu[i // layers, i % layers, idx] = level
        depth[i // layers, idx] = f.depth
        if masks is not None:
            blood[i // layers, i % layers, idx] = masks[i]
    image = hu.mean(axis=1).reshape(n, size, size)
    mask = blood.mean(axis=1).reshape(n, size, size) >= 0.5
    image = _holder(scanner, image)
    image = _reconstruct(scanner, image, depth.reshape(n, size, size), heights)
    half = (size - 1) / 2 * scanner.pixel_mm
    return Head(
        seed=scanner.seed,
        hu=np.clip(np.rint(image), -1024, 3071).astype(np.int16),
        lesion=np.asarray(mask),
        kind=None,
        spacing_mm=(float(scanner.step_mm), float(scanner.pixel_mm), float(scanner.pixel_mm)),
        thickness_mm=scanner.thickness_mm,
        origin_mm=(float(-half), float(-half), float(heights[0])),
        sharp=scanner.edge > 0,
    )


def _holder(scanner: _Scanner, image: Floats) -> Floats:
    """Put the head rest behind the head."""
    x, y, _ = scanner.plane(0.0)
    a, b, wall_mm, level_hu, top_mm = scanner.holder
    shell = np.abs(np.hypot(x / a, (y - 5) / b) - 1) * a < wall_mm
    rest = shell & (y > top_mm)
    return np.where(rest & (image < -900), np.float32(level_hu), image)


def _reconstruct(
    scanner: _Scanner, image: Floats, depth: Floats, heights: NDArray[np.float64]
) -> Floats:
    """Blur, sharpen, shade and add correlated noise: (slices, rows, columns) float32, HU."""
    x, y, _ = scanner.plane(0.0)
    sigma = max(scanner.blur_mm / scanner.pixel_mm, _LEAST_BLUR_PX)
    image = ndimage.gaussian_filter(image, (0, sigma, sigma))
    if scanner.edge:
        wide = ndimage.gaussian_filter(image, (0, 2 * sigma, 2 * sigma))
        image = image + scanner.edge * (image - wide)
    inside = depth > 0
    # Beam hardening: brighter under the bone, a cup or a dome, streaks between the petrous bones.
    shade = scanner.rim_hu * np.exp(-np.clip(depth, 0, None) / scanner.rim_mm)
    shade += scanner.cup_hu * np.clip(depth / 60, 0, 1)
    base = np.exp(-(((heights + 12) / 16) ** 2))[:, None, None].astype(np.float32)
    wave = np.sin(y / scanner.streak_mm * 2 + scanner.phase) * np.exp(-((x / 45) ** 2))
    shade += base * np.float32(scanner.streak_hu) * wave
    image = image + np.where(inside, shade, 0)
    image += np.float32(scanner.tilt_hu[0] / 100) * x + np.float32(scanner.tilt_hu[1] / 100) * y
    rng = np.random.default_rng([scanner.seed, 4])
    grain = scanner.grain_mm / scanner.pixel_mm
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (0, grain, grain))
    image = image + noise * (scanner.noise_hu / noise.std())
    if scanner.pad_circle:
        outside = np.hypot(x, y) > scanner.field_mm / 2
        image = np.where(outside, np.float32(scanner.padding), image)
    return np.asarray(image, np.float32)
