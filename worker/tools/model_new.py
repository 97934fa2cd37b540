"""A bundle made from any image classifier: what the model says is read, the rest guessed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import numpy as np

from limen import config
from limen.durable import beside
from limen.errors import BundleError, ConfigError
from worker.bundles import bundle as bundles
from worker.bundles.bundle import SUFFIXES, Bundle, sha256_of
from worker.bundles.code import FUNCTION, Code, refuse_unless_allowed
from worker.bundles.manifest import MANIFEST, Format, Layout, Remote
from worker.dicom.decoder import Decoder
from worker.serving.backends.choice import OF_OPENVINO, installed
from worker.serving.backends.remote import read_facts as remote_facts
from worker.serving.facts import Facts
from worker.tools import model_golden, sources
from worker.tools.model_difference import Findings
from worker.tools.model_examples import Told
from worker.tools.model_guesses import Decision
from worker.tools.model_manifest import text_of
from worker.tools.model_plan import TOLERANCE, Guess, Wishes, planned
from worker.tools.model_preprocess import try_out

__all__ = ["Made", "make"]

_EXPORTS: Final = {
    ".pt": "export it where it was made: torch.onnx.export(model, image, 'model.onnx')",
    ".pth": "load it where it was made; torch.onnx.export(model, image, 'model.onnx')",
    "": "save the model with model.save('model.keras'), or export it as .onnx",
}
"""Ending of a file that is no model for us -> how to get one."""

SAVED_MODEL: Final = "saved_model.pb"
"""What the folder of a SavedModel of TensorFlow holds."""

_STEPS: Final = {
    "input.windows": {"windows", "channels"},
    "input.crop": {"part"},
    "input.scale": {"scale"},
    "output.activation": {"output"},
    "output.inverted": {"output"},
}
"""Keys that examples can prove -> the steps that they stand for."""


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """The bundle that was written, and where its values come from."""

    bundle: Bundle
    guesses: tuple[Guess, ...]


def make(
    source: Path,
    folder: Path,
    wishes: Wishes,
    *,
    allow_legacy_h5: bool = False,
    examples: Sequence[Told] = (),
    tolerance: float = model_golden.EXAMPLE_TOLERANCE,
    settings: config.Config | None = None,
    remote: Remote | None = None,
) -> Made:
    """Write a bundle into a new folder; when anything fails, the folder is not there.

    Parameters
    ----------
    source
        The file of the model, or the folder of a SavedModel; of one that a server runs, what people
        call it.
    examples
        Files with the numbers that the author's own program says of them.
    tolerance
        Largest difference from these.
    settings
        For the decoder of the examples, and the server of models.
    remote
        The model on that server, in place of a file.

    Raises
    ------
    ConfigError
        The folder exists, or a wish contradicts the model.
    Delayed
        The server is away.
    BundleError
        The model cannot be loaded, is no image classifier, or says other numbers of the examples
        than their author; the text names the step that differs.
    """
    settings = settings or config.Config()
    asked = settings.engine.remote
    file_format = _format_of(source, allow_legacy_h5=allow_legacy_h5) if not remote else "remote"
    with _new_folder(folder) as part, _as_file(source) as file:
        if remote is None:
            facts = _facts_of(file, file_format, wishes.layout, wishes.map)
        else:
            facts = remote_facts(remote, asked, wishes.layout)
        bundle, guesses, decided = planned(facts, wishes, source, folder, file_format)
        if decided.others and not examples:
            raise ConfigError(decided.question)
        if remote is None:
            weights, constants = _copied(file, part, file_format)
            bundle = replace(
                bundle, weights=weights, sha256=sha256_of(weights), constants_sha256=constants
            )
        bundle = replace(
            bundle, folder=part, remote=remote, code=_code_of(wishes.code, part, settings)
        )
        findings = None
        if bundle.code is not None:
            with sources.open_decoder(settings) as decoder:
                try_out(bundle, decoder)
        if examples:
            with sources.open_decoder(settings) as decoder:
                bundle, findings = _held_to(bundle, decided, examples, decoder, tolerance, asked)
            guesses = [_proven(guess, findings) for guess in guesses]
        else:
            bundle = model_golden.answered(bundle, asked)
        guesses.insert(2, _scale_guess(bundle, decided, findings))
        doubtful = {guess.key for guess in guesses if not guess.certain}
        (part / MANIFEST).write_text(text_of(bundle, source.name, doubtful), "utf-8")
        model_golden.write(bundle)
        bundles.load(part, allow_legacy_h5=allow_legacy_h5)
    guesses.append(_compared(findings))
    if np.ptp(bundle.golden_probability[..., : bundle.outputs], axis=0).max() < TOLERANCE:
        why = "the model says the same of every test tensor: is it trained, is the scale right?"
        guesses.append(Guess("golden", "no contrast", why, certain=False))
    return Made(bundles.load(folder, allow_legacy_h5=allow_legacy_h5), tuple(guesses))


def _held_to(
    bundle: Bundle,
    decided: Decision,
    examples: Sequence[Told],
    decoder: Decoder,
    tolerance: float,
    remote: config.RemoteModels,
) -> tuple[Bundle, Findings]:
    """Return the bundle with its examples, and with the scale that they decide where it is open.

    Raises
    ------
    BundleError
        No scale gives the numbers of their author.
    ConfigError
        Several do.
    """
    found = []
    for scale in (decided.scale, *decided.others):
        one = replace(bundle, scale=scale)
        try:
            found.append(model_golden.with_examples(one, examples, decoder, tolerance, remote))
        except BundleError:
            if not decided.others:
                raise
    if not found:
        raise BundleError(
            f"{decided.question}. None of these ranges gives the numbers of the examples within "
            f"{tolerance:g}: say one with --scale, and you are told which other step differs"
        )
    if len(found) > 1:
        several = f"{len(found)} of these give the numbers of the examples: more examples tell"
        raise ConfigError(f"{decided.question}. {several}")
    held, findings = found[0]
    return model_golden.answered(held, remote), findings


def _proven(guess: Guess, findings: Findings) -> Guess:
    """Return a guess as the examples leave it: proven, or with what they agree with as well."""
    if guess.key not in _STEPS or guess.certain:
        return guess
    also = [way[0] for way in findings.agreeing if way[0].step in _STEPS[guess.key]]
    if not also:
        return replace(guess, why="no other one tried gives the author's numbers", certain=True)
    return replace(guess, why=f"{guess.why}; the examples agree with {also[0].words} too")


def _scale_guess(bundle: Bundle, decided: Decision, findings: Findings | None) -> Guess:
    low, high = bundle.scale
    guess = Guess("input.scale", f"{low:g} to {high:g}", decided.why, certain=decided.certain)
    return guess if findings is None else _proven(guess, findings)


def _compared(findings: Findings | None) -> Guess:
    if findings is None:
        why = "never compared with its author's numbers; --example FILE --expect NUMBER"
        return Guess("examples", "none", why, certain=False)
    count = len(findings.expected)
    why = f"the author's numbers within {findings.difference:.4f}, of {findings.tolerance:g}"
    return Guess("examples", str(count), why, certain=True)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside ``folder`` that takes its name when the block ends well."""
    if folder.exists() or folder.is_symlink():
        raise ConfigError(
            f"{folder} exists, and a bundle is never written over; name another folder, or "
            "remove this one"
        )
    try:
        with beside(folder) as part:
            part.mkdir(parents=True)
            yield part
    except OSError as exc:
        raise ConfigError(f"{folder} cannot be written: {exc.strerror}; name another") from exc


