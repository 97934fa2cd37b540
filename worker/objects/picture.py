"""The secondary captures as pictures: a slice beside its evidence, and a page of text.

No name of a patient is in them: viewers show it beside, from the header.
"""

from __future__ import annotations

import textwrap
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from limen.result import Result, Task
from worker.objects.evidence import STRONG, Evidence
from worker.objects.identity import NOTICE, Identity
from worker.objects.wording import presence, sentences
from worker.study.render import FOR_RGB

__all__ = ["page", "panels"]

PANEL_PX: Final = 512
"""Longer side of each of the two slices."""

MARGIN_PX: Final = 16
WIDTH_PX: Final = 2 * PANEL_PX + 3 * MARGIN_PX
HEADER_PX: Final = 92
FOOTER_PX: Final = 124

WHITE: Final = (255, 255, 255)
GREY: Final = (176, 176, 176)
YELLOW: Final = (255, 214, 0)
WEAK_RGB: Final = (255, 184, 122)
STRONG_PX: Final = 3
WEAK_PX: Final = 1
COLUMNS: Final = 78
"""Characters of a line of the page."""

_TITLE, _TEXT, _MARK = 24, 17, 26
"""Heights in pixels."""


def panels(identity: Identity, one: Evidence) -> NDArray[np.uint8]:
    """Return (rows, columns, 3) uint8: the slice beside itself with the contour of the evidence."""
    rows, columns = one.grey.shape
    scale = PANEL_PX / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    grey = Image.fromarray(one.grey).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    marked = Image.fromarray(_outlined(np.asarray(grey), one.shown, size))
    canvas = Image.new("RGB", (WIDTH_PX, HEADER_PX + size[1] + FOOTER_PX))
    draw = ImageDraw.Draw(canvas)
    _head(draw, identity, one)
    for n, panel in enumerate((grey, marked)):
        left = MARGIN_PX + n * (PANEL_PX + MARGIN_PX) + (PANEL_PX - size[0]) // 2
        canvas.paste(panel, (left, HEADER_PX))
        _sides(draw, left, size, oriented=one.slice.image.oriented)
    _foot(draw, one, HEADER_PX + size[1])
    return np.asarray(canvas)


def page(identity: Identity) -> NDArray[np.uint8]:
    """Return (rows, columns, 3) uint8: what is said of the study, as text."""
    result = identity.result
    title, *lines = _page_lines(identity, result)
    height = HEADER_PX + 26 * len(lines) + FOOTER_PX
    canvas = Image.new("RGB", (WIDTH_PX, max(height, WIDTH_PX // 2)))
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN_PX, 18), title, WHITE, _font(_TITLE))
    for n, line in enumerate(lines):
        draw.text((MARGIN_PX, HEADER_PX + 26 * n), line, WHITE, _font(_TEXT))
    _notice(draw, canvas.height - 48)
    return np.asarray(canvas)


def _page_lines(identity: Identity, result: Result) -> list[str]:
    lines = [
        f"Limen {result.provenance.limen_version}",
        "Preliminary, not verified",
        "",
    ]
    first, *rest = sentences(result)
    for text in rest:
        lines += textwrap.wrap(text, COLUMNS) or [""]
    title, _, counted = first.partition(". ")
    return [_plain(line) for line in (title, counted, *lines)]


def _head(draw: ImageDraw.ImageDraw, identity: Identity, one: Evidence) -> None:
    result, image = identity.result, one.slice.image
    finding = one.slice.finding
    at = result.threshold_of(finding.label)
    compared = "" if at is None else f" (threshold {at:g})"
    of_all = " of all slices together" if result.task is Task.VOLUME else ""
    title = f"{finding.meaning}: probability {one.slice.probability:.2f}{of_all}{compared}"
    place = "" if image.position_mm is None else f", {image.position_mm:.1f} mm"
    about = f"Slice {image.index + 1} of {len(result.images)}{place}"
    about += f"  |  study: {presence(result).meaning.lower()}  |  model {identity.model}"
    draw.text((MARGIN_PX, 14), _plain(title), WHITE, _font(_TITLE))
    draw.text((MARGIN_PX, 54), _plain(about), GREY, _font(_TEXT))


def _sides(draw: ImageDraw.ImageDraw, left: int, size: tuple[int, int], *, oriented: bool) -> None:
    """Mark right and left of the patient; the picture lies upright where the file says how."""
    middle = HEADER_PX + size[1] // 2
    if not oriented:
        text = (left + size[0] // 2, HEADER_PX + 8)
        draw.text(text, "right and left unknown", YELLOW, _font(_TEXT), anchor="mt")
        return
    for x, anchor, side in ((left + 8, "lm", "R"), (left + size[0] - 8, "rm", "L")):
        draw.text(
            (x, middle), side, WHITE, _font(_MARK), anchor, stroke_width=2, stroke_fill=(0, 0, 0)
        )


def _outlined(
    grey: NDArray[np.uint8], weights: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the slice with the contours of what speaks for the finding, strong ones thick."""
    found = grey.copy()
    peak = float(weights.max(initial=0))
    if peak <= 0:
        return found
    large = np.asarray(Image.fromarray(weights).resize(size, Image.Resampling.NEAREST))
    for mask, width, colour in (
        (large > 0, WEAK_PX, WEAK_RGB),
        (large >= STRONG * peak, STRONG_PX, FOR_RGB),
    ):
        found[ndimage.binary_dilation(mask, iterations=width) & ~mask] = colour
    return found


def _foot(draw: ImageDraw.ImageDraw, one: Evidence, top: int) -> None:
    explanation = one.explanation
    y = top + 18
    for n, (colour, width, text) in enumerate(
        ((FOR_RGB, STRONG_PX, "speaks strongly for it"), (WEAK_RGB, WEAK_PX, "speaks for it"))
    ):
        x = MARGIN_PX + 230 * n
        draw.line([(x, y), (x + 28, y)], colour, width)
        draw.text((x + 38, y), text, WHITE, _font(_TEXT), anchor="lm")
    kind = "what the model looked at, no outline of a lesion"
    draw.text((MARGIN_PX + 430, y), f"Contours: {kind}", GREY, _font(_TEXT), anchor="lm")
    trust = f"{explanation.method}: fit R2 {explanation.fidelity_r2:.2f}, "
    trust += f"stability {explanation.stability:.2f}, {explanation.samples} samples"
    colour = GREY
    if explanation.poor:
        trust, colour = f"Do not lean on this explanation: {explanation.poor_reason}", YELLOW
    draw.text((MARGIN_PX, y + 30), _plain(trust), colour, _font(_TEXT), anchor="lm")
    _notice(draw, top + FOOTER_PX - 48)


def _notice(draw: ImageDraw.ImageDraw, top: int) -> None:
    box = (MARGIN_PX, top, WIDTH_PX - MARGIN_PX, top + 34)
    draw.rectangle(box, outline=YELLOW, width=2)
    text = f"{NOTICE}  -  research software, preliminary, not verified"
    draw.text((WIDTH_PX // 2, top + 17), text, YELLOW, _font(_TEXT), anchor="mm")


def _plain(text: str) -> str:
    """Return a text with what the font lacks replaced."""
    return text.encode("ascii", "replace").decode("ascii")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
