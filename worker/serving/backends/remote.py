"""A model that another server runs: asked by the Open Inference Protocol v2, held to its golden.

The server may be away, or may be given another model under the same name. So it is held to the
golden tensors of the bundle before the first study, again after each time that it was away, and
every ten minutes: a study is answered by the model that was released, or waits. Nothing that goes
wrong on the way is an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import ValidationError

from limen.config import RemoteModels
from limen.errors import BundleError, ConfigError, Delayed
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Layout
from worker.bundles.manifest import Remote as Place
from worker.serving.facts import Facts
from worker.serving.graph import Ending
from worker.serving.named_inputs import in_a_row, joined, parted
from worker.serving.numbers import probabilities, scaled
from worker.serving.protocol import Away, Described, Refused, Server, TensorFacts
from worker.serving.shapes import (
    as_given,
    as_taken,
    axes_of,
    given_by,
    input_fault,
    layout_of,
    output_fault,
)

__all__ = ["Remote", "place_of", "read_facts", "refuse_other_server"]

Tensor = NDArray[np.float32]
_Inputs = tuple[TensorFacts, ...]

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 30.0
"""A server that is away is asked again after the first, then twice that, up to the longest."""

CHECK_AGAIN_S: Final = 600.0
"""How long an answer to the golden tensors is taken for that of the model that serves."""

_BATCH: Final = 8

_log = structlog.get_logger(__name__)


class Remote:
    """The model of a bundle on its server.

    Parameters
    ----------
    settings
        ``[engine.remote]``: the server that this node asks.
    clock
        Monotonic seconds.

    Raises
    ------
    BundleError
        The settings name no server, or another one than the bundle.
    """

    smallest_batch = 1

    def __init__(
        self, bundle: Bundle, settings: RemoteModels, clock: Callable[[], float] = time.monotonic
    ) -> None:
        assert bundle.remote is not None  # noqa: S101 - else another backend was chosen
        self._place = bundle.remote
        refuse_other_server(bundle.remote, settings, bundle.folder.name)
        self._bundle = bundle
        self._clock = clock
        self._server = Server(bundle.remote.url, settings)
        self._tensors: tuple[_Inputs, TensorFacts] | None = None
        self._checked_s = 0.0
        self._wait_s = 0.0
        self._ask_again_s = -np.inf
        self._reason = ""

    def predict(self, batch: Tensor) -> Tensor:
        """See ``Backend``.

        Raises
        ------
        Delayed
            The server is away, or does not run the model that was released: the study waits.
        RuntimeError
            It refuses this batch, and none that it is known to answer.
        """
        self._ready()
        try:
            return self._answer(batch)
        except Away as exc:
            raise self._away(str(exc)) from exc
        except Refused as exc:
            self._tensors = None
            self._ready()  # raises where it is not the model that was released
            raise RuntimeError(f"the server of models {exc}") from exc

    def close(self) -> None:
        """Give the connection up."""
        self._server.close()

    def _ready(self) -> None:
        """Return when the server runs what was released; it is not asked while it has to wait."""
        now_s = self._clock()
        if self._tensors is not None and now_s - self._checked_s < CHECK_AGAIN_S:
            return
        if now_s < self._ask_again_s:
            raise Delayed(self._reason)
        try:
            self._look()
        except (Away, Refused, BundleError) as exc:
            raise self._away(str(exc)) from exc
        if self._wait_s:
            _log.info("engine.back", bundle=self._bundle.name)
        self._wait_s, self._reason = 0.0, ""
        self._checked_s = self._clock()

    def _look(self) -> None:
        """Ask what the server runs, and hold it to the golden tensors.

        Raises
        ------
        BundleError
            It is not what the bundle describes.
        """
        self._tensors = None
        place = self._place
        said = self._server.describe(place.model, place.version)
        given, wanted = _tensors_of(said, place)
        taken = {one.name: axes_of(_axes(one), self._bundle.layout) for one in given}
        fault = input_fault(taken, self._bundle) or output_fault(
            given_by(_axes(wanted), self._bundle.layout), self._bundle
        )
        if fault:
            raise BundleError(f"runs another model than was released: it {fault}")
        self._tensors = given, wanted
        known = self._bundle.golden_probability
        if len(known) != len(self._bundle.golden_tensor):
            return  # they are about to be answered
        try:
            apart = np.abs(self._answer(self._bundle.golden_tensor) - known)
        except BaseException:
            self._tensors = None
            raise
        if not (apart <= self._bundle.golden_tolerance).all():
            self._tensors = None
            most, allowed = apart.max(), self._bundle.golden_tolerance  # NaN is told as such
            raise BundleError(
                f"runs another model than was released: golden tensors differ by up to {most:.2g}, "
                f"more than the allowed {allowed:g}; give it the model that was released back, or "
                "make a bundle of this one with limen model new"
            )

    def _answer(self, batch: Tensor) -> Tensor:
        assert self._tensors is not None  # noqa: S101 - the server was looked at
        given, wanted = self._tensors
        tensor = scaled(batch, self._bundle)
        parts = _parts(tensor, given, self._bundle.tensors, self._bundle.layout)
        place = self._place
        raw = self._server.infer(place.model, place.version, parts, wanted.name)
        if len(raw) != len(batch):
            raise Refused(f"answers {len(raw)} times to {len(batch)} slices")
        of_pixels = len(self._bundle.output_shape) > 1
        raw = as_given(raw, self._bundle.layout, of_pixels=of_pixels)
        return probabilities(raw, self._bundle.output, self._bundle.temperature)

    def _away(self, why: str) -> Delayed:
        """Note that the server is not to be asked for some time, and return the reason."""
        if not self._wait_s:
            _log.error("engine.away", bundle=self._bundle.name, reason=why)
        self._tensors = None
        self._wait_s = min(max(2 * self._wait_s, FIRST_WAIT_S), LONGEST_WAIT_S)
        self._ask_again_s = self._clock() + self._wait_s
        self._reason = f"the server of models at {self._place.url} {why}"
        return Delayed(self._reason)


def read_facts(place: Place, settings: RemoteModels, layout: Layout | None) -> Facts:
    """Return what a server says of a model, which runs there.

    Parameters
    ----------
    layout
        Where its input has the channels; None: what its shape says.

    Raises
    ------
    BundleError
        The settings do not name the server, or it has no such model.
    ConfigError
        The shape of its input does not say where the channels are.
    Delayed
        It is away.
    """
    refuse_other_server(place, settings, place.model)
    server = Server(place.url, settings)
    said = f"the server of models at {place.url}"
    try:
        given, wanted = _tensors_of(server.describe(place.model, place.version), place)
    except Away as exc:
        raise Delayed(f"{said} {exc}") from exc
    except (Refused, BundleError) as exc:
        raise BundleError(f"{said} {exc}") from exc
    found = layout or _layout(given, place)
    each = {one.name: axes_of(_axes(one), found) for one in given}
    shape, counts = joined(each, Path(place.model)) if len(given) > 1 else (each[given[0].name], {})
    answer = given_by(_axes(wanted), found)

    def predict(tensors: Tensor) -> Tensor:
        answered = []
        for n in range(0, len(tensors), _BATCH):
            part = tensors[n : n + _BATCH].astype(np.float32)
            parts = _parts(part, given, in_a_row(counts), found)
            try:
                raw = server.infer(place.model, place.version, parts, wanted.name)
            except Away as exc:
                raise Delayed(f"{said} {exc}") from exc
            except Refused as exc:
                raise BundleError(f"{said} {exc}") from exc
            answered.append(as_given(raw, found, of_pixels=len(answer) > 1))
        return np.concatenate(answered)

    return Facts(
        input_shape=shape,
        output_shape=answer,
        ending=Ending("unknown", "what the server does not say"),
        front=None,
        norm=None,
        names=(place.model.lower(),),
        predict=predict,
        layout=found,
        inputs=counts,
    )


def _parts(
    tensors: Tensor, given: _Inputs, channels: Mapping[str, tuple[int, ...]], layout: Layout
) -> dict[str, Tensor]:
    """Return what each input is given, as the model takes it."""
    parts = parted(tensors, channels) if channels else {given[0].name: tensors}
    return {name: as_taken(part, layout) for name, part in parts.items()}


def _layout(given: _Inputs, place: Place) -> Layout:
    """Return where the inputs have their channels; the first image of them tells."""
    image = next((one for one in given if len(one.shape) in {4, 5}), None)
    if image is None:
        return "nhwc"
    found = layout_of(_axes(image))
    if found is None:
        raise ConfigError(
            f"{place.model} takes {list(image.shape)}, which does not tell where its channels "
            "are; say --layout nchw (before rows and columns, as PyTorch has them) or --layout nhwc"
        )
    return found


def place_of(said: Sequence[str]) -> Place:
    """Return the model on a server that URL, name and version say.

    Raises
    ------
    ConfigError
        One of them cannot be that.
    """
    try:
        return Place(**dict(zip(("url", "model", "version"), said, strict=True)))
    except ValidationError as exc:
        keys = ", ".join(str(fault["loc"][0]) for fault in exc.errors())
        raise ConfigError(
            f"--remote {' '.join(said)}: {keys} cannot be that; say the server without a path, "
            "the name of the model and its version: --remote https://models:8000 ich 3"
        ) from exc


def refuse_other_server(place: Place, settings: RemoteModels, name: str) -> None:
    """Raise unless the settings name the server that a bundle names: pixels go there.

    Raises
    ------
    BundleError
        They name none, or another one.
    """
    if place.url.rstrip("/") == settings.url.rstrip("/"):
        return
    allowed = f"allow {settings.url}" if settings.url else "allow none"
    raise BundleError(
        f"model bundle {name}: remote.url of bundle.toml is {place.url}, and the settings "
        f"{allowed}; where pixels of your patients may go there, set engine.remote.url to it "
        "(LIMEN_ENGINE__REMOTE__URL)"
    )


def _axes(tensor: TensorFacts) -> list[int | None]:
    """Return the lengths of the axes, without the batch; None where any will do."""
    return [None if n < 0 else n for n in tensor.shape[1:]]


def _tensors_of(said: Described, place: Place) -> tuple[_Inputs, TensorFacts]:
    """Return the inputs and the output that a bundle means."""
    if place.version not in said.versions and said.versions:
        raise BundleError(
            f"has version {', '.join(said.versions)} of {place.model}; remote.version of "
            f"bundle.toml is {place.version}: give it that version, or make a bundle of another"
        )
    several = len(said.inputs) > 1 and not place.input
    given = said.inputs if several else (_chosen(said.inputs, place.input, "input"),)
    wanted = _chosen(said.outputs, place.output, "output")
    for one in given:
        if one.datatype != "FP32" and len(one.shape) in {4, 5}:
            raise BundleError(f"takes {one.datatype} as {one.name!r}; export it with FP32")
    return given, wanted


def _chosen(found: tuple[TensorFacts, ...], name: str, which: str) -> TensorFacts:
    """Return the tensor of a name, or the only one.

    Raises
    ------
    BundleError
        There is none, or the bundle does not say which of several.
    """
    names = ", ".join(one.name for one in found) or "none"
    matching = [one for one in found if name in {"", one.name}]
    if len(matching) == 1:
        return matching[0]
    wanted = (
        f"remote.{which} of bundle.toml is {name!r}" if name else f"say which with remote.{which}"
    )
    raise BundleError(f"has as {which}: {names}; {wanted}")
