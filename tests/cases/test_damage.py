"""A study that bleeds is damaged at random on its way: it is never called negative.

``make cases`` tries 2,000 studies; ``make test`` a part of them. Whatever is dropped, doubled,
moved, renamed, encoded anew, split or merged: as long as one bleeding slice arrives whole and
unaltered in what it says of itself, the study stays positive (partial where it names two
patients); where none does, the study is partial or not analysed, with numbers.
"""

from __future__ import annotations

import copy
import io
import os
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from limen import config
from limen.result import Outcome, Result
from tests.support.heads import DirectDecoder, Reader, head, head_bundle, new_uid
from tests.support.synthetic import BrightBlood
from worker.bundles.manifest import StudyRule
from worker.serving.engine import Engine
from worker.study.parts import Instance

EXAMPLES = int(os.environ.get("CASES", "150"))

BASES: dict[str, Callable[[], list[FileDataset]]] = {
    "one bleeds": lambda: head(bleeds_mm=(0.0, 0.0)),
    "five bleed": head,
    "thin": lambda: head(
        heights_mm=np.arange(-50.0, 71.0, 5.0), bleeds_mm=(8.0, 22.0), SliceThickness=5
    ),
    "base and cerebrum": lambda: (
        head("1", heights_mm=np.arange(-50.0, 0.0, 5.0), bleeds_mm=None, SliceThickness=5)
        + head("2", heights_mm=np.arange(5.0, 76.0, 10.0), bleeds_mm=(14.0, 26.0))
    ),
    "two acquisitions": lambda: [
        *head(bleeds_mm=None, AcquisitionNumber=1),
        *head(first=14, bleeds_mm=(-10.0, 10.0), AcquisitionNumber=2),
    ],
}


@dataclass(frozen=True)
class Item:
    """An instance on its way, and the truth about it.

    Attributes
    ----------
    bleeds
        Whether its pixels show blood.
    is_told
        Whether its header still says that it is a native slice of a head for soft tissue.
    acquisition
        Of which acquisition it was before the damage.
    """

    dataset: FileDataset
    bleeds: bool
    acquisition: int = 1
    is_told: bool = True
    is_whole: bool = True
    body: bytes = b""

    def encoded(self) -> bytes:
        """Return the file, which is ``body`` where that is known."""
        if self.body:
            return self.body
        stream = io.BytesIO()
        self.dataset.save_as(stream, enforce_file_format=True)
        return stream.getvalue()


Study = list[Item]
Damage = Callable[[Study, random.Random], Study]
DAMAGES: dict[str, Damage] = {}


def damage(function: Damage) -> Damage:
    DAMAGES[function.__name__] = function
    return function


def some(study: Study, chance: random.Random, most: float = 0.6) -> list[int]:
    """Return the places of a few items, of one, or of a run of neighbours."""
    count = chance.randint(1, max(1, int(len(study) * most)))
    if chance.random() < 0.5:
        start = chance.randrange(len(study))
        return [n for n in range(start, start + count) if n < len(study)]
    return chance.sample(range(len(study)), count)


def edited(
    study: Study, places: list[int], edit: Callable[[FileDataset], None], **item: Any
) -> Study:
    """Return the study with copies of some instances edited."""
    found = list(study)
    for place in places:
        dataset = copy.deepcopy(found[place].dataset)
        edit(dataset)
        found[place] = replace(found[place], dataset=dataset, body=b"", **item)
    return found


def renamed(dataset: FileDataset, *parts: object) -> None:
    uid = new_uid(dataset.SOPInstanceUID, *parts)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid


def is_compressed(dataset: FileDataset) -> bool:
    return bool(dataset.file_meta.TransferSyntaxUID.is_compressed)


# -- ways to damage a study ------------------------------------------------------------------------


@damage
def dropped(study: Study, chance: random.Random) -> Study:
    gone = set(some(study, chance))
    return [item for n, item in enumerate(study) if n not in gone] or study[:1]


