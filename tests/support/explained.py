"""Studies that were predicted and explained, and the objects that are built of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from limen import config
from limen.result import Result
from tests.support import heads
from tests.support.heads import STAMP, Reader, head_bundle
from worker.dicom.decoder import Decoder
from worker.objects import Kind, Objects
from worker.objects.build import build
from worker.serving.engine import Engine
from worker.study.explanation import explain_study
from worker.study.parts import Instance

__all__ = ["Studies", "Study"]

EXPLAIN = config.Explain(samples=60, superpixels=30, max_explained=3)


@dataclass(frozen=True)
class Study:
    """A study that was looked at: both documents, their pictures, and where the instances are."""

    prediction: Result
    explanation: Result
    files: dict[str, Path]
    instances: list[Instance]
    decoder: Decoder

    def objects(self, result: Result | None = None, **changes: Any) -> Objects:
        """Build all objects of a document, of the explanation by default."""
        wanted = changes.pop("wanted", set(Kind))
        return build(
            result or self.explanation,
            self.files,
            self.instances,
            self.decoder,
            wanted,
            **changes,
        )

    def data_set(self, kind: Kind, result: Result | None = None, **changes: Any) -> Dataset:
        """Build the one object of a kind, and read it back."""
        objects = self.objects(result, wanted={kind}, **changes)
        assert objects.refused == ()
        (built,) = objects.built
        return dcmread(BytesIO(built.body))


class Studies:
    """Looks at studies."""

    def __init__(self, folder: Path, decoder: Decoder, engine: Engine) -> None:
        self._folder, self._decoder = folder, decoder
        self._engine, self._bundle = engine, head_bundle()

    def __call__(self, datasets: Sequence[Dataset] | None = None) -> Study:
        datasets = heads.head() if datasets is None else datasets
        reader = Reader(self._decoder, self._engine, self._bundle)
        instances = reader.written(self._folder, datasets)
        predicted = reader.predict(instances)
        explained = explain_study(
            predicted.result, instances, self._decoder, self._engine, self._bundle, EXPLAIN, STAMP
        )
        files = {}
        for name, body in (predicted.files | explained.files).items():
            files[name] = self._folder / name
            files[name].write_bytes(body)
        return Study(predicted.result, explained.result, files, instances, self._decoder)
