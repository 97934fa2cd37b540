"""``limen model``: make, check, show, compare and convert bundles; no node, no network.

``python -m worker model new|check|info|golden|preprocess|compare|convert``, and what is deployed:
``deploy|rollback|list`` (``worker.tools.model_deploy``), ``agreement`` (``model_agreement``).
Exit codes: 0 ok, 1 failed, 2 usage or settings, 5 partial.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limen import config
from limen.command.edge import FAILED, OK, at_the_edge
from limen.command.screen import say, table
from limen.errors import BundleError, ConfigError
from worker.tools import sources
from worker.tools.console import common_options, print_json, progress
from worker.tools.model_card import card_of, examples_of, told_of_examples
from worker.tools.model_options import (
    deploy_options,
    example_options,
    new_options,
    preparation_of,
    rollback_options,
)

if TYPE_CHECKING:  # --help does not wait for pydicom, Pillow and TensorFlow
    from worker.bundles.bundle import Bundle
    from worker.serving.conversion import Conversion
    from worker.tools.model_examples import Told
    from worker.tools.model_new import Made

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run one of the commands; return the exit code."""
    args = _parser().parse_args(argv)
    return at_the_edge(lambda: _told_as_json(args), debug=args.debug)


def _told_as_json(args: argparse.Namespace) -> int:
    """Run the command; with --json, say a fault of the bundle in JSON too."""
    try:
        return int(args.run(args))
    except BundleError as exc:
        if not args.json:
            raise
        print_json({"ok": False, "error": str(exc)})
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="limen model",
        description="Make, check, show, compare, convert and deploy model bundles.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(run=run)
        common_options(command)
        return command

    check = add("check", _check, "verify manifest and hash, and run the model on golden tensors")
    info = add("info", _info, "show the card of a bundle")
    for command in (check, info):
        command.add_argument("bundle", metavar="BUNDLE", help="name or folder")
    check.add_argument(
        "--as-configured", action="store_true",
        help="only with the backend that a worker with these settings chooses (default: every)",
    )  # fmt: skip
    new_options(add("new", _new, "write a bundle from an image classifier: Keras, ONNX, OpenVINO"))
    golden = add(
        "golden",
        _golden,
        "compare a bundle with its author's numbers, and renew what it is held to",
    )
    golden.add_argument("bundle", metavar="BUNDLE", help="name or folder")
    golden.add_argument("--renew", action="store_true",
        help="answer the golden tensors by what bundle.toml says now, and keep that")  # fmt: skip
    golden.add_argument("--without-examples", action="store_true",
        help="forget the examples that the bundle has")  # fmt: skip
    example_options(golden)
    preprocess = add("preprocess", _preprocess, "write what the model is given of a file")
    preprocess.add_argument("path", type=Path, metavar="FILE", help="a slice, or a folder")
    preprocess.add_argument("--bundle", required=True, metavar="B", help="name or folder")
    preprocess.add_argument("-o", "--output", required=True, type=Path, metavar="FILE.npy",
        help="the tensor; a picture of it lies beside, as .png")  # fmt: skip
    compare = add("compare", _compare, "run two bundles on the same files")
    compare.add_argument("a", metavar="A", help="name or folder of a bundle")
    compare.add_argument("b", metavar="B", help="name or folder of another")
    compare.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="file or folder")
    compare.add_argument("--csv", type=Path, metavar="OUT", help="write every slice to this file")
    convert = add("convert", _convert, "write the files that OpenVINO runs instead of the weights")
    convert.add_argument("bundle", metavar="BUNDLE", help="name or folder")
    convert.add_argument(
        "--int8", action="store_true", help="8-bit integers too: faster, less exact"
    )
    convert.add_argument("--calibrate", type=Path, metavar="FILE.npz",
        help="array 'tensor' of images as the model sees them, to calibrate int8 and to "
        "compare (default: the golden tensors)")  # fmt: skip
    text = "let a version of a model look at studies, without a restart"
    deploy_options(add("deploy", _of_what_is_deployed("deploy"), text))
    text = "take the version back that was deployed last, at once"
    rollback_options(add("rollback", _of_what_is_deployed("rollback"), text))
    text = "show what two models said of the studies that both looked at"
    alike = add("agreement", _of_what_is_deployed("agreement"), text)
    for side in "AB":
        alike.add_argument(side.lower(), metavar=side, help="name of a bundle, or NAME@VERSION")
    text = "show the versions of models: which serve, since when, by whom"
    shown = add("list", _of_what_is_deployed("shown"), text)
    shown.add_argument("name", nargs="?", default="", metavar="NAME",
        help="this one, with all that was ever deployed, and how far each worker is")  # fmt: skip
    return parser


