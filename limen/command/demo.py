"""``limen demo``: the whole system on free loopback ports, fed with synthetic head CT."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limen import config as settings
from limen import telemetry
from limen.command import NOTICE
from limen.command.edge import OK, PARTIAL
from limen.command.ports import free_ports
from limen.command.screen import number, table
from limen.command.screen import say as print_line
from limen.command.send import Peer, files_of, send
from limen.command.supervisor import Supervisor, environment, set_up_web
from limen.config import Config
from limen.errors import LimenError
from limen.journal import Journal, StudyRow
from limen.result import HU_OFFSET, Phase, Result
from limen.states import StudyState, WorkState

__all__ = ["Demo", "Line", "demo"]

_FOLDER_MARK = ".limen-demo"
_POLL_S = 0.2
_ENDED = {StudyState.DONE.value, StudyState.FAILED.value}
_OVERLAYS_PER_STUDY = 2
_GREYS_PER_HU = 255 / 80
"""Of the brain window, which begins at 0 HU."""


@dataclass(frozen=True, slots=True)
class Line:
    """One study of the demo: what is true of it, and what Limen said."""

    name: str
    truth: str
    outcome: str
    reason: str
    probability: float | None
    positive_slices: int | None
    true_slices: int
    slices: int
    predicted_s: float | None
    explained_s: float | None
    page: str
    overlays: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether outcome and truth agree."""
        wanted = {"no route": "not_analysed"}.get(self.truth, self.truth)
        return self.outcome == wanted

    def cells(self) -> tuple[str, ...]:
        """Return the line as a table shows it."""
        return (
            self.name,
            self.truth + (f" ({self.true_slices} slices)" if self.true_slices else ""),
            self.outcome.replace("_", " "),
            number(self.probability, "{:.3f}"),
            "-" if self.positive_slices is None else f"{self.positive_slices} of {self.slices}",
            number(self.predicted_s, "{:.2f} s"),
            number(self.explained_s, "{:.2f} s"),
            self.page,
        )


def demo(args: argparse.Namespace) -> int:
    """Run the demo and print what came back."""
    telemetry.configure("warning")
    for name in [n for n in os.environ if n.startswith(settings.ENV_PREFIX)]:
        del os.environ[name]  # the demo runs on its own settings, whatever this shell has
    began = time.monotonic()

    def say(text: str) -> None:
        if not args.json:
            print_line(f"[{time.monotonic() - began:5.1f} s] {text}")

    running = Demo(args.output, say)
    try:
        lines = running.run()
        _tell(lines, args, time.monotonic() - began)
        if args.keep and running.supervisor is not None:
            print_line(f"Log in with {running.login_url}\nStill running; stop it with Ctrl-C.")
            return running.supervisor.watch()
        if not args.json:
            print_line(
                "The pages were served while the demo ran; `limen demo --keep` leaves them up."
            )
        return OK if all(line.right for line in lines) else PARTIAL
    finally:
        running.stop()


def _tell(lines: Sequence[Line], args: argparse.Namespace, seconds: float) -> None:
    if args.json:
        studies = [{**asdict(line), "right": line.right} for line in lines]
        print_line(json.dumps({"seconds": round(seconds, 1), "studies": studies}))
        return
    table(
        ["study", "truth", "outcome", "prob.", "positive", "to prediction", "to expl.", "page"],
        [line.cells() for line in lines],
    )
    print_line(f"\n{sum(x.right for x in lines)} of {len(lines)} outcomes agree with the truth.")
    print_line(f"overlays: {args.output / 'overlays'}   done in {seconds:.1f} s. {NOTICE}")


