"""Result documents and images as a node would post them, made in code."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import replace

import imagecodecs
import numpy as np

from limen.result import (
    Explanation,
    Finding,
    Image,
    Model,
    Outcome,
    OwnMap,
    Phase,
    Provenance,
    Result,
    SecondOpinion,
    Series,
    Study,
    Superpixel,
    Task,
    Timings,
    Window,
)

OWN_MAP = "the model's own map points at the same region"
SAME_REGION = "hiding one region at a time points at the same region"
OTHER_REGION = "hiding one region at a time points at another region"

Bodies = dict[str, bytes]
MODEL = Model(
    name="ich",
    version="1.0.0",
    sha256=hashlib.sha256(b"bundle").hexdigest(),
    labels=["intracranial_haemorrhage"],
    threshold=0.5,
    windows=[Window("brain", 40, 80), Window("subdural", 80, 200), Window("bone", 600, 2800)],
)


def png(pixels: np.ndarray) -> bytes:
    """Return a PNG of (rows, columns) uint8 or uint16 grey or (rows, columns, 4) uint8 RGBA."""
    rows, columns = pixels.shape[:2]
    colour_type = 6 if pixels.ndim == 3 else 0
    depth = 8 * pixels.dtype.itemsize
    flat = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(rows, -1).view(np.uint8)
    raw = np.hstack([np.zeros((rows, 1), np.uint8), flat]).tobytes()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", columns, rows, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def jls(pixels: np.ndarray) -> bytes:
    """Return a lossless JPEG-LS of (rows, columns) uint8 or uint16."""
    return bytes(imagecodecs.jpegls_encode(pixels))


def head(index: int, count: int, size: int = 16, bleed: bool = False) -> np.ndarray:
    """Return something that looks like a slice of a head: (size, size) uint8."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    scale = 0.35 + 0.5 * np.sin(np.pi * (index + 1) / (count + 1))
    radius = np.hypot(x / scale, y / (1.2 * scale))
    texture = 8 * np.sin(40 * x * y + index) + 5 * np.cos(33 * x + 21 * y)
    grey = np.where(radius < 1, 92 + texture, 4)
    grey = np.where((radius > 0.9) & (radius < 1), 245, grey)
    ventricle = np.hypot((np.abs(x) - 0.12) / 0.07, (y + 0.05) / 0.24) < scale
    grey = np.where(ventricle & (radius < 0.8), 52, grey)
    if bleed:
        spot = np.hypot((x - 0.28) / 0.16, (y - 0.1) / 0.2) < 1
        grey = np.where(spot & (radius < 0.88), 188 + texture, grey)
    return np.clip(grey, 0, 255).astype(np.uint8)


def hounsfield(index: int, count: int, size: int = 16, bleed: bool = False) -> np.ndarray:
    """Return the same slice as (size, size) uint16, HU + 1024: 0..255 are -8..120 HU, air -1000."""
    grey = head(index, count, size, bleed)
    return np.where(grey == 4, 24, np.rint(grey / 2 + 1016)).astype(np.uint16)


