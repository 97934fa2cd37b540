"""Code of a bundle: ``preprocess.py``, for what the declaration of the input cannot say.

It is code of somebody else that runs on pixels of patients. So it is pinned by its hash like the
weights, runs only where ``engine.allow_code`` says so, and only in a decoder child, under the
limits of one: time, memory, no core file. It is not kept from files or the network; whoever allows
it trusts it. What it gives is held to its contract, and where it fails the slice has no answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import BundleError, Unreadable

__all__ = ["FUNCTION", "Code", "refuse_unless_allowed", "run"]

FUNCTION: Final = "preprocess"
"""What has to be in the file: ``preprocess(hu, spacing_mm, facts) -> tensor``."""

Facts = Mapping[str, Any]
Tensor = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Code:
    """A file with code, and the digest that pins it."""

    path: Path
    sha256: str


def refuse_unless_allowed(code: Code | None, *, allowed: bool) -> None:
    """Raise where a bundle has code and the settings allow none.

    Raises
    ------
    BundleError
        With what to set.
    """
    if code is None or allowed:
        return
    raise BundleError(
        f"{code.path} is code that would run on the pixels of patients, and is not allowed here: "
        "read it, and when you trust it and its author, set engine.allow_code = true "
        "(LIMEN_ENGINE__ALLOW_CODE=true); preprocess.sha256 of bundle.toml pins what you have read"
    )


def run(
    code: Code, hu: Tensor, spacing_mm: float | None, facts: Facts, shape: tuple[int, int, int]
) -> Tensor:
    """Return what the code makes of a slice; for a decoder child.

    Parameters
    ----------
    hu
        (slices, rows, columns) float32, HU, of square pixels: the part that the manifest says, of
        the slice between its neighbours.
    spacing_mm
        Side of a pixel; None where the file does not say.
    facts
        What the header says that matters to pixels; nothing that names anybody.
    shape
        (rows, columns, channels) that the manifest describes.

    Returns
    -------
    NDArray[np.float32]
        (rows, columns, channels) float32, 0..1.

    Raises
    ------
    Unreadable
        It is not the code that was released, it fails, or it gives something else.
    """
    with _unheard():
        try:
            found = _loaded(code)(hu, spacing_mm, dict(facts))
        except Unreadable:
            raise
        except MemoryError:
            raise
        except BaseException as exc:  # whatever it raises, also SystemExit: only this slice fails
            raise Unreadable(
                f"{code.path.name} of its bundle failed on it ({type(exc).__name__}"
                f"{_line_of(exc, code)}); limen model preprocess shows it"
            ) from None
    fault = _fault(found, shape)
    if fault:
        raise Unreadable(f"{code.path.name} of its bundle gives {fault}")
    return np.ascontiguousarray(found)


@lru_cache(maxsize=4)
def _loaded(code: Code) -> Callable[..., Any]:
    """Return the function of a file that is the one that was released, once for each child."""
    try:
        text = code.path.read_bytes()
    except OSError as exc:
        raise Unreadable(f"{code.path.name} of its bundle cannot be read ({exc.strerror})") from exc
    if hashlib.sha256(text).hexdigest() != code.sha256:
        raise Unreadable(
            f"{code.path.name} of its bundle was altered after it was verified; restart the worker"
        )
    space: dict[str, Any] = {"__name__": FUNCTION, "__file__": str(code.path)}
    try:
        exec(compile(text, str(code.path), "exec"), space)  # noqa: S102 - allowed, and pinned
    except MemoryError:
        raise
    except BaseException as exc:
        raise Unreadable(
            f"{code.path.name} of its bundle cannot be loaded ({type(exc).__name__}"
            f"{_line_of(exc, code)}); limen model check shows it"
        ) from None
    function = space.get(FUNCTION)
    if not callable(function):
        raise Unreadable(
            f"{code.path.name} of its bundle has no function {FUNCTION}(hu, spacing_mm, facts)"
        )
    return function  # type: ignore[no-any-return]


def _line_of(error: BaseException, code: Code) -> str:
    """Return the line of the file that failed; what it says may be about pixels."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f" in line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(code.path)]
    return f" in line {frames[-1].lineno}" if frames else ""


def _fault(found: Any, shape: tuple[int, int, int]) -> str:
    """Return what is wrong with what the code gives, or nothing."""
    if not isinstance(found, np.ndarray):
        return f"{type(found).__name__}; a NumPy array of float32 is expected"
    if found.shape != shape or found.dtype != np.float32:
        return (
            f"{found.dtype} of shape {found.shape}; float32 of {shape} is expected: rows, columns "
            "and channels of input.size, input.windows and input.neighbours"
        )
    if not np.isfinite(found).all():
        return "values that are no numbers; look for a division by 0"
    low, high = float(found.min()), float(found.max())
    if low < 0 or high > 1:
        return f"values from {low:.4g} to {high:.4g}; 0 to 1 is expected, and input.scale follows"
    return ""


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Let nothing that the code prints come into our log: it may be about a patient."""
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
