"""A slice that the disk damaged after it was received: its study is never called negative."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from limen.result import Outcome, Phase, Result
from tests.support import synthetic
from tests.support.bundle_worker import BundleWorker
from tests.support.onnx_models import of_means
from worker.bundles.manifest import MANIFEST
from worker.dicom.decoder import Decoder
from worker.tools.model_new import make
from worker.tools.model_plan import Wishes
from worker.work.instances import DAMAGED

BLEEDS = 2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that sees how bright a slice is in the brain window."""
    folder = tmp_path_factory.mktemp("bundle")
    model = of_means(folder / "bright.onnx", (64, 64, 1), np.array([[1000.0]]), [-333.0])
    found = folder / "bright"
    make(model, found, Wishes(scale=(0, 1)))
    manifest = found / MANIFEST
    text = manifest.read_text("utf-8")
    text = text.replace("[accepts]", '[accepts]\nmin_extent_mm = 0\nlooks_like = ""', 1)
    manifest.write_text(text, "utf-8")
    return found


def judged(folder: Path, bundle: Path, decoder: Decoder, *, damage: bool) -> Result:
    with BundleWorker(folder, bundle, decoder) as worker:
        paths = [
            synthetic.save(
                synthetic.instance(n, pixels=synthetic.head_hu(lesion=n == BLEEDS)),
                worker.spool,
                f"{n}.dcm",
            )
            for n in (1, 2, 3, 4)
        ]
        lost = paths[BLEEDS - 1 : BLEEDS] if damage else []
        said = worker.analyse(paths, received=lambda: [emptied(path) for path in lost])
    return next(one for one in said if one.phase is Phase.PREDICTION)


def emptied(path: Path) -> None:
    """Leave nothing of the pixels: a file of the same length, which decodes without a fault."""
    body = path.read_bytes()
    path.write_bytes(body[:-8192] + np.full(4096, -1000, "<i2").tobytes())


def test_a_bleed_whose_slice_the_disk_lost_is_not_called_negative(
    tmp_path: Path, bundle: Path, decoder: Decoder
) -> None:
    whole = judged(tmp_path / "whole", bundle, decoder, damage=False)
    assert whole.outcome is Outcome.POSITIVE
    assert [image.positive for image in whole.images] == [False, True, False, False]
    found = judged(tmp_path / "damaged", bundle, decoder, damage=True)
    assert found.outcome is Outcome.PARTIAL
    assert [image.reason for image in found.images if image.reason] == [DAMAGED]
