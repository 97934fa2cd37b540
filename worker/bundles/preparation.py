"""How a slice becomes the channels of a model, beside its size and windows: keys of ``[input]``.

Each key has a default that is what Limen did before the key was there, so that an old manifest
means what it meant.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "MAX_DEVIATIONS",
    "Direction",
    "Edges",
    "Fit",
    "Normalise",
    "Over",
    "Padding",
    "Preparation",
    "Resize",
    "Statistics",
]

Fit = Literal["pad", "stretch"]
"""What is done to a part of another aspect than the input: padded, or its aspect not kept."""

Padding = Literal["air", "edge"]
"""What lies outside of the slice: air, or the pixels of its edge; or a number of HU."""

Resize = Literal[
    "bilinear-antialias",
    "bicubic-antialias",
    "lanczos",
    "area",
    "bilinear",
    "bicubic",
    "nearest",
    "nearest-corner",
]
"""The filter that brings a part to the size of the input; see ``worker.study.resize``."""

Normalise = Literal["none", "z-score", "percentile"]
"""What is done to the channels after that, by numbers of the slice itself."""

Over = Literal["slice", "head"]
"""The pixels that these numbers are of."""

Statistics = Literal["channel", "all"]
"""Whether each channel has numbers of its own, or all have the same."""

Edges = Literal["mirror", "repeat"]
"""What stands in for a neighbour that is not there: the slice on the other side, or the nearest."""

Direction = Literal["up", "down"]
"""Whether the neighbours come from the feet to the head, or from the head to the feet."""

MAX_DEVIATIONS: Final = 100.0

_DEVIATIONS: Final = 10.0
_Share = Annotated[float, Field(ge=0.1, le=1, allow_inf_nan=False)]
_Percentile = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_Hu = Annotated[float, Field(ge=-32768, le=65535, allow_inf_nan=False)]


class Preparation(BaseModel):
    """What is done to a slice after it was turned and made square.

    Attributes
    ----------
    share
        ``crop = "centre"``: so much of the largest part with the aspect of the input.
    fit
        A part of another aspect is padded to that of the input, or stretched.
    padding
        What is outside of the slice: ``air``, ``edge``, or HU.
    resize
        How the part is brought to size.
    normalise, over, statistics
        What is done to the channels then, by numbers of which pixels, of each channel or of all.
    percentiles
        ``percentile``: these of the pixels become 0 and 1.
    deviations
        ``z-score``: so many standard deviations from the mean are kept, the rest is clipped.
    edges, direction
        What stands in for neighbours that are not there; the order of the slices.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: _Share = 1.0
    fit: Fit = "pad"
    padding: Padding | _Hu = "air"
    resize: Resize = "bilinear-antialias"
    normalise: Normalise = "none"
    over: Over = "slice"
    statistics: Statistics = "channel"
    percentiles: tuple[_Percentile, _Percentile] = (1.0, 99.0)
    deviations: Annotated[float, Field(gt=0, le=MAX_DEVIATIONS, allow_inf_nan=False)] = _DEVIATIONS
    edges: Edges = "mirror"
    direction: Direction = "up"

    @property
    def edited(self) -> dict[str, Any]:
        """The keys that are not what they are by default, as JSON has them."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def usual_scale(self) -> tuple[float, float]:
        """The range that 0..1 stands for where a manifest does not say one."""
        if self.normalise == "z-score":
            return -self.deviations, self.deviations
        return 0.0, 1.0

    @model_validator(mode="after")
    def _percentiles_go_up(self) -> Preparation:
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError("percentiles must be [low, high] with low < high, such as [1, 99]")
        return self

    @model_validator(mode="after")
    def _keys_belong_to_others(self) -> Preparation:
        """A key that does nothing is a mistake: it stands for something that was meant."""
        said = self.edited
        for key, needs, have in (
            ("percentiles", 'normalise = "percentile"', self.normalise == "percentile"),
            ("deviations", 'normalise = "z-score"', self.normalise == "z-score"),
            ("over", 'normalise = "z-score" or "percentile"', self.normalise != "none"),
            ("statistics", 'normalise = "z-score" or "percentile"', self.normalise != "none"),
        ):
            if key in said and not have:
                raise ValueError(f"{key} does nothing without {needs}; say that too, or leave it")
        return self
