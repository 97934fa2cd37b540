"""Whole studies of synthetic heads on the MNI152 template, as DICOM with the truth beside.

``python -m models.ich.study -o DIR`` writes, for each study, a folder of instances, ``NAME.json``
(what bled, the label of each slice) and ``NAME.npz`` (the lesion mask). Needs the ``train`` extra;
``models.ich.phantom`` writes studies of the analytic head without it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from models.ich import synthetic, template
from models.ich.instances import Patient, Vendor, write_study
from models.ich.scanner import Head
from models.ich.template import Template

__all__ = ["draw", "kind_of", "write"]


def kind_of(seed: int) -> str:
    """Return what bleeds in the study of this seed; nothing in every other one."""
    return "" if seed % 2 else synthetic.KINDS[seed // 2 % len(synthetic.KINDS)]


def draw(volumes: Template, seed: int) -> Head:
    """Return the study of this seed: the same head, bleed and slices each time."""
    samples, step_mm, field_mm = synthetic.draw_study(volumes, seed, kind_of(seed))
    hu = np.stack([s.hu for s in samples])
    pixel_mm = field_mm / hu.shape[1]
    return Head(
        seed=seed,
        hu=np.rint(np.clip(hu, -1024, 3071)).astype(np.int16),
        lesion=np.stack([s.lesion for s in samples]),
        kind=next((s.kind for s in samples if s.kind), None),
        spacing_mm=(step_mm, pixel_mm, pixel_mm),
        thickness_mm=step_mm,
        origin_mm=(-(field_mm - pixel_mm) / 2, -(field_mm - pixel_mm) / 2, 0.0),
        sharp=False,
    )


def write(head: Head, folder: Path, name: str) -> None:
    """Write ``folder/name/*.dcm``, ``folder/name.json`` and ``folder/name.npz``."""
    patient = Patient(f"TEST^{name.upper()}", f"LIMEN-{head.seed}", f"LIMEN{head.seed}")
    vendor = list(Vendor)[head.seed // 2 % len(Vendor)]
    files = write_study(head, folder / name, patient=patient, vendor=vendor)
    slices = [
        {"file": path.name, "positive": bool(positive), "area_mm2": round(float(area), 1)}
        for path, positive, area in zip(files, head.positive, head.area_mm2, strict=True)
    ]
    truth = {"seed": head.seed, "kind": head.kind or "", "size_ml": round(head.size_ml, 1)}
    text = json.dumps({**truth, "slices": slices}, indent=2) + "\n"
    (folder / f"{name}.json").write_text(text, "utf-8")
    np.savez_compressed(folder / f"{name}.npz", lesion=head.lesion)


def main(argv: list[str] | None = None) -> int:
    """Write studies and print what is in them."""
    parser = argparse.ArgumentParser(prog="python -m models.ich.study", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--count", type=int, default=6, help="studies (default 6)")
    parser.add_argument("--seed", type=int, default=5_000_000, help="seed of the first study")
    parser.add_argument("--cache", type=Path, help="keep the volumes of the template here (.npz)")
    args = parser.parse_args(argv)
    volumes = template.load(args.cache)
    args.output.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(range(args.seed, args.seed + args.count), start=1):
        head = draw(volumes, seed)
        name = f"{number:02d}-{head.kind or 'no-bleed'}"
        write(head, args.output, name)
        shown = f"{head.positive.sum()} of {len(head.hu)} slices positive"
        sys.stdout.write(f"{name:24} {shown}, {head.size_ml:.1f} ml\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
