"""What LIME found, as the result document has it: an entry for each slice that shows it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limen.result import Explanation, Image, OwnMap, SecondOpinion, Superpixel
from worker.bundles.manifest import Map
from worker.lime.explain import SliceExplanation
from worker.lime.occlusion import Opinion
from worker.lime.own_map import Pointed

__all__ = ["entry"]


def entry(
    image: Image,
    label: str,
    found: SliceExplanation,
    area_px: NDArray[np.int64],
    own_map: Map | None = None,
) -> Explanation:
    """Return the entry of a slice.

    Parameters
    ----------
    area_px
        (superpixels,) int64: what each covers of this slice.
    own_map
        The output that the model's own map is.
    """
    return Explanation(
        sop_uid=image.sop_uid,
        frame=image.frame,
        copy=image.copy,
        label=label,
        method=found.method,
        parameters=found.parameters,
        baseline=found.baseline,
        samples=found.samples,
        seed=found.settings.seed,
        probability=found.probability,
        baseline_probability=found.baseline_probability,
        without_strongest=found.without_strongest,
        fidelity_r2=found.fidelity_r2,
        stability=found.stability,
        poor=bool(found.poor),
        poor_reason=found.poor,
        superpixels=[
            Superpixel(segment=number, weight=float(weight), area_px=int(area))
            for number, (weight, area) in enumerate(zip(found.weights, area_px, strict=True))
        ],
        second_opinion=_told(found.second),
        own_map=_pointed(found.own_map, own_map),
    )


def _told(second: Opinion | None) -> SecondOpinion | None:
    if second is None:
        return None
    return SecondOpinion(
        method="occlusion",
        verdict=second.verdict.value,
        words=second.words,
        segment=second.strongest,
        without=second.without.tolist(),
    )


def _pointed(found: Pointed | None, own_map: Map | None) -> OwnMap | None:
    if found is None or own_map is None:
        return None
    return OwnMap(
        output=own_map.output,
        verdict=found.verdict.value,
        words=found.words,
        segment=found.strongest,
        shares=[round(float(share), 6) for share in found.shares],
    )
