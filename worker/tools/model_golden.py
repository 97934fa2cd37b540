"""Golden tensors and examples of a bundle: made, compared, and renewed after an edit."""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen import config
from limen.errors import BundleError, ConfigError
from limen.result import Task
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.bundles.golden import (
    EXAMPLES_FILE,
    GOLDEN_FILE,
    Examples,
    Golden,
    changed,
    read_examples,
)
from worker.bundles.golden import write as write_truth
from worker.bundles.manifest import MANIFEST
from worker.dicom.decoder import Decoder
from worker.serving import self_test
from worker.serving.backends.raw import open_raw
from worker.serving.engine import Engine
from worker.tools import model_examples
from worker.tools.model_difference import Findings, look
from worker.tools.model_examples import Example, Stored, Told
from worker.tools.model_manifest import examples_of

__all__ = [
    "EXAMPLE_TOLERANCE",
    "Renewed",
    "answered",
    "explained",
    "golden_tensor",
    "renew",
    "with_examples",
    "write",
]

EXAMPLE_TOLERANCE: Final = 0.01
"""Numbers are told with two digits, and two ways of making an image smaller differ by less."""

GOLDEN_COUNT: Final = 4
GOLDEN_BLOCK_PX: Final = 8
GOLDEN_SEED: Final = 20240229


@dataclass(frozen=True, slots=True, eq=False)
class Renewed:
    """What was written.

    Attributes
    ----------
    edited
        What the manifest says otherwise than when the golden tensors were last answered.
    moved
        Largest difference of the golden probabilities from what they were; None where the
        tensors are others.
    findings
        Of examples that were given; None where none were.
    stale
        Conversions for OpenVINO that were made before the edit.
    """

    bundle: Bundle
    edited: tuple[str, ...]
    moved: float | None
    findings: Findings | None
    stale: tuple[str, ...]


def answered(bundle: Bundle, remote: config.RemoteModels | None = None) -> Bundle:
    """Return the bundle with golden tensors and what its own model says of them.

    The tensors that it has are kept.

    Parameters
    ----------
    remote
        The server that runs the models of bundles without weights.

    Raises
    ------
    BundleError
        The model cannot be run, or its answers are no probabilities.
    """
    tensor = bundle.golden_tensor
    if not len(tensor):
        tensor = golden_tensor(bundle.input_shape)
    bundle = replace(bundle, golden_tensor=tensor, golden_made_with=bundle.answer_keys)
    plain = replace(bundle, converted={}, golden_probability=bundle.golden_probability[:0])
    settings = config.Engine(max_batch=8, precision="fp32", remote=remote or config.RemoteModels())
    with Engine(plain, settings) as engine:
        return replace(bundle, golden_probability=self_test.answers(engine, bundle, tensor))


