"""Geometry of the probability chart: one bar for each slice, in SVG units."""

from __future__ import annotations

from dataclasses import dataclass

from web.results.revision import Slice

__all__ = ["Bar", "Chart", "draw"]

WIDTH = 560
HEIGHT = 120
# A probability near zero still shows that the slice was analysed.
MIN_BAR = 1.5


@dataclass(frozen=True, slots=True)
class Bar:
    """One slice in the chart, and whether it is positive for what the chart shows."""

    slice: Slice
    positive: bool
    x: float
    width: float
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of ``WIDTH`` x ``HEIGHT`` units."""

    bars: list[Bar]
    threshold_y: float | None
    step: float
    width: int = WIDTH
    height: int = HEIGHT


def draw(slices: list[Slice], threshold: float | None, label: str = "") -> Chart | None:
    """Return the chart of the slices, or None where nothing is known of any.

    Of a segmentation it is of areas, the largest as high as the chart.

    Parameters
    ----------
    label
        One of several findings; by default the one that speaks for the study.
    """
    values = _values(slices, label)
    if all(value is None for value in values):
        return None
    step = WIDTH / len(slices)
    gap = min(2.0, step * 0.2)
    bars = []
    for number, (item, value) in enumerate(zip(slices, values, strict=True)):
        height = 0.0 if value is None else max(MIN_BAR, value * HEIGHT)
        bars.append(
            Bar(
                slice=item,
                positive=_is_positive(item, value, threshold),
                x=round(number * step + gap / 2, 2),
                width=round(step - gap, 2),
                y=round(HEIGHT - height, 2),
                height=round(height, 2),
            )
        )
    is_area = any(item.area_mm2 is not None for item in slices)
    line = None if threshold is None or is_area else round(HEIGHT * (1 - threshold), 2)
    return Chart(bars, line, round(step, 4))


def _values(slices: list[Slice], label: str) -> list[float | None]:
    """Return how high each bar is, 0..1; None where the slice was not analysed."""
    areas = [item.area_mm2 for item in slices]
    largest = max((area for area in areas if area is not None), default=None)
    if largest is not None:
        return [None if area is None else area / (largest or 1.0) for area in areas]
    return [item.told.get(label) if label else item.probability for item in slices]


def _is_positive(item: Slice, probability: float | None, threshold: float | None) -> bool:
    """Tell whether a slice is positive; one of several findings is compared with its threshold."""
    if not item.told or threshold is None or item.area_mm2 is not None:
        return item.positive
    return probability is not None and probability >= threshold