def overlay(size: int = 16) -> np.ndarray:
    """Return an overlay: orange over the bleeding, weaker beside it, blue elsewhere."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    rgba = np.zeros((size, size, 4), np.uint8)
    rgba[np.hypot((x + 0.3) / 0.2, y / 0.25) < 1] = (0, 110, 255, 100)
    rgba[np.hypot((x - 0.3) / 0.26, (y - 0.1) / 0.3) < 1] = (255, 120, 0, 60)
    rgba[np.hypot((x - 0.28) / 0.17, (y - 0.1) / 0.2) < 1] = (255, 120, 0, 150)
    return rgba


def study(number: int = 1, **changes: str) -> Study:
    """Return a study with everything a header can say."""
    known = {
        "study_uid": f"1.2.826.0.1.3680043.10.1.{number}",
        "accession": f"A{number:06d}",
        "patient_id": f"P{number:05d}",
        "patient_name": "Doe^Jane^Q.",
        "patient_sex": "F",
        "patient_birth_date": "19510407",
        "study_date": "20260309",
        "study_time": "081533.25",
        "modality": "CT",
        "description": "CT HEAD W/O",
        "referring_institution": "General Hospital",
    }
    return Study(**{**known, **changes})


def result(
    number: int = 1,
    *,
    slices: int = 3,
    positive: tuple[int, ...] = (2,),
    revision: int = 1,
    phase: Phase = Phase.PREDICTION,
    outcome: Outcome | None = None,
    reason: str = "",
    probability: float = 0.93,
    received: str = "2026-03-09T08:20:00Z",
    **changes: str,
) -> Result:
    """Return a document; slices count from 1."""
    outcome = outcome or (Outcome.POSITIVE if positive else Outcome.NEGATIVE)
    analysed = outcome is not Outcome.NOT_ANALYSED
    explains = phase is Phase.EXPLANATION
    label = MODEL.labels[0]
    series_uid = f"1.2.826.0.1.3680043.10.2.{number}"
    images = [
        Image(
            sop_uid=f"{series_uid}.{n}",
            frame=1,
            index=n - 1,
            position_mm=-40 + 5.0 * n,
            probability={label: probability - 0.01 * (n % 3) if n in positive else 0.03 * (n % 4)},
            positive=n in positive,
            original=f"slice-{n:04d}.jls",
            series_uid=series_uid,
            oriented=True,
            pixel_mm=4.0,
            unit="HU",
            explanation=f"overlay-{n:04d}.png" if explains and n in positive else None,
        )
        for n in range(1, slices + 1)
    ]
    explanations = [
        Explanation(
            sop_uid=f"{series_uid}.{n}",
            frame=1,
            label=label,
            method="LIME, settled",
            parameters="SLIC inside the head, about 40 superpixels; ridge 1",
            baseline="the median of the brain",
            samples=96 if n % 2 else 128,
            seed=0,
            probability=0.93,
            baseline_probability=0.04,
            fidelity_r2=0.81 if n % 2 else 0.42,
            stability=0.96 if n % 2 else 0.55,
            poor=n % 2 == 0,
            poor_reason="" if n % 2 else f"other samples give other weights; {OTHER_REGION}",
            superpixels=[Superpixel(0, 0.4, 100), Superpixel(1, -0.1, 156)],
            without_strongest=0.12,
            second_opinion=SecondOpinion(
                method="occlusion",
                verdict="agrees" if n % 2 else "differs",
                words=SAME_REGION if n % 2 else OTHER_REGION,
                segment=0 if n % 2 else 1,
                without=[0.12, 0.95] if n % 2 else [0.91, 0.3],
            ),
            own_map=OwnMap(
                output="cam",
                verdict="agrees" if n % 2 else "spread",
                words=OWN_MAP if n % 2 else "the model's own map names no region",
                segment=0 if n % 2 else None,
                shares=[0.6, 0.2] if n % 2 else [0.4, 0.4],
            ),
        )
        for n in positive
        if explains
    ]
    top = max((p for i in images for p in (i.probability or {}).values()), default=0.0)
    return Result(
        study=study(number, **changes),
        revision=revision,
        phase=phase,
        outcome=outcome,
        reason=reason,
        model=MODEL if analysed else None,
        finding=Finding(label, "Intracranial hemorrhage", top, len(positive), slices, slices)
        if analysed
        else None,
        timings=Timings(
            received,
            received[:-2] + "6Z",
            received[:-2] + "8.4Z",
            received[:-3] + "39Z" if explains else None,
        ),
        provenance=Provenance("0.1.0", "node-1", hashlib.sha256(b"settings").hexdigest()),
        series=[
            Series(series_uid, "Head 5.0 H31s", "CT", slices, analysed, "axial, original, primary"),
            Series(f"{series_uid}.0", "Topogram 0.6", "CT", 1, False, "localizer"),
        ],
        images=images if analysed else [],
        explanations=explanations,
    )


def ruled(
    document: Result, outcome: Outcome, probability: float, members: tuple[float, ...] = ()
) -> Result:
    """Return a document of a bundle whose slices make a study probability, positive from 0.5."""
    assert document.finding is not None
    finding = replace(
        document.finding,
        probability=probability,
        threshold=0.5,
        rule="the highest slice after each is averaged with its neighbours over 4 mm",
        members=list(members),
    )
    return replace(document, outcome=outcome, finding=finding)


def several(document: Result, fractures: dict[int, float]) -> Result:
    """Return the document of a bundle that looks for fractures too, positive from 0.3.

    Parameters
    ----------
    fractures
        Slice, from 1 -> the probability of one; 0.05 elsewhere.
    """
    assert document.finding is not None
    assert document.model is not None
    images = [
        replace(
            image,
            probability={**(image.probability or {}), "fracture": fractures.get(n, 0.05)},
            positive=image.positive or fractures.get(n, 0) >= 0.3,
        )
        for n, image in enumerate(document.images, start=1)
    ]
    bleed = replace(document.finding, threshold=0.5, code=("1386000", "SCT"))
    fracture = replace(
        bleed,
        label="fracture",
        meaning="Fracture of skull",
        code=("71642004", "SCT"),
        probability=max(fractures.values()),
        threshold=0.3,
        positive_slices=sum(p >= 0.3 for p in fractures.values()),
    )
    worst = bleed if bleed.positive_slices else fracture
    model = replace(
        document.model,
        labels=[*document.model.labels, "fracture"],
        thresholds={bleed.label: 0.5, "fracture": 0.3},
    )
    found = [bleed, fracture]
    return replace(document, images=images, findings=found, finding=worst, model=model)


def marked(document: Result, volume_ml: float, areas_mm2: dict[int, float]) -> Result:
    """Return the document of a segmentation, positive from 2 ml.

    Parameters
    ----------
    areas_mm2
        Slice, from 1 -> what is marked in it; nothing elsewhere.
    """
    assert document.finding is not None
    assert document.model is not None
    label = document.finding.label
    images = [
        replace(
            image,
            positive=n in areas_mm2,
            areas_mm2={label: areas_mm2.get(n, 0.0)},
            explanation=f"marks-{n:04d}.png" if n in areas_mm2 else None,
        )
        for n, image in enumerate(document.images, start=1)
    ]
    finding = replace(
        document.finding,
        probability=0.99,
        threshold=0.5,
        positive_slices=len(areas_mm2),
        volume_ml=volume_ml,
        volume_threshold_ml=2.0,
    )
    model = replace(document.model, task=Task.SEGMENTATION)
    return replace(document, images=images, finding=finding, model=model)


def judged_at_once(document: Result, probability: float) -> Result:
    """Return the document of a model that sees all slices at once: of one explanation, if any."""
    assert document.finding is not None
    assert document.model is not None
    images = [replace(image, positive=False, probability={}) for image in document.images]
    finding = replace(document.finding, probability=probability, threshold=0.5, positive_slices=0)
    model = replace(document.model, task=Task.VOLUME)
    of_all = [
        replace(document.explanations[0], sop_uid=one.sop_uid) for one in document.explanations
    ]
    changed = {"images": images, "finding": finding, "model": model, "explanations": of_all}
    return replace(document, **changed)


def files(document: Result, size: int = 16) -> Bodies:
    """Return the images that a document names."""
    count = len(document.images)
    bodies: Bodies = {}
    for image in document.images:
        if image.original:
            bodies[image.original] = (
                jls(hounsfield(image.index, count, size, image.positive))
                if image.unit
                else png(head(image.index, count, size, image.positive))
            )
        if image.explanation:
            bodies[image.explanation] = png(overlay(size))
    return bodies


def pair(number: int = 1, **changes: object) -> tuple[Result, Result]:
    """Return the prediction and the explanation of one study."""
    prediction = result(number, **changes)
    return prediction, result(number, **{**changes, "phase": Phase.EXPLANATION})


def renamed(document: Result, **changes: str) -> Result:
    """Return the document with other words in its study."""
    return replace(document, study=replace(document.study, **changes))