@damage
def bleeding_slices_dropped(study: Study, chance: random.Random) -> Study:
    keep = chance.randint(0, 1)
    bleeding = [n for n, item in enumerate(study) if item.bleeds]
    gone = set(bleeding[keep:])
    return [item for n, item in enumerate(study) if n not in gone] or study[:1]


@damage
def doubled(study: Study, chance: random.Random) -> Study:
    return study + [study[n] for n in some(study, chance)]


@damage
def doubled_under_new_uids(study: Study, chance: random.Random) -> Study:
    places = some(study, chance)
    again = edited(study, places, lambda d: renamed(d, chance.random()))
    return study + [again[n] for n in places]


@damage
def same_uid_other_bytes(study: Study, chance: random.Random) -> Study:
    def noisy(dataset: FileDataset) -> None:
        cells = dataset.pixel_array.copy()
        cells[:3, :3] += 1
        dataset.PixelData = cells.tobytes()

    places = [n for n in some(study, chance) if not is_compressed(study[n].dataset)]
    again = edited(study, places, noisy)
    return study + [again[n] for n in places]


@damage
def reordered(study: Study, chance: random.Random) -> Study:
    return chance.sample(study, len(study))


@damage
def orientation_jittered(study: Study, chance: random.Random) -> Study:
    def jitter(dataset: FileDataset) -> None:
        if "ImageOrientationPatient" in dataset:
            size = 10.0 ** chance.randint(-7, -3)
            dataset.ImageOrientationPatient = [
                float(c) + chance.uniform(-size, size) for c in dataset.ImageOrientationPatient
            ]

    return edited(study, some(study, chance, 1.0), jitter)


@damage
def position_jittered(study: Study, chance: random.Random) -> Study:
    def jitter(dataset: FileDataset) -> None:
        if "ImagePositionPatient" in dataset:
            dataset.ImagePositionPatient = [
                float(c) + chance.uniform(-0.4, 0.4) for c in dataset.ImagePositionPatient
            ]

    return edited(study, some(study, chance, 1.0), jitter)


@damage
def positions_made_the_same(study: Study, chance: random.Random) -> Study:
    return edited(study, range_of(study), lambda d: setattr(d, "ImagePositionPatient", [0, 0, 0]))


def range_of(study: Study) -> list[int]:
    return list(range(len(study)))