def _of_what_is_deployed(name: str) -> Callable[[argparse.Namespace], int]:
    """Return a command that reads the journal; --help waits neither for it nor for arrays."""

    def run(args: argparse.Namespace) -> int:
        from worker.tools import model_agreement, model_deploy  # noqa: PLC0415

        module = model_agreement if name == "agreement" else model_deploy
        command: Callable[[argparse.Namespace], int] = getattr(module, name)
        return command(args)

    return run


def _told(args: argparse.Namespace) -> tuple[Told, ...]:
    """Return the examples that the command names, however it does."""
    from worker.tools import model_examples  # noqa: PLC0415

    given = model_examples.told(args.example, args.expect)
    return given if args.examples is None else given + model_examples.told_in(args.examples)


# -- check, info -----------------------------------------------------------------------------------


def _check(args: argparse.Namespace) -> int:
    from worker.serving import self_test  # noqa: PLC0415

    settings = config.load(args.config)
    folder = sources.bundle_folder(settings, args.bundle)
    try:
        found = self_test.check(
            folder,
            allow_legacy_h5=settings.engine.allow_legacy_h5,
            engine=settings.engine if getattr(args, "as_configured", False) else None,
            remote=settings.engine.remote,
            most_bytes=settings.worker.max_memory_bytes,
        )
    except self_test.ExamplesDiffer as exc:
        from worker.tools.model_golden import explained  # noqa: PLC0415

        found = _load(settings, args.bundle)
        raise BundleError(f"{exc}\n{explained(found, settings.engine.remote)}") from exc
    if found.code is not None:
        from worker.tools.model_preprocess import try_out  # noqa: PLC0415

        with sources.open_decoder(settings) as decoder:
            try_out(found, decoder)
    if args.json:
        print_json({"ok": True, **card_of(found)})
        return OK
    of_release = "the weights are those of the release"
    if found.remote:
        of_release = f"{found.remote.url} runs {found.remote.model} {found.remote.version}"
    say(
        f"{found.name} {found.version}: ok; the manifest holds, {of_release}, and "
        f"{len(found.golden_tensor)} golden tensors give the same answer"
        + (f"; it sees {found.part}" if found.part else "")
    )
    say(told_of_examples(found))
    return OK


def _info(args: argparse.Namespace) -> int:
    card = card_of(_load(config.load(args.config), args.bundle))
    if args.json:
        print_json({"ok": True, **card})
        return OK
    for key, value in card.items():
        say(f"{key}: {value}")
    return OK


def _load(settings: config.Config, name: str) -> Bundle:
    from worker.bundles import bundle as bundles  # noqa: PLC0415

    folder = sources.bundle_folder(settings, name)
    return bundles.load(folder, allow_legacy_h5=settings.engine.allow_legacy_h5)


# -- new -------------------------------------------------------------------------------------------