class Demo:
    """One run of the demo in ``folder``.

    Parameters
    ----------
    folder
        Emptied first when an earlier demo made it; refused when it holds anything else.
    say
        Takes a progress line.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder.resolve()
        self._say = say
        self.supervisor: Supervisor | None = None
        self.login_url: str | None = None

    def run(self, timeout_s: float = 180.0) -> list[Line]:
        """Start everything, send six studies and wait for their results.

        Raises
        ------
        LimenError
            Something did not start, or the studies did not end in time.
        """
        config, env = self._prepare()
        self._say("making six synthetic head studies, starting receiver, worker and results server")
        making = self._start_making_studies(env)
        self.login_url = set_up_web(config, env, link=True)["login_url"]
        self.supervisor = Supervisor(env, self._folder / "logs")
        self.supervisor.start(on_ready=lambda n, s: self._say(f"{n} is ready after {s:.1f} s"))
        studies = self._made_studies(making)
        self._say("sending six studies by C-STORE")
        for study in studies:
            peer = Peer(config.scp.ae_title, "127.0.0.1", config.scp.port)
            files = list(files_of([Path(study["folder"])]))
            report = send(files, peer, "DEMO")
            if report.sent != len(files):
                raise LimenError(f"{report.sent} of {len(files)} instances were taken")
        rows = self._wait(config, {s["study_uid"] for s in studies}, timeout_s)
        return [self._line(config, s, rows[s["study_uid"]]) for s in studies]

    def stop(self) -> None:
        """End every process of the demo."""
        if self.supervisor is not None:
            self.supervisor.stop()

    def _prepare(self) -> tuple[Config, dict[str, str]]:
        if self._folder.exists():
            if any(self._folder.iterdir()) and not (self._folder / _FOLDER_MARK).exists():
                raise LimenError(f"{self._folder} holds other files; choose another folder with -o")
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True)
        (self._folder / _FOLDER_MARK).touch()
        scp_port, web_port = free_ports(2)
        file = self._folder / "config.toml"
        file.write_text(
            f'[node]\nname = "demo"\ndata_dir = "data"\n[scp]\nport = {scp_port}\n'
            f"min_free_bytes = 100000000\n[web]\nport = {web_port}\n",
            "utf-8",
        )
        config = settings.load(file)
        return config, environment(config, file)

    def _start_making_studies(self, env: dict[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "models.ich.phantom", "-o", str(self._folder / "studies")]
            + ["--json"],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _made_studies(self, making: subprocess.Popen[str]) -> list[dict[str, Any]]:
        out, err = making.communicate(timeout=60)
        if making.returncode != 0:
            raise LimenError(f"the synthetic studies cannot be made: {err.strip()[-300:]}")
        studies: list[dict[str, Any]] = json.loads(out)
        return studies

    def _wait(self, config: Config, uids: set[str], timeout_s: float) -> dict[str, StudyRow]:
        journal = Journal(config.journal_url)
        deadline = time.monotonic() + timeout_s
        said = ""
        while True:
            rows = {r.study_uid: r for r in journal.status.studies() if r.study_uid in uids}
            predicted = sum(r.predicted_at is not None for r in rows.values())
            ended = sum(_has_ended(r) for r in rows.values())
            line = f"{len(rows)} received, {predicted} predicted, {ended} finished and delivered"
            if line != said:
                self._say(line)
                said = line
            if ended == len(uids):
                journal.close()
                return rows
            if time.monotonic() > deadline:
                raise LimenError(
                    f"not finished after {timeout_s:.0f} s ({line}); see {self._folder / 'logs'}"
                )
            time.sleep(_POLL_S)

    def _line(self, config: Config, study: dict[str, Any], row: StudyRow) -> Line:
        return Line(
            name=study["name"],
            truth=study["truth"],
            outcome=row.outcome or row.state,
            reason=row.reason,
            probability=row.probability,
            positive_slices=row.positive_slices,
            true_slices=study["positive_slices"],
            slices=row.slices or 0,
            predicted_s=_seconds(row, row.predicted_at),
            explained_s=_seconds(row, row.explained_at),
            page=f"{config.web_url}/studies/{row.study_key}/",
            overlays=tuple(self._overlays(config, study["name"], row)),
        )

    def _overlays(self, config: Config, name: str, row: StudyRow) -> list[str]:
        """Blend the first explained slices with their overlays into pictures for a person."""
        import imagecodecs  # noqa: PLC0415 - only the demo draws
        from PIL import Image  # noqa: PLC0415

        root = config.results_dir / row.study_key / str(row.revision)
        document = root / Phase.EXPLANATION.value / "result.json"
        if not document.is_file():
            return []
        result = Result.from_json(document.read_bytes())
        shown = [i for i in result.images if i.explanation is not None]
        shown.sort(key=lambda i: -max((i.probability or {"": 0.0}).values()))
        paths = []
        for image in shown[:_OVERLAYS_PER_STUDY]:
            file = root / Phase.PREDICTION.value / str(image.original)
            hu = imagecodecs.jpegls_decode(file.read_bytes()).astype(float) - HU_OFFSET
            original = Image.fromarray((hu * _GREYS_PER_HU).clip(0, 255).astype("uint8"))
            overlay = Image.open(root / Phase.EXPLANATION.value / str(image.explanation))
            path = self._folder / "overlays" / f"{name}-slice{image.index + 1:02d}.png"
            path.parent.mkdir(exist_ok=True)
            grey = original.resize(overlay.size).convert("RGBA")
            Image.alpha_composite(grey, overlay).convert("RGB").save(path)
            paths.append(str(path))
        return paths


def _has_ended(row: StudyRow) -> bool:
    return row.state in _ENDED and all(
        d.state in {WorkState.DONE.value, WorkState.DEAD.value} for d in row.deliveries
    )


def _seconds(row: StudyRow, at: Any) -> float | None:
    return None if at is None else round((at - row.last_instance_at).total_seconds(), 2)
