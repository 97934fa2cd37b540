"""A bundle that runs in shadow: it looks at a study beside the route, and nobody is shown it."""

from __future__ import annotations

from dataclasses import replace

from limen.errors import Permanent
from limen.result import Result
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine
from worker.study.parts import Read, Stamp
from worker.study.prediction import not_analysed, predict_study

__all__ = ["run"]


def run(  # noqa: PLR0917 - six different types, nothing to mix up
    study_uid: str, read: Read, decoder: Decoder, engine: Engine, bundle: Bundle, stamp: Stamp
) -> Result:
    """Return the prediction of a bundle, without pictures; a failure of the model is a result.

    Raises
    ------
    Transient
        The engine is full or does not answer, or the decoder is gone: try again.
    """
    try:
        found = predict_study(study_uid, read, decoder, engine, bundle, stamp).result
    except Permanent as exc:
        reason = f"shadow {bundle.name}: {exc}"
        found = not_analysed(study_uid, read, reason, stamp).result
    bare = [replace(image, original=None, explanation=None) for image in found.images]
    return replace(found, images=bare)
