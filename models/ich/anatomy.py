"""An analytic head: Hounsfield units as a function of place, drawn from a seed.

Head frame: millimetres; x to the patient's left, y to the back, z to the vertex
(the directions of PS3.3 C.7.6.2.1.1); z = 0 is about the level of the sella.
Levels in HU follow common CT tables: CSF 0-15, white matter 20-32, grey matter
35-42, flowing blood 45-65, muscle 45-65, fat -120..-60, bone 300-1500. Each head
draws its own, wider than life, so that a model cannot lean on one calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Anatomy", "Field"]

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

_CENTRE_Z_MM = 35.0  # middle of the braincase
_RADIUS_MM = 70.0  # turns the relative depth of a point into millimetres
_GRID = 48  # side of the periodic noise volume ...
_GRID_MM = 2.5  # ... and the length of one of its cells


@dataclass(frozen=True, slots=True)
class Field:
    """What is at a set of n points.

    Attributes
    ----------
    hu
        (n,) float32, HU.
    depth
        (n,) float32, mm under the inner table or above the skull base; at most 0 outside.
    table
        (n,) float32, mm under the inner table alone; negative in the bone.
    ventricle
        (n,) float32, below 1 inside the ventricles and growing away from them.
    direction
        (n, 3) float32, unit vector from the middle of the braincase, in units of its axes.
    texture
        (n,) float32, band-passed noise of unit variance (gyri; ragged edges).
    """

    hu: Floats
    depth: Floats
    table: Floats
    ventricle: Floats
    direction: Floats
    texture: Floats


def _sigmoid(v: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(v, -30, 30))), np.float32)


class _Points:
    """Points of one plane with the side folded away: most of a head is symmetric."""

    def __init__(self, x: Floats, y: Floats, z: Floats) -> None:
        self.x, self.ax, self.y, self.z = x, np.abs(x), y, z
        self.low, self.high = (float(z.min()), float(z.max())) if z.size else (0.0, 0.0)

    def ball(
        self, centre: tuple[float, float, float], radii: tuple[float, float, float]
    ) -> Floats | None:
        """Return the squared relative distance to an ellipsoid pair, or None where it is far."""
        if self.low > centre[2] + 1.6 * radii[2] or self.high < centre[2] - 1.6 * radii[2]:
            return None
        return np.asarray(
            ((self.ax - centre[0]) / radii[0]) ** 2
            + ((self.y - centre[1]) / radii[1]) ** 2
            + ((self.z - centre[2]) / radii[2]) ** 2,
            np.float32,
        )


class Anatomy:
    """One head; everything about it comes from ``seed``.

    Parameters
    ----------
    seed
        Any non-negative integer.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        u = rng.uniform
        self._noise = self._draw_noise(rng)
        # Shape, mm.
        self.scale = u(0.92, 1.07, 3)
        self.semi_x, self.semi_y = 67 * u(0.95, 1.05), 84 * u(0.96, 1.04)
        self.up, self.low = 62.0, 80.0
        self.bone = u(4.5, 9.0)
        self.floor_bone = u(3.0, 9.0)
        self.scalp = u(3.0, 9.0)
        self.warp = u(0, 2 * np.pi, 4)
        self.warp_mm = u(0.5, 3.0, 4)
        self.orbit = (u(28, 33), u(-66, -58), u(-4, 3))
        # Levels, HU.
        shift = u(-5, 5)
        self.white = u(26, 31) + shift
        self.grey = self.white + u(6, 11)
        self.csf = u(2, 14) + 0.5 * shift
        self.vessel = u(42, 66) + 0.5 * shift
        self.muscle = u(46, 68)
        self.fat = u(-115, -75)
        self.cortical, self.diploe = u(850, 1500), u(350, 800)
        # Age and habit.
        age = u(0, 1)
        self.sulcus = 0.08 + 0.4 * age * u(0.5, 1.2)
        self.space_mm = 0.3 + 3.5 * age**2 * u(0.3, 1.2)
        self.ventricles = u(0.5, 0.9) + 0.9 * age * u(0, 1)
        self.falx_mm = u(0.5, 1.6) + (u(0.5, 1.5) if u() < 0.3 else 0)
        self.falx = u(42, 68)
        self.tentorium_mm = u(0.5, 2.0)
        self.sinus_mm = u(2.5, 6.0)
        self.pale = u(0, 8) * (u() < 0.5)  # leukoaraiosis beside the ventricles
        self.aeration = u(0.2, 1.2)
        # Look-alikes: (centre, radii, HU); the side is that of the sign of x.
        self.calcified: list[tuple[tuple[float, ...], tuple[float, ...], float]] = []
        self.infarcts: list[tuple[tuple[float, ...], tuple[float, ...], float]] = []
        self._draw_lookalikes(rng, age)

    def _draw_noise(self, rng: np.random.Generator) -> Floats:
        """Return (48, 48, 48) periodic noise; its zero sheets look like sulci."""
        white = rng.standard_normal((_GRID,) * 3).astype(np.float32)
        fine = ndimage.gaussian_filter(white, 1.9, mode="wrap")
        band = fine - ndimage.gaussian_filter(white, 3.6, mode="wrap")
        return np.asarray(band / band.std(), np.float32)

    def _draw_lookalikes(self, rng: np.random.Generator, age: float) -> None:
        u = rng.uniform
        if u() < 0.6:
            r = u(1.2, 3.5)
            self.calcified.append(((u(-1, 1), 24, 30), (r, r, r), u(80, 500)))
        for side in (-1, 1):
            if u() < 0.55:
                r = u(1.2, 4.0)
                place = (side * u(20, 27), u(32, 42), u(36, 44))
                self.calcified.append((place, (r, r * u(1, 2), r), u(90, 600)))
            if u() < 0.12:
                place = (side * u(17, 22), u(-8, 6), u(27, 33))
                self.calcified.append((place, (u(1.5, 3), u(2, 4), u(2, 4)), u(110, 300)))
            if u() < 0.4:  # calcified carotid siphon and vertebral arteries
                place = (side * u(8, 13), u(-14, -2), u(0, 7))
                self.calcified.append((place, (u(1, 2.5), u(1, 2.5), u(2, 5)), u(150, 800)))
        for _ in range(int(rng.integers(0, 3)) if u() < 0.5 else 0):
            place = (u(-1.2, 1.2), u(-70, 60), u(55, 85))
            self.calcified.append((place, (u(0.8, 2.2), u(2, 8), u(2, 6)), u(100, 900)))
        if u() < 0.25:  # small meningeal or vascular calcification anywhere
            place = (u(-50, 50), u(-60, 60), u(10, 70))
            r = u(1, 2.2)
            self.calcified.append((place, (r, r, r), u(150, 700)))
        for _ in range(int(rng.integers(1, 3)) if u() < 0.35 + 0.2 * age else 0):
            side = 1 if u() < 0.5 else -1
            place = (side * u(15, 60), u(-55, 60), u(5, 75))
            radii = (u(6, 24), u(8, 28), u(8, 24))
            self.infarcts.append((place, radii, float(u(self.csf + 4, self.white - 3))))

    def _sample_noise(self, x: Floats, y: Floats, z: Floats, shift: float = 0.0) -> Floats:
        place = np.stack([z, y, x]) / _GRID_MM + shift
        return np.asarray(
            ndimage.map_coordinates(
                self._noise, place, order=1, mode="grid-wrap", output=np.float32
            ),
            np.float32,
        )

    def at(self, x: Floats, y: Floats, z: Floats) -> Field:
        """Look at points of about one plane.

        Parameters
        ----------
        x, y, z
            (n,) float32, mm in the head frame.
        """
        sx, sy, sz = self.scale.astype(np.float32)
        w, a = self.warp, self.warp_mm.astype(np.float32)
        x, y, z = (
            x / sx + a[0] * np.sin(y / 37 + w[0]) + 0.4 * a[1] * np.sin(z / 15 + w[1]),
            y / sy + a[2] * np.sin(x / 33 + w[2]) + 0.4 * a[1] * np.sin(z / 19 + w[3]),
            z / sz + a[3] * np.sin(y / 41 + w[1]),
        )
        p = _Points(x, y, z)
        texture = self._sample_noise(x, y, z)
        rise = z - _CENTRE_Z_MM
        direction = np.stack(
            [
                x / (self.semi_x * (1 + 0.08 * np.clip(y / 84, -1, 1))),
                y / self.semi_y,
                rise / np.where(rise > 0, self.up, self.low),
            ],
            axis=-1,
        ).astype(np.float32)
        radial = np.sqrt((direction**2).sum(-1)) + np.float32(1e-6)
        table = (1 - radial) * _RADIUS_MM
        # Under the equator the skin goes straight down to face and neck.
        flat = np.where(rise > 0, direction[:, 2], direction[:, 2] * 0.3)
        outline = (1 - np.sqrt(direction[:, 0] ** 2 + direction[:, 1] ** 2 + flat**2)) * _RADIUS_MM
        floor = self._floor(p)
        depth = np.minimum(table, 0.8 * (z - floor)).astype(np.float32)
        thick = self.bone * (1 + 0.12 * texture + 0.35 * np.clip(np.abs(y) / 84 - 0.6, 0, 1))

        hu = np.full(x.shape, -1000, np.float32)
        self._soft_tissue(hu, p, outline, thick, texture)
        face = (z < floor - self.floor_bone * (1 + 0.3 * texture)) & (outline > 0)
        self._face(hu, p, face, texture)
        self._skull(hu, p, depths=(table, depth, floor), thick=thick, texture=texture)
        ventricle = self._ventricles(p)
        inside = depth > 0
        if inside.any():
            depths = (table, depth, ventricle)
            hu[inside] = self._brain(p, depths=depths, texture=texture)[inside]
        return Field(
            hu, depth, table.astype(np.float32), ventricle, direction / radial[:, None], texture
        )

    def _floor(self, p: _Points) -> Floats:
        """Return the height of the skull base: anterior, middle and posterior fossa."""
        ridge = -4 + 0.48 * p.ax  # petrous ridge, seen from above
        front = _sigmoid((-34 - p.y) / 4)
        back = _sigmoid((p.y - ridge) / 3) * (1 - front)
        roof = 7 * np.exp(-(((p.ax - 29) / 13) ** 2) - ((p.y + 60) / 16) ** 2)
        middle = np.where(p.ax < 16, 2.0, -14.0 + 8 * np.exp(-((p.ax - 16) / 8)))
        floor = front * (7 + roof) + back * -34 + (1 - front - back) * middle
        crest = 4 - ((p.y - ridge) / 4) ** 2 - np.clip(p.ax - 55, 0, None)
        return np.asarray(np.maximum(floor, crest), np.float32)

    def _soft_tissue(
        self, hu: Floats, p: _Points, outline: Floats, thick: Floats, texture: Floats
    ) -> None:
        under = outline + thick + self.scalp
        nose = p.ball((0, -94, -28), (13, 16, 22))
        ear = p.ball((76, 14, -8), (5, 15, 24))
        for part in (nose, ear):
            if part is not None:
                hu[part < 1] = self.fat + 90
        hu[under > 0] = 25
        hu[under > 1.8] = self.fat
        temporalis = (p.z < 38) & (p.ax > 40) & (np.abs(p.y + 18) < 34)
        nape = (p.z < 0) & (p.y > 20)
        hu[(under > self.scalp * 0.45) & (temporalis | nape)] = self.muscle - 3

    def _face(self, hu: Floats, p: _Points, face: Bools, texture: Floats) -> None:
        if not face.any():
            return
        x, y, z = p.x, p.y, p.z
        other = np.zeros(x.shape, np.float32)
        other[face] = self._sample_noise(0.9 * x[face], 0.9 * y[face], 0.6 * z[face], shift=17.3)
        hu[face] = self.muscle
        # Neck muscles are thick and as dense as blood; the face is mostly fat and thin bone.
        hu[face & (np.abs(other) < np.where(y > 25, 0.12, 0.28))] = self.fat
        hu[face & (other > 1.0) & (y < 25)] = self.fat
        hu[face & (other < -1.1) & (y < 15)] = 0.4 * self.cortical
        hu[face & (other < -1.6) & (y < -10)] = -900
        nasal = face & (p.ax < 17) & (y > -88) & (y < -34) & (z > -60)
        hu[nasal] = -950
        hu[nasal & (np.abs(np.sin(x * 0.33 + texture * 0.5)) < 0.3)] = 150
        for centre, radii, value, wall in (
            ((31.0, -58.0, -38.0), (16.0, 18.0, 18.0), -950.0, 300.0),
            ((0.0, -10.0, -52.0), (11.0, 8.0, 26.0), -950.0, 45.0),
            ((51.0, -22.0, -48.0), (5.0, 14.0, 26.0), 700.0, 1200.0),
            ((60.0, -45.0, -22.0), (6.0, 20.0, 5.0), 800.0, 900.0),
            ((48.0, 27.0, -32.0), (12.0, 14.0, 18.0), 500.0, 900.0),
        ):
            ball = p.ball(centre, radii)
            if ball is not None:
                hu[face & (ball < 1.35)] = wall
                hu[face & (ball < 1)] = value
        spine = np.sqrt(x**2 + (y - 27) ** 2)
        low = face & (z < -30)
        for radius, value in ((26.0, 700.0), (15.0, self.csf), (8.0, self.white + 4)):
            ring = low & (spine < radius)
            hu[ring] = value if radius < 20 else np.where(texture > 0.6, 60, value)[ring]

    def _skull(
        self,
        hu: Floats,
        p: _Points,
        *,
        depths: tuple[Floats, Floats, Floats],
        thick: Floats,
        texture: Floats,
    ) -> None:
        table, depth, floor = depths
        below = floor - p.z
        base = (below >= 0) & (below <= self.floor_bone * (1 + 0.4 * texture)) & (table > -thick)
        vault = (table <= 0) & (table > -thick) & (p.z > floor - 14)
        middle = 1 - np.abs(2 * np.clip(-table / thick, 0, 1) - 1)
        grain = self.diploe * (1 + 0.25 * texture)
        bone = self.cortical + (grain - self.cortical) * np.clip(1.4 * middle, 0, 1)
        hu[vault] = bone[vault]
        hu[base] = self.cortical * (0.75 + 0.15 * texture[base])
        # Petrous bone and mastoid: thick, with air cells.
        petrous = (
            (np.abs(p.y - (-4 + 0.48 * p.ax)) < 12) & (p.ax > 14) & (below >= 0) & (below < 26)
        ) & (table > -thick)
        hu[petrous] = self.cortical * 0.9
        mastoid = np.flatnonzero(petrous & (p.ax > 36))
        if mastoid.size:
            cells = self._sample_noise(*(2 * v[mastoid] for v in (p.x, p.y, p.z)), shift=5.1)
            hu[mastoid[cells > 1.5 - self.aeration]] = -600
        for centre, radii in (
            ((0.0, -24.0, -8.0), (13.0, 12.0, 9.0)),
            ((8.0, -87.0, 16.0), (16.0 * self.aeration, 4.0, 12.0)),
        ):
            air = p.ball(centre, radii)
            if air is not None:
                hu[(air < 1) & (depth <= 0)] = -950
        self._orbits(hu, p, depth)

    def _orbits(self, hu: Floats, p: _Points, depth: Floats) -> None:
        ox, oy, oz = self.orbit
        cone = p.ball((ox, oy, oz), (19, 25, 17))
        if cone is None:
            return
        out = depth <= 0
        hu[out & (cone < 1.25) & (p.y > oy - 12)] = 600
        hu[out & (cone < 1)] = self.fat + 15
        nerve = np.hypot(p.ax - ox + (p.y - oy) * 0.35, p.z - oz)
        hu[out & (cone < 1) & (nerve < 2.2)] = 35
        hu[out & (cone < 0.85) & (np.abs(nerve - 11) < 1.8)] = self.muscle - 5
        globe = p.ball((ox, oy - 14, oz), (12, 12, 12))
        if globe is not None:
            hu[globe < 1.15] = 50
            hu[globe < 0.9] = 14
        lens = p.ball((ox, oy - 24, oz), (4, 2, 4))
        if lens is not None:
            hu[lens < 1] = 75

    def _ventricles(self, p: _Points) -> Floats:
        v = self.ventricles
        best = np.full(p.x.shape, 9, np.float32)
        bow = 0.0035 * (p.y - 2) ** 2  # the bodies diverge to the front and to the back
        shifted = _Points(p.x, p.y, p.z)
        shifted.ax = p.ax - bow
        for points, centre, radii in (
            (shifted, (9.0, -4.0, 49.0), (6.5 * v, 36.0, 8.5 * v)),
            (p, (24.0, 38.0, 38.0), (7.0 * v, 15.0, 9.0 * v)),
            (p, (33.0, 12.0, 13.0), (2.5 * v, 15.0, 3.5 * v)),
            (p, (0.0, 6.0, 33.0), (2.2 * v, 14.0, 10.0)),
            (p, (0.0, 42.0, -6.0), (7.0 * v, 5.0 * v, 9.0)),
        ):
            ball = points.ball(centre, radii)
            if ball is not None:
                np.minimum(best, ball, out=best)
        return best

    def _brain(
        self, p: _Points, *, depths: tuple[Floats, Floats, Floats], texture: Floats
    ) -> Floats:
        table, depth, ventricle = depths
        x, ax, y, z = p.x, p.ax, p.y, p.z
        grey, white, csf = self.grey, self.white, self.csf
        value = np.full(x.shape, white, np.float32)
        value -= self.pale * np.clip((3.5 - ventricle) / 2.5, 0, 1)
        ribbon = (depth < self.space_mm + 4) | ((np.abs(texture) < 0.45) & (depth < 24))
        value[ribbon] = grey
        for centre, radii in (
            ((20.0, -4.0, 31.0), (8.0, 18.0, 12.0)),
            ((11.0, 15.0, 32.0), (8.0, 12.0, 9.0)),
        ):
            core = p.ball(centre, radii)
            if core is not None:
                value[core < 1] = grey - 1
        tent = 27 - 0.32 * ax - 0.0035 * (y - 30) ** 2 - 0.10 * np.clip(y - 30, 0, None)
        behind = y > -4 + 0.48 * ax
        below = behind & (z < tent) & (np.hypot(x, y - 14) > 16)
        value[below] = 0.5 * (grey + white) + 1.5 * texture[below]
        fissure = (np.abs(texture) < self.sulcus * np.clip(1.15 - depth / 22, 0, 1)) & ~below
        value[fissure] = csf
        value[depth < self.space_mm] = csf
        self._cisterns(value, p)
        for centre, radii, level in self.infarcts:
            part = _side_ball(p, centre, radii)
            if part is not None:
                value[part + 0.3 * texture < 1] = level + 2 * texture[part + 0.3 * texture < 1]
        value[(ax < self.falx_mm / 2 + 0.5 * self.space_mm + 0.4) & (z > 40) & (table < 45)] = csf
        value[ventricle < 1] = csf
        self._dura(value, p, depths=(table, depth), tent=tent, behind=behind)
        for centre, radii, level in self.calcified:
            part = _side_ball(p, centre, radii)
            if part is not None:
                value[part < 1] = level
        return value

    def _cisterns(self, value: Floats, p: _Points) -> None:
        """Basal cisterns, Sylvian fissures and brainstem, with the vessels in them."""
        x, ax, y, z = p.x, p.ax, p.y, p.z
        wide = 0.6 + self.space_mm
        sylvian = np.abs(y + 16 - 0.25 * (z - 25) + 0.15 * (ax - 40)) < wide
        value[sylvian & (ax > 32) & (z > 6) & (z < 42)] = self.csf
        insula = np.abs(ax - 34 - 0.01 * (y + 5) ** 2) < 0.5 * wide
        value[insula & (np.abs(y + 5) < 18) & (z > 12) & (z < 42)] = self.csf
        star = p.ball((0, -6, 8), (13, 11, 6))
        if star is not None:
            value[star < 1] = self.csf
        stem = np.sqrt((x / 17) ** 2 + ((y - 14) / 15) ** 2)
        near = (z < 20) & (z > -34)
        ambient = np.abs(stem - 1) < 0.06 * wide
        value[near & ambient & ((y < 8) | ((z > 4) & (ax > 4)))] = self.csf
        value[near & (stem < 1 - 0.06 * wide)] = 0.4 * self.grey + 0.6 * self.white
        for cx, cy, cz, r, rz in (
            (0.0, -3.0, 2.0, 2.2, 12.0),  # basilar
            (9.0, -8.0, 7.0, 2.2, 4.0),  # carotid ends
            (22.0, -14.0, 9.0, 1.6, 1.8),  # middle cerebral
            (30.0, -15.0, 10.0, 1.6, 1.8),
        ):
            tube = p.ball((cx, cy, cz), (r if cx < 15 else 7.0, r, rz))
            if tube is not None:
                value[tube < 1] = self.vessel

    def _dura(
        self,
        value: Floats,
        p: _Points,
        *,
        depths: tuple[Floats, Floats],
        tent: Floats,
        behind: Bools,
    ) -> None:
        """Falx, tentorium and the venous sinuses in their edges: dense, and not a bleed."""
        table, depth = depths
        ax, y, z = p.ax, p.y, p.z
        falx = (ax < self.falx_mm / 2) & (z > 34) & ((table < 38) | (y > 30))
        value[falx] = self.falx
        sheet = behind & (np.abs(z - tent) < self.tentorium_mm) & (np.hypot(p.x, y - 14) > 17)
        value[sheet] = self.falx
        r = self.sinus_mm
        sagittal = (ax + 0.7 * depth < r) & (z > 15) & ((y > 0) | (z > 70))
        value[sagittal] = self.vessel
        transverse = behind & (depth < 1.3 * r) & (np.abs(z - tent + 1) < r) & (y > 25) & (ax > 4)
        value[transverse] = self.vessel
        sigmoid = behind & (depth < r) & (ax > 42) & (z < tent) & (y < 45)
        value[sigmoid] = self.vessel


def _side_ball(p: _Points, centre: tuple[float, ...], radii: tuple[float, ...]) -> Any:
    """Return the squared relative distance to one ellipsoid on its own side, or None."""
    cx, cy, cz = centre
    if p.low > cz + 1.6 * radii[2] or p.high < cz - 1.6 * radii[2]:
        return None
    return (
        ((p.x - cx) / radii[0]) ** 2 + ((p.y - cy) / radii[1]) ** 2 + ((p.z - cz) / radii[2]) ** 2
    )
