"""One slice of a synthetic head CT on real anatomy, with and without its lesion (training only).

Frame: MNI152 millimetres; x to the side, y to the front, z to the vertex. The levels are
those that CT tables give (white matter about 28 HU, grey 37, CSF 8, clotted blood 50-85),
drawn wider than life so that a model cannot lean on one calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.ich.template import ORIGIN_MM, Floats, Template

__all__ = ["KINDS", "Sample", "draw", "draw_study"]

KINDS = ("epidural", "subdural", "subarachnoid", "intraparenchymal", "intraventricular")
_OFTEN = (0.14, 0.27, 0.29, 0.16, 0.14)  # the thin ones are the hard ones

_SIZE = 256
_LAYERS = 2
_VISIBLE_HU = 7.0  # what blood must add to a pixel to be part of the truth,
_VISIBLE_NOISE = 1.5  # and how many times the noise
_POSITIVE_MM2 = 50.0
_DOUBTFUL_MM2 = 8.0
_NOISE_MM = 2.5


@dataclass(frozen=True, slots=True)
class Sample:
    """A slice and its lesion-free twin.

    Attributes
    ----------
    hu
        (256, 256) float32, HU: with the lesion.
    twin
        The same slice of the same head, same noise, without it.
    lesion
        (256, 256) bool.
    kind
        One of ``KINDS``; empty when the slice shows no blood.
    lookalikes
        What is in the slice that may be taken for blood.
    pixel_mm
        Side of a pixel.
    """

    hu: Floats
    twin: Floats
    lesion: NDArray[np.bool_]
    kind: str
    area_mm2: float
    lookalikes: frozenset[str]
    pixel_mm: float

    @property
    def positive(self) -> bool:
        """The slice shows at least 50 mm2 of blood."""
        return self.area_mm2 >= _POSITIVE_MM2


def _noise() -> Floats:
    rng = np.random.default_rng(77)
    white = rng.standard_normal((64, 64, 64)).astype(np.float32)
    band = ndimage.gaussian_filter(white, 1.7, mode="wrap")
    band -= ndimage.gaussian_filter(white, 3.4, mode="wrap")
    return np.asarray(band / band.std(), np.float32)


_TEXTURE = _noise()


def _step(v: Floats) -> Floats:
    """Return 0 to 1 as ``v`` goes from -0.5 to 0.5: a border with partial volume."""
    return np.clip(v + 0.5, 0, 1)


class _Points:
    """What is at the points of a slab: (n,) float32 each."""

    def __init__(self, template: Template, xyz: Floats, shift: Floats) -> None:
        self.x, self.y, self.z = xyz
        self.ax = np.abs(self.x)
        place = xyz - np.array(ORIGIN_MM, np.float32)[:, None]
        for name in Template.__dataclass_fields__:
            value = ndimage.map_coordinates(
                getattr(template, name), place, np.float32, 1, mode="nearest", prefilter=False
            )
            setattr(self, name, value)
        self.texture = self.sample(1 / _NOISE_MM, shift)

    grey: Floats
    white: Floats
    table: Floats
    ventricle: Floats
    outline: Floats

    def sample(self, scale: float, shift: Floats) -> Floats:
        place = np.stack([self.x, self.y, self.z]) * np.float32(scale) + shift[:, None]
        return ndimage.map_coordinates(_TEXTURE, place, np.float32, 1, mode="grid-wrap")

    def ball(
        self, centre: tuple[float, ...], radii: tuple[float, ...], both: bool = True
    ) -> Floats:
        """Return the squared relative distance to an ellipsoid, or to it and its mirror image."""
        x = self.ax if both else self.x
        parts = ((v - c) / r for v, c, r in zip((x, self.y, self.z), centre, radii, strict=True))
        return sum(p**2 for p in parts)


class _Head:
    """One head; paints tissue on points."""

    def __init__(self, rng: np.random.Generator, z_mm: float) -> None:
        self.rng, self.z_mm, u = rng, z_mm, rng.uniform
        self.shift = u(0, 64, 3).astype(np.float32)
        offset = u(-5, 5)
        self.white = u(24, 30) + offset
        self.grey = self.white + u(6, 11)
        self.csf = u(3, 14) + 0.5 * offset
        self.vessel = u(40, 62) + 0.5 * offset
        self.muscle, self.fat = u(45, 68), u(-115, -75)
        self.cortical, self.diploe = u(850, 1500), u(350, 900)
        self.age = u()
        self.space_mm = 0.2 + 3.2 * self.age**2 * u(0.2, 1.2)
        self.bone_mm, self.scalp_mm, self.base_mm = u(4, 9), u(3, 9), u(3, 8)
        self.lookalikes: set[str] = set()

    def paint(self, p: _Points) -> Floats:
        hu = np.full(p.x.shape, -1000, np.float32)
        self._outside(hu, p)
        inside = self._brain(p)
        # The inner table is a sharp border; its partial volume comes from the layers.
        return np.where(p.table > 0, inside, hu)

    def _outside(self, hu: Floats, p: _Points) -> None:
        rng, u, t = self.rng, self.rng.uniform, p.texture
        thick = self.bone_mm * (1 + 0.12 * t + 0.3 * np.clip(np.abs(p.y + 18) / 88 - 0.6, 0, 1))
        shell = np.maximum(p.table, p.outline)
        skin = shell + thick + self.scalp_mm
        hu[skin > 0], hu[skin > 1.6] = 20, self.fat
        muscles = ((p.z < 20) & (p.ax > 45) & (p.y > -30) & (p.y < 45)) | (
            (p.z < -30) & (p.y < -30)
        )
        hu[(skin > 0.45 * self.scalp_mm) & muscles] = self.muscle - 3
        face = (p.outline > -thick) & (p.z < -30)
        other = p.sample(0.5 / _NOISE_MM, self.shift + 17)
        hu[face] = self.muscle
        hu[face & (np.abs(other) < np.where(p.y < -40, 0.12, 0.28))] = self.fat
        hu[face & (other < -1.1) & (p.y > -40)] = 0.5 * self.cortical
        hu[face & (other < -1.6) & (p.y > 0)] = -900
        level = self.base_mm * (1 + 0.35 * t)
        middle = np.clip(-p.table / thick, 0, 1)
        bone = self.cortical + (self.diploe * (1 + 0.2 * t) - self.cortical) * np.clip(
            1.4 * (1 - np.abs(2 * middle - 1)), 0, 1
        )
        vault = (p.table > -thick) & (p.z > -20)
        ring = (p.outline <= 0) & (p.outline > -thick) & (p.z > u(-55, -36))
        base = (p.table > -level) & (p.z <= -20)
        # What the brain leaves free inside the outline is petrous and sphenoid bone.
        gap = (p.outline > 0) & (p.z > u(-46, -38) + 4 * t) & (p.table > -14)
        for part in (vault, ring, base, gap):
            hu[part] = bone[part]
        low = gap | base
        cells = p.sample(1.4 / _NOISE_MM, self.shift + 5)
        hu[low & (p.ax > 32) & (p.y < -18) & (cells > u(0.1, 1.4))] = -700
        hu[low & (cells < -1.3)] = 60
        self._cavities(hu, p, u)
        spine = np.hypot(p.x, p.y + 46)
        deep = (p.z < -62) & (p.table <= 0)
        for radius, value in ((27.0, 0.6 * self.cortical), (15.0, self.csf), (8.0, self.white + 4)):
            hu[deep & (spine < radius)] = value
        if rng.uniform() < 0.1:  # dental metal far below gives streaks; see _acquire
            hu[(p.ball((28, 40, -95), (6, 14, 6)) < 1)] = 3000

    def _cavities(self, hu: Floats, p: _Points, u: object) -> None:
        u = self.rng.uniform
        free = (p.table < -1.5) & (p.outline > -6)
        for centre, radii, wall, value in (
            ((0, 18, -36), (u(8, 15), u(8, 14), u(6, 11)), 300, -950),
            ((8, 71, -2), (u(4, 18), u(2, 5), u(6, 14)), 600, -950),
            ((8, 50, -38), (10, 22, u(6, 12)), 300, -900),
            ((8, 45, -62), (12, 35, 26), 200, -930),
            ((29, 42, -66), (15, 17, 17), 300, -950),
            ((31, 52, -36), (18, 26, 16), 500, self.fat + 15),
        ):
            ball = p.ball(centre, radii)
            hu[free & (ball < 1.2)], hu[free & (ball < 1)] = wall, value
        orbit = free & (p.ball((31, 52, -36), (18, 26, 16)) < 1)
        nerve = np.hypot(p.ax - 31 + (68 - p.y) * 0.35, p.z + 36)
        hu[orbit & (nerve < 2.2)] = 35
        hu[orbit & (np.abs(nerve - 11) < 1.8)] = self.muscle - 5
        globe = p.ball((32, 66, -36), (12, 12, 12))
        hu[free & (globe < 1.15)], hu[free & (globe < 0.9)] = 50, 14

    def _brain(self, p: _Points) -> Floats:
        u, t = self.rng.uniform, p.texture
        tissue = p.grey + p.white + 1e-3
        share = np.clip(0.5 + u(0.6, 1.3) * (p.white - p.grey) / tissue, 0, 1)
        tent = -4 - 0.38 * p.ax - 0.22 * np.clip(-50 - p.y, 0, None) + 1.5 * t * 0.3
        behind = p.y < -18 - 0.4 * p.ax
        below = behind & (p.z < tent)
        level = 0.35 + 0.3 * self.age * u()
        fluid = np.clip(0.5 + u(2, 5) * (level - tissue), 0, 1)
        sulcus = (0.04 + 0.36 * self.age * u()) * np.clip(1.1 - p.table / 24, 0, 1)
        fluid = np.maximum(fluid, _step(6 * (sulcus - np.abs(t))) * ~below * (p.table < 24))
        fluid = np.maximum(fluid, _step(self.space_mm - p.table))
        self.grown_mm = u(-1.5, 1.0) + 5.0 * self.age * u(0, 1) ** 2
        chamber = _step((self.grown_mm - p.ventricle) / 1.2)
        self.fluid, self.chamber = fluid * (p.ventricle > self.grown_mm + 1), chamber
        value = self.grey + (self.white - self.grey) * share
        value -= (u() < 0.4) * u(0, 8) * np.clip(1 - (p.ventricle - self.grown_mm) / 12, 0, 1)
        value = self._infarcts(value, p)
        gap = (p.ax < 0.7 + 0.7 * self.space_mm) & (p.z > -2) & (p.table < 34)
        fluid = np.maximum(np.maximum(fluid, gap), chamber)
        value = value + (self.csf - value) * fluid
        self._dura(value, p, tent, behind)
        self._calcifications(value, p)
        return value

    def _infarcts(self, value: Floats, p: _Points) -> Floats:
        u = self.rng.uniform
        for _ in range(int(self.rng.integers(1, 3)) if u() < 0.3 else 0):
            centre = (u(-60, 60), u(-80, 55), self.z_mm + u(-15, 15))
            old = p.ball(centre, (u(5, 26), u(6, 28), u(8, 24)), both=False) + 0.3 * p.texture
            weight = np.clip((1.15 - old) / 0.3, 0, 1)
            value = value + (u(self.csf + 3, self.white - 3) - value) * weight
            if weight.max() > 0.5:
                self.lookalikes.add("infarct")
        return value

    def _dura(self, value: Floats, p: _Points, tent: Floats, behind: NDArray[np.bool_]) -> None:
        u, t = self.rng.uniform, p.texture
        level, thick_falx = u(40, 66), u() < 0.25
        falx = (np.abs(p.x + 0.8 * t) < (u(1.2, 2.6) if thick_falx else u(0.3, 1.1))) & (p.z > -12)
        falx &= p.table < np.where(p.y > 0, 26, 40)
        sheet = behind & (np.abs(p.z - tent) < u(0.4, 2.2)) & (np.hypot(p.x, p.y + 32) > 20)
        r = u(2.0, 5.5)
        sinus = (p.ax + 0.7 * p.table < r) & (p.z > -15) & ((p.y < -15) | (p.z > 50))
        sinus |= behind & (p.table < 1.3 * r) & (np.abs(p.z - tent + 1) < r) & (p.y < -48)
        sinus |= behind & (p.table < r) & (p.ax > 40) & (p.z < tent) & (p.y > -68)
        value[falx] = value[sheet] = level
        value[sinus] = self.vessel
        for centre, radii in (
            ((0, -8, -28), (2, 2, 11)),
            ((10, 3, -20), (2.2, 2.2, 4)),
            ((20, 6, -18), (9, 1.5, 1.7)),
            ((2, 30, -2), (1.4, 1.6, 14)),
        ):
            value[p.ball(centre, radii) < 1] = self.vessel
        for name, part in (("falx", falx & thick_falx), ("tentorium", sheet), ("sinus", sinus)):
            if part.sum() > 40:
                self.lookalikes.add(name)

    def _calcifications(self, value: Floats, p: _Points) -> None:
        u = self.rng.uniform
        spots: list[tuple[tuple[float, ...], tuple[float, ...], float]] = []
        if u() < 0.6:
            spots.append(((u(-1, 1), -29, 1), (u(1.2, 3.5),) * 3, u(80, 500)))
        for side in (-1, 1):
            if u() < 0.55:
                centre = (side * u(20, 28), u(-48, -36), u(4, 14))
                spots.append((centre, (u(1.2, 4), u(1.5, 6), u(1.5, 5)), u(90, 600)))
            if u() < 0.12:
                spots.append(((side * u(15, 22), u(-4, 8), u(-4, 4)), (2.5, 3.5, 3.5), u(90, 300)))
            if u() < 0.4:
                spots.append(((side * u(8, 13), u(-2, 10), u(-32, -20)), (2, 2, 4), u(150, 800)))
        for _ in range(int(self.rng.integers(0, 4))):
            z = self.z_mm + u(-8, 8)
            free = u() < 0.35
            centre = (u(-55, 55) if free else u(-1.2, 1.2), u(-90, 60), z)
            radii = (u(0.8, 2.2),) * 3 if free else (u(0.8, 2), u(2, 8), u(2, 6))
            spots.append((centre, radii, u(100, 900)))
        for centre, radii, level in spots:
            part = p.ball(centre, radii, both=False) < 1
            value[part] = level
            if part.sum() > 6:
                self.lookalikes.add("calcification")


Blood = tuple[Floats, Floats]  # fraction of blood and of oedema at the points: 0..1


def _spot(rng: np.random.Generator, good: NDArray[np.bool_]) -> int | None:
    """Return a point where ``good`` holds, if there is one."""
    spots = np.flatnonzero(good)
    return int(rng.choice(spots)) if spots.size else None


def _bleed(rng: np.random.Generator, kind: str, head: _Head, p: _Points) -> Blood:
    if kind == "intraventricular":
        return _intraventricular(rng, head, p)
    if kind == "subarachnoid":
        return _subarachnoid(rng, head, p)
    if kind == "intraparenchymal":
        return _intraparenchymal(rng, head, p)
    return _extra_axial(rng, kind, p)


def _intraventricular(rng: np.random.Generator, head: _Head, p: _Points) -> Blood:
    u, none = rng.uniform, np.zeros(p.x.shape, np.float32)
    inside = p.table > 0
    if not (head.chamber > 0.5).any():
        return none, none
    ys = p.y[head.chamber > 0.5]
    top = float(np.quantile(ys, u(0.12, 1.0))) if u() < 0.8 else 999.0
    side = np.ones_like(none) if u() < 0.5 else _step(p.x * rng.choice([-1, 1]))
    return head.chamber * _step((top - p.y) / 1.5) * side * inside, none


def _subarachnoid(rng: np.random.Generator, head: _Head, p: _Points) -> Blood:
    u, none = rng.uniform, np.zeros(p.x.shape, np.float32)
    inside = p.table > 0
    i = _spot(rng, inside & (head.fluid > 0.5))
    if i is None:
        return none, none
    if p.z[i] < 5 and u() < 0.7:  # around the basal cisterns and the Sylvian fissures
        centre = (u(-15, 15), u(-10, 15), -20.0)
        reach = (u(20, 50), u(18, 40), u(18, 35))
    else:
        centre, reach = (p.x[i], p.y[i], p.z[i]), (u(10, 45), u(10, 45), u(10, 30))
    near = np.clip((1.2 - p.ball(centre, reach, both=False)) / 0.5, 0, 1)
    return near * np.clip(1.5 * head.fluid, 0, 1) * inside, none


def _intraparenchymal(rng: np.random.Generator, head: _Head, p: _Points) -> Blood:
    u, none = rng.uniform, np.zeros(p.x.shape, np.float32)
    inside = p.table > 0
    i = _spot(rng, (p.table > 4) & (head.fluid < 0.3) & (head.chamber < 0.3))
    if i is None:
        return none, none
    radius = np.exp(u(np.log(4), np.log(26)))
    radii = tuple(radius * u(0.7, 1.35, 3))
    away = np.sqrt(p.ball((p.x[i], p.y[i], p.z[i]), radii, both=False)) + u(0.02, 0.14) * p.texture
    edge = np.float32(max(1.2 / radius, 0.04))
    rim = _step((1 + u(1, 8) / radius - away) / (2 * edge)) * (p.table > 1)
    return _step((1 - away) / edge) * inside, rim * u(0.2, 1) * inside


def _extra_axial(rng: np.random.Generator, kind: str, p: _Points) -> Blood:
    """Return a lens or a crescent under the inner table, or a film along the falx."""
    u, none = rng.uniform, np.zeros(p.x.shape, np.float32)
    inside = p.table > 0
    i = _spot(rng, inside & (p.table < 4) & (p.ax > 14) & (p.z > -55))
    if i is None:
        return none, none
    centre, semi = np.array([0, -18, 0], np.float32), np.array([66, 86, 72], np.float32)
    place = (np.stack([p.x, p.y, p.z], -1) - centre) / semi
    place /= np.linalg.norm(place, axis=-1, keepdims=True) + 1e-6
    if kind == "subdural" and u() < 0.15:
        strip = np.clip(1 - np.abs(p.y - p.y[i]) / u(20, 60), 0, 1)
        beside = p.x * np.sign(p.x[i])
        sheet = _step(u(3, 8) * strip**0.4 - beside) * _step(beside - 0.3) * (p.table < 38)
        return sheet * (p.z > -2) * inside, none
    narrow = u(0.80, 0.985) if kind == "epidural" else u(0.0, 0.9)
    away = (1 - place @ place[i]) / (1 - narrow)
    profile = np.clip(1 - away, 0, 1) ** (0.9 if kind == "epidural" else 0.4)
    deep = u(7, 26) if kind == "epidural" else u(3.5, 14)
    same = _step(p.x * np.sign(p.x[i]) - 1.5)
    thick = deep * profile * (1 + 0.08 * p.texture)
    return _step(thick - p.table) * same * inside * (profile > 0), none


class _Pose:
    """How a head lies in the scanner, and the shape it has."""

    def __init__(self, rng: np.random.Generator) -> None:
        u = rng.uniform
        self.moved_mm = u(-9, 9), u(-12, 12)
        self.turn, self.tilt, self.roll = np.deg2rad(
            [rng.normal(0, 8), u(-24, 16), rng.normal(0, 3.5)]
        )
        self.thick_mm = u(3.0, 10.0) if u() < 0.7 else u(0.6, 3.0)
        self.scale, self.phase, self.size = u(0.92, 1.1, 3), u(0, 2 * np.pi, 6), u(0.3, 3.5, 6)

    def points(
        self,
        template: Template,
        field_mm: float,
        z_mm: float,
        shift: Floats,
        heights_mm: Sequence[float] = (0.0,),
    ) -> tuple[_Points, NDArray[np.int64]]:
        """Return the points of tilted slabs at these heights over ``z_mm``, and their pixels.

        Points that cannot show the head are left out. Pixels of the second slab go on counting
        where those of the first end.
        """
        line = ((np.arange(_SIZE) - (_SIZE - 1) / 2) * field_mm / _SIZE).astype(np.float32)
        rows, columns = np.meshgrid(-line, line, indexing="ij")
        x, y = (columns - self.moved_mm[0]).ravel(), (rows - self.moved_mm[1]).ravel()
        near = np.flatnonzero((x / 98) ** 2 + (y / 122) ** 2 < 1)
        x, y = x[near], y[near]
        turn, tilt, roll = self.turn, self.tilt, self.roll
        x, y = np.cos(turn) * x + np.sin(turn) * y, -np.sin(turn) * x + np.cos(turn) * y
        slabs = []
        for height in heights_mm:
            for layer in range(_LAYERS):
                # Neighbours see staggered heights; the blur mixes them into one thick slice.
                stagger = ((near % 2) + 2 * ((near // _SIZE) % 2)) / 4 + 0.125
                z = ((layer + stagger) / _LAYERS - 0.5).astype(np.float32)
                z = z * np.float32(self.thick_mm) + np.float32(height)
                y1, z1 = np.cos(tilt) * y - np.sin(tilt) * z, np.sin(tilt) * y + np.cos(tilt) * z
                x1, z2 = np.cos(roll) * x + np.sin(roll) * z1, -np.sin(roll) * x + np.cos(roll) * z1
                slabs.append(np.stack([x1, y1 - 18, z2 + z_mm]))
        pixels = [k * _SIZE * _SIZE + near for k in range(len(heights_mm)) for _ in range(_LAYERS)]
        x, y, z = np.concatenate(slabs, axis=1)
        scale, phase, size = self.scale, self.phase, self.size
        warped = np.stack(
            [
                x / scale[0]
                + size[0] * np.sin(y / 37 + phase[0])
                + size[1] * np.sin(z / 29 + phase[1]),
                y / scale[1]
                + size[2] * np.sin(x / 33 + phase[2])
                + size[3] * np.sin(z / 31 + phase[3]),
                z / scale[2]
                + size[4] * np.sin(y / 41 + phase[4])
                + size[5] * np.sin(x / 39 + phase[5]),
            ]
        ).astype(np.float32)
        return _Points(template, warped, shift), np.concatenate(pixels)


def draw(template: Template, seed: int, vertex: bool = False) -> Sample:
    """Return the slice of this seed. Two of ten have no lesion: twin and slice are the same."""
    rng = np.random.default_rng([seed, 11])
    u = rng.uniform
    z_mm, field_mm = u(-66, 76), u(195, 275)
    kind = str(rng.choice(KINDS, p=_OFTEN)) if u() < 0.82 else ""
    if kind == "intraventricular":
        z_mm = u(-40, 34)
    elif kind:
        z_mm = u(-48, 72)
    if vertex:  # where the dome of bone fades through the slice
        kind, z_mm = kind if u() < 0.5 else "", u(52, 88)
    head = _Head(rng, z_mm)
    p, pixel = _Pose(rng).points(template, field_mm, z_mm, head.shift)
    return _scan(rng, head, kind, p, pixel, field_mm)[0]


def draw_study(template: Template, seed: int, kind: str) -> tuple[list[Sample], float, float]:
    """Return the slices of a whole head from the lowest up, their distance and field of view, mm.

    Parameters
    ----------
    kind
        One of ``KINDS``, or empty for a head that does not bleed. Where there is no room for
        the bleed, the head has none: look at the samples.
    """
    rng = np.random.default_rng([seed, 12])
    u = rng.uniform
    low_mm, high_mm, field_mm = u(-62, -45), u(84, 92), u(205, 265)
    head, pose = _Head(rng, u(-30, 50)), _Pose(rng)
    pose.thick_mm = step = float(np.clip(pose.thick_mm, 3, 8))
    middle = (low_mm + high_mm) / 2
    heights = np.arange(low_mm, high_mm, step) - middle
    p, pixel = pose.points(template, field_mm, middle, head.shift, [float(h) for h in heights])
    return _scan(rng, head, kind, p, pixel, field_mm, len(heights)), step, field_mm


def _scan(
    rng: np.random.Generator,
    head: _Head,
    kind: str,
    p: _Points,
    pixel: NDArray[np.int64],
    field_mm: float,
    slices: int = 1,
) -> list[Sample]:
    """Paint a head, let it bleed, and take its slices."""
    u = rng.uniform
    clean = head.paint(p)
    levels, blood = [clean], np.zeros_like(clean)
    if kind:
        blood, oedema = _bleed(rng, kind, head, p)
        level = u(54, 84) + 4 * p.texture * u(0, 1)
        hu = clean + (np.minimum(clean, head.white - u(2, 10)) - clean) * oedema
        levels.append(hu + (np.maximum(level, hu) - hu) * blood)
    grids = [_grid(v, pixel, -1000.0, slices) for v in levels]
    fraction = _grid(blood, pixel, 0.0, slices)
    inside = _grid((p.table > 0).astype(np.float32), pixel, 0.0, slices)
    depth = _grid(p.table, pixel, -60.0, slices)
    place = _grid(p.z, pixel, head.z_mm, slices)
    sigma = max(u(0.4, 1.1) * _SIZE / field_mm, 0.7)
    samples: list[Sample] = []
    start = rng.bit_generator.state
    for k in range(slices):
        rng.bit_generator.state = start  # one scanner, one setting: the same for each slice
        smooth = [ndimage.gaussian_filter(g[k], sigma) for g in grids]
        added = smooth[-1] - smooth[0]
        noise_hu = float(np.exp(u(np.log(1.2), np.log(7.5))))
        least_hu = max(_VISIBLE_HU, _VISIBLE_NOISE * noise_hu)
        visible = (ndimage.gaussian_filter(fraction[k], sigma) > 0.4) & (added > least_hu)
        area, shown = float(visible.sum() * (field_mm / _SIZE) ** 2), kind
        if not kind or area < _DOUBTFUL_MM2:
            smooth, shown, visible, area = smooth[:1], "", np.zeros_like(visible), 0.0
        z_mm = head.z_mm if slices == 1 else float(np.median(place[k]))
        images = _acquire(rng, smooth, inside[k], depth[k], field_mm, sigma, z_mm, noise_hu, k)
        marks = frozenset(head.lookalikes)
        pixel_mm = field_mm / _SIZE
        samples.append(Sample(images[-1], images[0], visible, shown, area, marks, pixel_mm))
    return samples


def _grid(values: Floats, pixel: NDArray[np.int64], empty: float, slices: int) -> Floats:
    """Return the mean of the points in each pixel: (slices, 256, 256)."""
    total = np.bincount(pixel, values, slices * _SIZE * _SIZE)
    seen = np.bincount(pixel, minlength=slices * _SIZE * _SIZE)
    mean = np.where(seen > 0, total / np.maximum(seen, 1), empty)
    return mean.reshape(slices, _SIZE, _SIZE).astype(np.float32)


def _acquire(
    rng: np.random.Generator,
    images: list[Floats],
    inside: Floats,
    depth: Floats,
    field_mm: float,
    sigma: float,
    z_mm: float,
    noise_hu: float,
    number: int,
) -> list[Floats]:
    """Add what a scanner adds; the same to each of ``images``."""
    u, pixel_mm = rng.uniform, field_mm / _SIZE
    line = ((np.arange(_SIZE) - (_SIZE - 1) / 2) * pixel_mm).astype(np.float32)
    y, x = np.meshgrid(line, line, indexing="ij")
    under = np.clip(depth, 0, None)
    shade = u(-2, 8) * np.exp(-under / u(3, 12)) + u(-4, 4) * np.clip(under / 60, 0, 1)
    # Scatter and beam hardening spill bone into its surroundings: a flat wall lifts the brain
    # beside it by up to 30 HU, the narrowing dome of the vertex lifts all of it by twice that.
    bone = np.clip(images[0] / 1000, 0, 1.5)
    spill = ndimage.gaussian_filter(bone, u(3, 10) / pixel_mm, truncate=2.5)
    shade = shade + max(u(-15, 105), 0.0) * spill
    base = float(np.exp(-(((z_mm + 42) / 22) ** 2)))
    for _ in range(3):  # between the petrous bones and from metal
        angle, period = rng.normal(0, 0.25), u(6, 30)
        wave = np.sin((y * np.cos(angle) + x * np.sin(angle)) / period * 6.28 + u(0, 6.28))
        shade = shade + base * u(0, 9) * wave * np.exp(-((x / 50) ** 2))
    shade = shade * inside + u(-2.5, 2.5) / 100 * x + u(-2.5, 2.5) / 100 * y
    grain = max(u(0.3, 1.0) / pixel_mm, 0.25)
    noise = ndimage.gaussian_filter(rng.standard_normal(x.shape, np.float32), grain)
    if u() < 0.4:
        noise = noise - 0.8 * ndimage.gaussian_filter(noise, 2.5 * grain)
    noise = np.roll(noise, (37 * number, 61 * number), (0, 1))  # no two slices in step
    extra = shade + noise * (noise_hu / noise.std())
    edge = u(0.15, 0.8) if u() < 0.35 else 0.0
    moved = (int(rng.integers(-3, 4)), int(rng.integers(-3, 4))) if u() < 0.08 else None
    a, b, wall, top = u(95, 125), u(105, 130), u(1.5, 4), u(-40, 40)
    rest = (np.abs(np.hypot(x / a, (y - 5) / b) - 1) * a < wall) & (y > top)
    rest_hu, shown = u(-150, 500), u() < 0.8
    made = []
    for image in images:
        out = image
        if edge:
            out = out + edge * (out - ndimage.gaussian_filter(out, 2 * sigma))
        if moved:
            out = 0.65 * out + 0.35 * np.roll(out, moved, (0, 1))
        if shown:
            out = np.where(rest & (out < -900), np.float32(rest_hu), out)
        made.append(np.asarray(out + extra, np.float32))
    return made