@damage
def attribute_lost(study: Study, chance: random.Random) -> Study:
    keyword = chance.choice(
        (
            *("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "PixelSpacing"),
            *("InstanceNumber", "SliceThickness", "BodyPartExamined", "ConvolutionKernel"),
            *("SeriesDescription", "FrameOfReferenceUID", "AcquisitionNumber", "PatientName"),
        )
    )

    def lose(dataset: FileDataset) -> None:
        if keyword in dataset:
            delattr(dataset, keyword)

    places = range_of(study) if chance.random() < 0.5 else some(study, chance)
    return edited(study, places, lose)


@damage
def renumbered(study: Study, chance: random.Random) -> Study:
    numbers = range_of(study)
    if chance.random() < 0.3:
        chance.shuffle(numbers)
    found = study
    for n, number in enumerate(numbers):
        found = edited(found, [n], lambda d, at=number: setattr(d, "InstanceNumber", at + 1))
    return found


@damage
def uids_renamed(study: Study, chance: random.Random) -> Study:
    salt = chance.random()

    def rename(dataset: FileDataset) -> None:
        renamed(dataset, salt)
        dataset.SeriesInstanceUID = new_uid(dataset.SeriesInstanceUID, salt)

    return edited(study, some(study, chance, 1.0), rename)


@damage
def described_anew(study: Study, chance: random.Random) -> Study:
    text = chance.choice(("5.0", "Kopf nativ", "HEAD", "NCCT", "Routine", "[/X]", ""))
    return edited(study, some(study, chance, 1.0), lambda d: setattr(d, "SeriesDescription", text))


@damage
def encoded_anew(study: Study, chance: random.Random) -> Study:
    def encode(dataset: FileDataset) -> None:
        if is_compressed(dataset):
            return
        if chance.random() < 0.5:
            dataset.compress(RLELossless, generate_instance_uid=False)
        else:
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    return edited(study, some(study, chance), encode)


@damage
def turned(study: Study, chance: random.Random) -> Study:
    """Rows and columns of the file turned, with the orientation that says so."""

    def turn(dataset: FileDataset) -> None:
        geometry = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
        if is_compressed(dataset) or any(k not in dataset for k in geometry):
            return
        cosines = [float(c) for c in dataset.ImageOrientationPatient]
        row, column = np.array(cosines[:3]), np.array(cosines[3:])
        down_mm, along_mm = (float(v) for v in dataset.PixelSpacing)
        corner = np.array([float(v) for v in dataset.ImagePositionPatient])
        cells = dataset.pixel_array[::-1, ::-1]
        corner = corner + row * along_mm * (cells.shape[1] - 1)
        corner = corner + column * down_mm * (cells.shape[0] - 1)
        dataset.ImageOrientationPatient = [float(c) for c in (*-row, *-column)]
        dataset.ImagePositionPatient = [float(c) for c in corner]
        dataset.PixelData = np.ascontiguousarray(cells).tobytes()

    return edited(study, some(study, chance, 1.0), turn)


@damage
def enlarged(study: Study, chance: random.Random) -> Study:
    def enlarge(dataset: FileDataset) -> None:
        if is_compressed(dataset) or "PixelSpacing" not in dataset:
            return
        cells = dataset.pixel_array.repeat(2, 0).repeat(2, 1)
        dataset.PixelData = cells.tobytes()
        dataset.Rows, dataset.Columns = cells.shape
        dataset.PixelSpacing = [float(v) / 2 for v in dataset.PixelSpacing]

    return edited(study, some(study, chance, 0.2), enlarge)


@damage
def split(study: Study, chance: random.Random) -> Study:
    uid = new_uid("split", chance.random())
    return edited(study, some(study, chance), lambda d: setattr(d, "SeriesInstanceUID", uid))


@damage
def merged_with_a_clean_head(study: Study, chance: random.Random) -> Study:
    series = str(chance.randint(3, 9))
    other = [Item(d, bleeds=False) for d in head(series, bleeds_mm=None)]
    if chance.random() < 0.5:
        uid = study[0].dataset.SeriesInstanceUID
        other = edited(other, range_of(other), lambda d: setattr(d, "SeriesInstanceUID", uid))
    return study + other


@damage
def merged_with_another_patient(study: Study, chance: random.Random) -> Study:
    other = [Item(d, bleeds=False) for d in head("8", bleeds_mm=None, PatientID="P-2")]
    return study + chance.sample(other, chance.randint(1, len(other)))


@damage
def cut_off(study: Study, chance: random.Random) -> Study:
    places = some(study, chance)
    length = chance.choice((100, 400, 3000))
    found = list(study)
    for n in places:
        found[n] = replace(found[n], body=found[n].encoded()[:length], is_whole=False)
    return found


@damage
def told_otherwise(study: Study, chance: random.Random) -> Study:
    keyword, value = chance.choice(
        (
            ("ConvolutionKernel", "H60s"),
            ("BodyPartExamined", "CHEST"),
            ("ContrastBolusAgent", "IOMERON"),
            ("ImageType", ["DERIVED", "SECONDARY", "AXIAL"]),
            ("ImageType", ["ORIGINAL", "SECONDARY", "AXIAL"]),
            ("ImageOrientationPatient", [1, 0, 0, 0, 0, -1]),
            ("Modality", "CR"),
        )
    )
    places = some(study, chance, 0.5)
    return edited(study, places, lambda d: setattr(d, keyword, value), is_told=False)


# -- what must hold --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    bundle = head_bundle()
    with Engine(bundle, config.Engine(max_wait_ms=1), backend=BrightBlood()) as engine:
        yield Reader(DirectDecoder(), engine, bundle)


def analysed(reader: Reader, study: Study) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        instances = []
        for n, item in enumerate(study):
            path, dataset = Path(folder) / f"{n:04d}.dcm", item.dataset
            path.write_bytes(item.encoded())
            uids = str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID)
            instances.append(Instance(path, *uids))
        return reader.predict(instances).result