def _is_saved_model(source: Path) -> bool:
    return (source / SAVED_MODEL).is_file()


@contextmanager
def _as_file(source: Path) -> Iterator[Path]:
    """Yield the file of a model: of a SavedModel one of OpenVINO, which runs no code of it."""
    if not _is_saved_model(source):
        yield source
        return
    from worker.serving.backends import openvino_file  # noqa: PLC0415 - only where it is used

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{source.absolute().name}.xml"
        openvino_file.save_as_openvino(source, file)
        try:
            yield file
        except (BundleError, ConfigError) as exc:  # whoever reads it has no such file
            raise type(exc)(str(exc).replace(str(file), str(source))) from exc


def _format_of(source: Path, *, allow_legacy_h5: bool) -> Format:
    if _is_saved_model(source):
        if not installed("openvino"):
            raise ConfigError(
                f"{source} is a SavedModel, which OpenVINO reads, and that is missing; install "
                "limen[openvino], or save the model with model.save('model.keras')"
            )
        return "openvino"
    if source.is_dir():
        raise ConfigError(
            f"{source} is a folder, and no SavedModel: it has no {SAVED_MODEL}; give the model's "
            "file with --from, or save the model with model.save('model.keras')"
        )
    if not source.is_file():
        raise ConfigError(f"{source} does not exist; give the model's file with --from")
    formats = [name for name, suffixes in SUFFIXES.items() if source.suffix.lower() in suffixes]
    if not formats:
        raise ConfigError(
            f"{source} is no .keras file, no .onnx file, and no .xml file of OpenVINO; "
            f"{_EXPORTS.get(source.suffix.lower(), _EXPORTS[''])}"
        )
    if formats == ["openvino"] and not source.with_suffix(".bin").is_file():
        raise ConfigError(
            f"{source.with_suffix('.bin')} does not exist; an .xml file of OpenVINO needs the "
            "weights beside it: copy both, or write them with openvino.save_model"
        )
    if formats[0] in OF_OPENVINO and not installed("openvino"):
        raise ConfigError(f"{source} runs on OpenVINO, which is missing; install limen[openvino]")
    if formats == ["h5-legacy"] and not allow_legacy_h5:
        raise ConfigError(
            f"{source} is an .h5 file, which is not held to Keras's safe mode; save the model as "
            ".keras, or, when you trust its origin, set engine.allow_legacy_h5 = true in "
            "config.toml (LIMEN_ENGINE__ALLOW_LEGACY_H5=true)"
        )
    return cast(Format, formats[0])