def _new(args: argparse.Namespace) -> int:
    from worker.serving.backends.remote import place_of  # noqa: PLC0415
    from worker.tools.model_new import make  # noqa: PLC0415
    from worker.tools.model_plan import Wishes  # noqa: PLC0415

    settings = config.load(args.config)
    if args.windows and args.clip:
        raise ConfigError("--windows and --clip say the same; leave one of them out")
    if len(dict(args.input)) < len(args.input):
        raise ConfigError(
            "--input names an input twice; give all its windows at once: NAME=C/W,C/W"
        )
    wishes = Wishes(
        name=args.name,
        labels=tuple(name for name, _ in args.label),
        thresholds={name: least for name, least in args.label if least is not None},
        decision=args.decision,
        threshold=args.threshold,
        windows=args.windows or args.clip,
        inputs=dict(args.input),
        map=args.map or "",
        size=tuple(args.size) if args.size else None,
        crop=args.crop,
        spacing_mm=args.spacing_mm,
        neighbours=args.neighbours,
        depth=args.depth,
        depth_mm=args.depth_mm,
        volume_ml=args.volume_ml,
        preparation=preparation_of(args),
        layout=args.layout,
        scale=tuple(args.scale) if args.scale else None,
        mean=args.mean,
        deviation=args.deviation,
        activation=args.activation,
        inverted=args.inverted,
        modality=args.modality.upper() if args.modality else None,
        body_part=tuple(part.upper() for part in args.body_part),
        licence=args.licence,
        code=args.preprocess,
    )
    allowed = settings.engine.allow_legacy_h5
    from worker.tools.model_golden import EXAMPLE_TOLERANCE  # noqa: PLC0415

    remote = place_of(args.remote) if args.remote else None
    made = make(
        Path(remote.model) if remote else args.source,
        args.folder,
        wishes,
        allow_legacy_h5=allowed,
        examples=_told(args),
        tolerance=args.example_tolerance or EXAMPLE_TOLERANCE,
        settings=settings,
        remote=remote,
    )
    following = f"limen model check {args.folder}"
    if args.json:
        print_json(
            {
                "ok": True,
                **{"folder": str(made.bundle.folder), "next": following},
                "values": [asdict(guess) for guess in made.guesses],
                **card_of(made.bundle),
            }
        )
        return OK
    _tell(made, args.folder, following)
    return OK


def _tell(made: Made, folder: Path, following: str) -> None:
    from worker.tools.model_plan import NOT_STATED  # noqa: PLC0415

    remote = made.bundle.remote
    what = f"{remote.model} {remote.version} of {remote.url}" if remote else ""
    what = what or f"{made.bundle.weights.name} (SHA-256 {made.bundle.sha256})"
    say(f"{folder}: written, with {what}")
    for title, certain in (
        ("known", True),
        (f"guessed; check it and edit {folder / 'bundle.toml'}", False),
    ):
        guesses = [guess for guess in made.guesses if guess.certain is certain]
        if guesses:
            say(f"\n{title}:")
            table([], [(f"  {g.key}", g.value, g.why) for g in guesses])
    licence = ["licence"] if made.bundle.licence == NOT_STATED else []
    missing = [*licence, "intended_use", "training_data", "decision.chosen", "[[metrics]]"]
    say(f"\nstill to write: {', '.join(missing)}")
    say(f"next: {following}")


# -- golden ----------------------------------------------------------------------------------------


def _golden(args: argparse.Namespace) -> int:
    from worker.tools import model_golden  # noqa: PLC0415

    settings = config.load(args.config)
    told = _told(args)
    if not (args.renew or told or args.without_examples):
        return _check(args)
    with sources.open_decoder(settings) as decoder:
        made = model_golden.renew(
            sources.bundle_folder(settings, args.bundle),
            told,
            decoder,
            again=args.renew,
            tolerance=args.example_tolerance,
            without_examples=args.without_examples,
            allow_legacy_h5=settings.engine.allow_legacy_h5,
            remote=settings.engine.remote,
        )
    stale = sorted(made.stale)
    following = f"limen model {'convert' if stale else 'check'} {args.bundle}"
    if args.json:
        print_json(
            {
                "ok": True,
                **{"folder": str(made.bundle.folder), "next": following},
                **{"edited": list(made.edited), "moved": made.moved},
                "examples": examples_of(made.bundle),
            }
        )
        return OK
    count = len(made.bundle.golden_tensor)
    moved = "" if made.moved is None else f", which moved them by up to {made.moved:.4f}"
    if args.renew:
        say(f"{made.bundle.folder.name}: {count} golden tensors answered again{moved}")
    for edit in made.edited:
        say(f"  bundle.toml: {edit}")
    say(told_of_examples(made.bundle))
    for name in stale:
        say(f"openvino.{name} was made before the edit and is refused until it is made again")
    say(f"next: {following}")
    return OK


# -- preprocess ------------------------------------------------------------------------------------