@cache
def items_of(base: str) -> tuple[Item, ...]:
    """Return a study before it is damaged."""
    items = [
        Item(d, bool((d.pixel_array == 70).any()), int(d.get("AcquisitionNumber") or 1))
        for d in BASES[base]()
    ]
    return tuple(replace(item, body=item.encoded()) for item in items)


@pytest.mark.parametrize("base", list(BASES))
def test_the_studies_that_are_damaged_are_positive(base: str, reader: Reader) -> None:
    result = analysed(reader, list(items_of(base)))
    assert result.outcome is Outcome.POSITIVE
    assert ";" not in result.reason


def damaged(base: str, ways: tuple[tuple[str, int], ...]) -> Study:
    study = list(items_of(base))
    for name, seed in ways:
        study = DAMAGES[name](study, random.Random(seed))
    return study


def leaves_no_trace(base: str, study: Study, result: Result) -> bool:
    """Return True where nothing that arrived bleeds or says that something is missing."""
    # A whole series that says itself that it is another thing is left out, and that is told.
    left_out = {s.series_uid for s in result.series} - {
        s.series_uid for s in result.series if s.selected
    }
    bleeding = [item for item in study if item.bleeds and item.is_whole]
    # And an acquisition of which nothing came, after one that is whole, leaves no trace at all.
    no_trace = base == "two acquisitions" and {item.acquisition for item in study} == {1}
    told = bool(bleeding) and all(i.dataset.SeriesInstanceUID in left_out for i in bleeding)
    return told or no_trace


def tried(examples: int) -> Callable[[Any], Any]:
    """Return what makes a test of (base, ways) one of damaged studies."""
    ways = st.tuples(st.sampled_from(list(DAMAGES)), st.integers(0, 1 << 20))
    return lambda test: settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )(
        given(
            base=st.sampled_from(list(BASES)),
            ways=st.lists(ways, min_size=1, max_size=4).map(tuple),
        )(test)
    )


@tried(EXAMPLES)
def test_no_damage_makes_a_bleeding_study_negative(
    base: str, ways: tuple[tuple[str, int], ...], reader: Reader
) -> None:
    study = damaged(base, ways)
    result = analysed(reader, study)
    if not leaves_no_trace(base, study, result):
        assert result.outcome is not Outcome.NEGATIVE, result.reason
    if result.outcome is Outcome.PARTIAL:
        assert re.search(r"gap|\d+ of \d+ slices", result.reason)
    if any(item.bleeds and item.is_told and item.is_whole for item in study):
        wanted = {Outcome.POSITIVE}
        if "patients in one study" in result.reason:
            wanted = {Outcome.PARTIAL}
        if len(study) < reader.bundle.accepts.min_slices or "too few slices" in result.reason:
            wanted = {Outcome.NOT_ANALYSED}
        assert result.outcome in wanted, result.reason


# -- the same, where neighbours speak for each other -----------------------------------------------


@pytest.fixture(scope="module")
def ruled() -> Iterator[Reader]:
    bundle = head_bundle(study=StudyRule(smooth_mm=4, threshold=0.5, chosen="by hand"))
    with Engine(bundle, config.Engine(max_wait_ms=1), backend=BrightBlood()) as engine:
        yield Reader(DirectDecoder(), engine, bundle)


@pytest.mark.parametrize("base", list(BASES))
def test_a_rule_calls_the_studies_that_are_damaged_positive(base: str, ruled: Reader) -> None:
    assert analysed(ruled, list(items_of(base))).outcome is Outcome.POSITIVE


@tried(EXAMPLES)
def test_no_damage_makes_a_bleeding_study_negative_by_a_rule(
    base: str, ways: tuple[tuple[str, int], ...], ruled: Reader
) -> None:
    study = damaged(base, ways)
    result = analysed(ruled, study)
    if not leaves_no_trace(base, study, result):
        assert result.outcome is not Outcome.NEGATIVE, result.reason
    if result.outcome in {Outcome.PARTIAL, Outcome.POSITIVE}:
        assert re.search(r"study \d\.\d+, (below|at or above) 0\.5", result.reason)