def golden_tensor(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return seeded tensors (n, *shape) float32, 0..1: blocks, small when zipped.

    The first is all air; of the others each is darker or brighter than the one before.

    Parameters
    ----------
    shape
        Rows, columns and channels, of a volume its depth before them.
    """
    *sides, channels = shape
    random = np.random.default_rng(GOLDEN_SEED)
    grid = (*(-(-side // GOLDEN_BLOCK_PX) for side in sides), channels)
    found = np.zeros((GOLDEN_COUNT, *shape), np.float32)
    for number in range(1, GOLDEN_COUNT):
        fine = random.random(grid, np.float32) ** np.float32(3 - number)
        for axis, side in enumerate(sides):
            fine = fine.repeat(GOLDEN_BLOCK_PX, axis).take(range(side), axis)
        found[number] = np.clip(fine, 0, 1)
    return found


def with_examples(
    bundle: Bundle,
    told: Sequence[Told],
    decoder: Decoder,
    tolerance: float,
    remote: config.RemoteModels | None = None,
) -> tuple[Bundle, Findings]:
    """Return the bundle with examples, from their instances to the numbers of their author.

    Raises
    ------
    ConfigError
        An example cannot be read, or tells numbers of other labels.
    BundleError
        The bundle says other numbers; the text names the step that differs.
    """
    if bundle.task is Task.VOLUME:
        raise ConfigError(
            "an example is for a model of slices; compare the tensor of a volume with yours: "
            f"limen model preprocess FOLDER --bundle {bundle.name} -o tensor.npy"
        )
    found = model_examples.read(told, bundle, decoder)
    kinds: Sequence[Example | Stored] = found
    if bundle.code is not None:
        kinds = [_by_code(one, bundle, decoder) for one in found]
    findings = look(bundle, kinds, open_raw(bundle, remote), tolerance)
    if not findings.agrees:
        raise BundleError(findings.why())
    shown = [one for example in found for one in example.slices]
    examples = Examples(
        tensor=findings.tensor,
        expected=findings.expected,
        facts=tuple(model_examples.facts_of(shown[place]) for place in findings.slices),
        made_with=bundle.tensor_keys,
        tolerance=tolerance,
    )
    return replace(bundle, examples=examples), findings


def _by_code(example: Example, bundle: Bundle, decoder: Decoder) -> Stored:
    """Return an example as code of the bundle prepares it: it is done in no other way."""
    tensors = model_examples.prepared(example, bundle, decoder)
    if len(tensors) != 1:
        raise ConfigError(
            f"example {example.path.name}: {len(tensors)} slices; of a bundle with code give the "
            "file of one slice"
        )
    return Stored(tensors[0], example.expected)


def explained(bundle: Bundle, remote: config.RemoteModels | None = None) -> str:
    """Return why the examples that a bundle keeps differ from the numbers of their author."""
    kept = bundle.examples
    if kept is None:
        return ""
    stored = [Stored(*pair) for pair in zip(kept.tensor, kept.expected, strict=True)]
    return look(bundle, stored, open_raw(bundle, remote), kept.tolerance).why()


def write(bundle: Bundle) -> None:
    """Write golden tensors and examples into the folder of the bundle."""
    tree = {} if not (bundle.folder / MANIFEST).exists() else _tree(bundle.folder)
    name = str(tree.get("golden", {}).get("file", GOLDEN_FILE))
    golden = Golden(bundle.golden_tensor, bundle.golden_probability, bundle.golden_made_with)
    _replace(bundle.folder / name, golden)
    if bundle.examples is not None:
        _replace(bundle.folder / EXAMPLES_FILE, bundle.examples)


def _replace(path: Path, found: Golden | Examples) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        part = Path(scratch) / path.name
        write_truth(part, found)
        os.replace(part, path)


def renew(
    folder: Path,
    told: Sequence[Told],
    decoder: Decoder,
    *,
    again: bool = True,
    tolerance: float | None = None,
    without_examples: bool = False,
    allow_legacy_h5: bool = False,
    remote: config.RemoteModels | None = None,
) -> Renewed:
    """Answer the golden tensors again, by what bundle.toml says now, and keep the answers.

    Examples that the bundle has are held to the numbers of their author; those that are given
    take their place.

    Parameters
    ----------
    again
        False: only the examples change; the golden tensors have to be answered as before.

    Raises
    ------
    BundleError
        The bundle cannot be loaded or run, or an example differs; nothing was written.
    ConfigError
        The tensors of its examples were made with other keys, and no files are given.
    """
    edited_bundle = bundles.load(
        folder, allow_legacy_h5=allow_legacy_h5, converted=False, golden=False
    )
    before = _as_it_was(folder, allow_legacy_h5=allow_legacy_h5)
    if before is not None:
        edited_bundle = replace(edited_bundle, golden_tensor=before.golden_tensor)
    bundle = answered(edited_bundle, remote)
    moved = None if before is None else _moved(before, bundle)
    known = before.golden_made_with if before is not None else None
    edited = changed(known, bundle.answer_keys) if known is not None else []
    if not again and (moved is None or not moved <= bundle.golden_tolerance):
        raise BundleError(
            f"{bundle.folder}: its golden tensors are answered otherwise than when they were "
            f"recorded ({'; '.join(edited) or 'other weights, or another library'}). Where that is "
            "right, say --renew too"
        )
    kept = None if without_examples else _kept(folder, bundle)
    findings = None
    if told:
        allowed = tolerance or (kept.tolerance if kept else EXAMPLE_TOLERANCE)
        bundle, findings = with_examples(bundle, told, decoder, allowed, remote)
    elif kept is not None:
        bundle = _held_to(bundle, kept, remote)
    write(bundle)
    if (bundle.examples is not None) != ("examples" in _tree(folder)):
        _edit_manifest(bundle)
    return Renewed(
        bundle=bundle,
        edited=tuple(edited),
        moved=moved,
        findings=findings,
        stale=tuple(_stale(folder, bundle)),
    )


def _stale(folder: Path, bundle: Bundle) -> Iterator[str]:
    for name, variant in _tree(folder).get("openvino", {}).items():
        made_with = variant.get("made_with") if isinstance(variant, dict) else None
        if made_with not in {None, bundle.answer_sha256}:
            yield name


def _moved(before: Bundle, now: Bundle) -> float | None:
    if before.golden_probability.shape != now.golden_probability.shape:
        return None
    moved = np.abs(before.golden_probability - now.golden_probability)
    return float(moved[..., : now.outputs].max())


def _as_it_was(folder: Path, *, allow_legacy_h5: bool) -> Bundle | None:
    """Return the bundle with the golden tensors that it has; None where they fit no more."""
    try:
        return bundles.load(folder, allow_legacy_h5=allow_legacy_h5, converted=False)
    except BundleError:
        return None


def _kept(folder: Path, bundle: Bundle) -> Examples | None:
    """Return the examples that a bundle has, also where its golden tensors fit no more."""
    section = _tree(folder).get("examples")
    if section is None:
        return None
    path, tolerance = folder / str(section["file"]), float(str(section["tolerance"]))
    found, faults = read_examples(path, len(bundle.labels), tolerance)
    if found is None:
        raise ConfigError(
            f"{path}: {'; '.join(faults)}; give the files of the examples again with --example, "
            "or say --without-examples"
        )
    return found


def _held_to(bundle: Bundle, kept: Examples, remote: config.RemoteModels | None) -> Bundle:
    """Return the bundle with the examples that it had, which it still agrees with."""
    edited = changed(kept.made_with, bundle.tensor_keys)
    if edited:
        raise ConfigError(
            f"{bundle.folder}: the tensors of its examples were made before {'; '.join(edited)}; "
            "give their files again with --example FILE --expect NUMBER, or say "
            "--without-examples: the bundle is then no more compared with its author's numbers"
        )
    with_kept = replace(bundle, examples=kept)
    stored = [Stored(*pair) for pair in zip(kept.tensor, kept.expected, strict=True)]
    findings = look(with_kept, stored, open_raw(with_kept, remote), kept.tolerance)
    if not findings.agrees:
        raise BundleError(f"{findings.why()}\nNothing was written.")
    return with_kept


# -- bundle.toml -----------------------------------------------------------------------------------


def _tree(folder: Path) -> dict[str, dict[str, object]]:
    return tomllib.loads((folder / MANIFEST).read_text("utf-8"))


def _edit_manifest(bundle: Bundle) -> None:
    """Write ``[examples]`` before ``[[metrics]]``, or take it away; every other line stays."""
    path = bundle.folder / MANIFEST
    lines = path.read_text("utf-8").splitlines()
    kept: list[str] = []
    ours = False
    for line in lines:
        if line.lstrip().startswith("["):
            ours = line.replace(" ", "").startswith("[examples]")
        if not ours:
            kept.append(line)
    place = next((n for n, line in enumerate(kept) if line.startswith("[[metrics]]")), len(kept))
    while place and kept[place - 1].startswith("#"):
        place -= 1
    wanted = examples_of(bundle)
    text = "\n".join([*kept[:place], *(["", *wanted] if wanted else []), *kept[place:]])
    text = text.rstrip() + "\n"
    before, after = _tree(bundle.folder), tomllib.loads(text)
    for tree in (before, after):
        tree.pop("examples", None)
    if before != after:
        raise BundleError(
            f"{path} cannot be edited in place; write [examples] as a table of its own, with file "
            f"and tolerance: {' '.join(wanted) or 'or take it away'}"
        )
    with tempfile.TemporaryDirectory(dir=bundle.folder) as scratch:
        part = Path(scratch) / MANIFEST
        part.write_text(text, "utf-8")
        os.replace(part, path)
