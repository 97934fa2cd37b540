"""The phantom: seeded synthetic head CT with known bleeds, and the studies of ``limen demo``.

``python -m models.ich.phantom -o DIR`` writes six studies and prints what is in them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import pydicom

from models.ich.instances import Patient, Vendor, write_study
from models.ich.lesion import Kind, Lesion
from models.ich.scanner import Head, pair, volume

__all__ = [
    "DemoStudy",
    "Head",
    "Kind",
    "Lesion",
    "Patient",
    "TEST_HEADS",
    "Truth",
    "Vendor",
    "demo_studies",
    "digest_of",
    "pair",
    "test_study",
    "volume",
    "write_study",
]


class Truth(StrEnum):
    """What a node with the ``ich`` bundle should say of a study."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    NO_ROUTE = "no route"


@dataclass(frozen=True, slots=True)
class DemoStudy:
    """One study on disk, and the truth about it.

    Attributes
    ----------
    size_ml
        Blood that the slices stand for; 0 for none.
    positive_slices
        Slices that show at least 50 mm2 of blood.
    files
        Names in ``folder``, from the lowest slice up.
    """

    name: str
    study_uid: str
    truth: Truth
    lesion: str | None
    size_ml: float
    positive_slices: int
    folder: Path
    files: tuple[str, ...]


_DEMO: tuple[tuple[str, int, Lesion | None, Vendor, str], ...] = (
    ("intraparenchymal-large", 9101, Lesion(Kind.INTRAPARENCHYMAL, 35, 66), Vendor.SIGNED, "CT"),
    ("intraparenchymal-small", 9102, Lesion(Kind.INTRAPARENCHYMAL, 5, 70), Vendor.UNSIGNED, "CT"),
    ("subdural", 9103, Lesion(Kind.SUBDURAL, 45, 64), Vendor.TWELVE_BIT, "CT"),
    ("intraventricular", 9104, Lesion(Kind.INTRAVENTRICULAR, 14, 68), Vendor.UNSIGNED, "CT"),
    ("no-bleed", 9105, None, Vendor.SIGNED, "CT"),
    ("mr-not-routed", 9106, None, Vendor.SIGNED, "MR"),
)


def demo_studies(folder: Path) -> list[DemoStudy]:
    """Write six studies, one folder each: four that bleed, one that does not, one MR.

    Returns
    -------
    list[DemoStudy]
        In a fixed order, with the same UIDs and the same bytes each time.
    """
    studies = []
    for number, (name, seed, lesion, vendor, modality) in enumerate(_DEMO, start=1):
        head = volume(seed, lesion, slices=12)
        patient = Patient(
            name=f"TEST^{name.upper()}",
            id=f"LIMEN-TEST-{number:02d}",
            accession=f"LIMENTEST{number:02d}",
            study=f"TEST {modality} head (phantom)",
        )
        place = folder / f"{number:02d}-{name}"
        files = write_study(head, place, patient=patient, vendor=vendor, modality=modality)
        first = pydicom.dcmread(files[0], stop_before_pixels=True)
        truth = Truth.POSITIVE if head.positive.any() else Truth.NEGATIVE
        studies.append(
            DemoStudy(
                name=name,
                study_uid=str(first.StudyInstanceUID),
                truth=truth if modality == "CT" else Truth.NO_ROUTE,
                lesion=head.kind,
                size_ml=round(head.size_ml, 1),
                positive_slices=int(head.positive.sum()),
                folder=place,
                files=tuple(path.name for path in files),
            )
        )
    return studies


TEST_HEADS: Final = {"bleed": "intraparenchymal-large", "no-bleed": "no-bleed"}
"""What the heads of test studies are called -> the demo study whose pixels they are."""


def test_study(folder: Path, study_uid: str, head: str) -> list[Path]:
    """Write one of ``TEST_HEADS`` under UIDs that begin with ``study_uid``.

    `limen doctor` and `limen qa` send it; the pixels are the same each time.
    """
    name, seed, lesion, vendor, _ = next(d for d in _DEMO if d[0] == TEST_HEADS[head])
    patient = Patient(
        name="TEST^LIMEN",
        id="LIMEN-SELF-TEST",
        accession="LIMENSELFTEST",
        study=f"TEST {name} (phantom, sent by Limen to itself)",
    )
    files = write_study(volume(seed, lesion, slices=12), folder, patient=patient, vendor=vendor)
    for number, path in enumerate(files, start=1):
        ds = pydicom.dcmread(path)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, f"{study_uid}.1"
        ds.FrameOfReferenceUID = f"{study_uid}.2"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{study_uid}.1.{number}"
        ds.save_as(path, enforce_file_format=True)
    return files


def digest_of(files: list[Path]) -> str:
    """Return the SHA-256 of the pixels of instances, in their order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(pydicom.dcmread(path).PixelData)
    return digest.hexdigest()


def main(argv: list[str] | None = None) -> int:
    """Write the demo studies and print the list."""
    parser = argparse.ArgumentParser(prog="python -m models.ich.phantom", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    parser.add_argument("--self-test", metavar="UID", help="only one, as this test study")
    parser.add_argument("--head", choices=TEST_HEADS, default="bleed", help="of the test study")
    args = parser.parse_args(argv)
    if args.self_test:
        paths = test_study(args.output, args.self_test, args.head)
        tree = {"files": [str(path) for path in paths], "sha256": digest_of(paths)}
        sys.stdout.write(json.dumps(tree) + "\n")
        return 0
    studies = demo_studies(args.output)
    if args.json:
        sys.stdout.write(json.dumps([asdict(s) for s in studies], default=str, indent=2) + "\n")
        return 0
    for s in studies:
        what = f"{s.lesion}, {s.size_ml} ml in {s.positive_slices} slices" if s.lesion else "-"
        sys.stdout.write(f"{s.truth:9} {s.name:24} {len(s.files)} instances  {what}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