def _facts_of(source: Path, file_format: Format, layout: Layout | None, beside: str) -> Facts:
    if file_format in OF_OPENVINO:
        from worker.serving.backends import openvino_file  # noqa: PLC0415 - only where it is used

        return openvino_file.read_facts(source, layout, beside)
    from worker.serving.backends.tensorflow import read_facts  # noqa: PLC0415 - seconds

    if layout == "nchw":
        raise ConfigError(
            f"--layout nchw is for ONNX and OpenVINO; a Keras model such as {source} has its "
            "channels last"
        )
    return read_facts(source, file_format, beside)


def _code_of(source: Path | None, part: Path, settings: config.Config) -> Code | None:
    """Copy the code into the folder, where it is allowed."""
    if source is None:
        return None
    if source.suffix != ".py" or not source.is_file():
        raise ConfigError(
            f"--preprocess {source}: no such .py file; give one with a function "
            f"{FUNCTION}(hu, spacing_mm, facts)"
        )
    refuse_unless_allowed(Code(source, ""), allowed=settings.engine.allow_code)
    path = Path(shutil.copyfile(source, part / f"{FUNCTION}.py"))
    return Code(path, sha256_of(path))


def _copied(source: Path, part: Path, file_format: Format) -> tuple[Path, str]:
    """Copy the weights into the folder; return where they are, and the digest of their .bin."""
    weights = Path(shutil.copyfile(source, part / f"model{SUFFIXES[file_format][0]}"))
    if file_format != "openvino":
        return weights, ""
    constants = shutil.copyfile(source.with_suffix(".bin"), weights.with_suffix(".bin"))
    return weights, sha256_of(Path(constants))