def _preprocess(args: argparse.Namespace) -> int:
    from worker.tools.model_preprocess import prepare  # noqa: PLC0415

    settings = config.load(args.config)
    bundle = _load(settings, args.bundle)
    with sources.open_decoder(settings) as decoder:
        made = prepare(args.path, bundle, decoder, args.output)
    tensor = made.tensor
    told: dict[str, Any] = {
        "shape": list(tensor.shape),
        "low": float(tensor.min()),
        "high": float(tensor.max()),
    }
    if args.json:
        tensors = {name: list(those) for name, those in bundle.tensors.items()}
        told |= {"tensors": tensors}
        print_json({"ok": True, "tensor": str(made.path), "picture": str(made.picture), **told})
        return OK
    say(
        f"{made.path}: {' x '.join(map(str, tensor.shape))} float32, {told['low']:.4g} to "
        f"{told['high']:.4g}: what {bundle.name} {bundle.version} is given"
    )
    for name, those in bundle.tensors.items():
        say(f"  {name} is given its channels {', '.join(map(str, those))}")
    say(f"{made.picture}: each slice below the other, its channels side by side, before the scale")
    return OK


# -- compare ---------------------------------------------------------------------------------------


def _compare(args: argparse.Namespace) -> int:
    settings = config.load(args.config)
    paths, _ = sources.find_files(args.paths)
    if args.csv is not None and not args.csv.absolute().parent.is_dir():
        raise ConfigError(f"{args.csv} cannot be written: its folder does not exist")
    pair = (_load(settings, args.a), _load(settings, args.b))
    from worker.tools import model_compared  # noqa: PLC0415
    from worker.tools.model_compare import compare  # noqa: PLC0415

    with progress(quiet=args.json) as step:
        found = compare(paths, pair, settings, step)
    if args.csv is not None:
        _write(args.csv, found.to_csv())
    if args.json:
        print_json(model_compared.tree_of(found, pair))
    else:
        model_compared.show(found, pair, args.csv)
    return found.exit_code


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8", errors="backslashreplace")
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}; choose another") from exc


# -- convert ---------------------------------------------------------------------------------------


def _convert(args: argparse.Namespace) -> int:
    settings = config.load(args.config)
    folder = sources.bundle_folder(settings, args.bundle)
    allowed = settings.engine.allow_legacy_h5
    from worker.bundles import bundle as bundles  # noqa: PLC0415
    from worker.serving.backends.choice import OF_OPENVINO, installed  # noqa: PLC0415

    for package in ("openvino", "nncf") if args.int8 else ("openvino",):
        if not installed(package):
            raise ConfigError(f"{package} is not installed; install limen[openvino]")
    from worker.tools.model_convert import convert, read_tensors  # noqa: PLC0415

    bundle = bundles.load(folder, allow_legacy_h5=allowed, converted=False)
    if bundle.remote or bundle.weights_format in OF_OPENVINO:
        where = f"at {bundle.remote.url}" if bundle.remote else "on OpenVINO as it is"
        raise ConfigError(
            f"{bundle.weights.name} of {folder} runs {where}: there is nothing to convert"
        )
    tensors = None
    if args.calibrate is not None:
        tensors = read_tensors(args.calibrate, bundle.input_shape)
    with progress(quiet=args.json) as step:
        step(f"converting {bundle.weights.name}")
        made = convert(folder, int8=args.int8, tensors=tensors, allow_legacy_h5=allowed)
    checked = bundles.load(folder, allow_legacy_h5=allowed)
    if args.json:
        variants = [asdict(v) | {"exact_enough": _exact(checked, v)} for v in made]
        print_json({"ok": True, "folder": str(folder), "variants": variants})
        return OK
    table(
        ["file", "tensors", "largest difference", "mean", "same decision"],
        [
            (
                v.file,
                str(v.tensors),
                f"{v.max_probability_difference:.2g}",
                f"{v.mean_probability_difference:.2g}",
                f"{v.same_decision:.2%}",
            )
            for v in made
        ],
    )
    if not all(_exact(checked, v) for v in made):
        say('int8 is not exact enough to be taken unasked; engine.precision = "int8" asks for it')
    if args.int8 and tensors is None:
        say("calibrated with the golden tensors only; --calibrate with some hundred does better")
    say(f"next: limen model check {args.bundle}")
    return OK


def _exact(bundle: Bundle, variant: Conversion) -> bool:
    return bundle.converted[variant.precision].exact_enough
