"""A worker in parts that has a folder of versions: what is deployed comes to it and goes again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest
from structlog.testing import capture_logs

from limen.command.edge import OK
from limen.config import Config
from limen.journal import Deployment, Journal, WorkerSign
from tests.support.samples import settings
from tests.support.tiny_models import write_version
from worker.bundles import versions
from worker.serving.repository import Repository
from worker.tools import model_deploy, model_tool
from worker.work.models import Models

__all__ = ["WORKER", "Console", "Host", "host_with_versions"]

WORKER = "1" * 32
_MIB = 1 << 20


@dataclass
class Host:
    """A worker in parts, with a folder of two versions and a journal that others may write too."""

    config: Config
    folder: Path
    journal: Journal
    resident_mib: list[int] = field(default_factory=lambda: [100])
    lost: list[str] = field(default_factory=list)
    running: list[Models] = field(default_factory=list)

    def start(self) -> Models:
        """Start the worker, in place of the one before."""
        self.stop()
        kept = Repository(self.config, on_lost=lambda: self.lost.append("lost"))
        made = Models(self.config, WORKER, self.journal, kept, self.resident)
        self.running.append(made)
        made.begin()
        self.journal.workers.seen(WorkerSign(WORKER, "here", "0", ("prediction",)), 30)
        return made

    def stop(self) -> None:
        for one in self.running:
            one.close()
        self.running.clear()

    def resident(self) -> int:
        """The first of what is left to say; the last stays."""
        now = self.resident_mib[0]
        if len(self.resident_mib) > 1:
            self.resident_mib.pop(0)
        return now * _MIB

    def ask(self, version: str, percent: int = 100) -> Deployment:
        digest = versions.digest_of(self.folder / version)
        return self.journal.deployments.ask("heads", version, digest, percent, "anna@host")

    def deploy(self, version: str, percent: int = 100) -> Models:
        self.ask(version, percent)
        (models,) = self.running
        with capture_logs():
            models.look()
        return models

    def serving(self) -> list[str]:
        return [one.version for one in self.journal.deployments.serving("heads")]

    def loaded(self) -> set[str]:
        (models,) = self.running
        return {one.bundle.version for one in models._repository._loaded.values()}

    def last(self) -> Deployment:
        return self.journal.deployments.all("heads")[0]


@dataclass
class Console:
    """A terminal on a host."""

    host: Host
    captured: pytest.CaptureFixture[str]

    @classmethod
    def whose_worker_looks(
        cls, host: Host, captured: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> Self:
        """Return one whose worker looks whenever a command waits."""

        def wait(_: float) -> None:
            for one in host.running:
                one.look()

        # Not ``time.sleep`` itself: threads of others would look, too.
        own = SimpleNamespace(monotonic=time.monotonic, sleep=wait)
        monkeypatch.setattr(model_deploy, "time", own)
        return cls(host, captured)

    @classmethod
    @contextmanager
    def at_work(
        cls, host: Host, captured: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Self]:
        """Yield one whose worker looks at studies with 1.0; the host is ended after the block."""
        made = cls.whose_worker_looks(host, captured, monkeypatch)
        host.start()
        try:
            code, said = made.run("deploy", "heads", "1.0")
            assert code == OK, said
            yield made
        finally:
            host.stop()
            host.journal.close()

    @property
    def settings(self) -> Path:
        """The file of its settings, written when it is asked for first."""
        config = self.host.config
        path = config.data_dir.parent / "config.toml"
        if not path.exists():
            route = f'[[route]]\nname = "head"\nmodality = "CT"\nbundle = "{self.host.folder}"\n'
            path.write_text(f'[node]\ndata_dir = "{config.data_dir}"\n{route}', "utf-8")
        return path

    def run(self, *words: str) -> tuple[int, str]:
        """Run a command; return its exit code and what it printed."""
        with capture_logs():
            code = model_tool.main([*words, "--config", str(self.settings)])
        said = self.captured.readouterr()
        return code, said.out + said.err


def host_with_versions(folder: Path, **sections: object) -> Host:
    """Return a host whose route names ``models/heads`` with the versions 1.0 and 2.0."""
    heads = folder / "models" / "heads"
    write_version(heads, "1.0", bias=-3)
    write_version(heads, "2.0", bias=3)
    route = [{"name": "head", "modality": "CT", "bundle": str(heads)}]
    config = settings(folder, route=route, **sections)
    journal = Journal(config.journal_url)
    journal.migrate()
    return Host(config, heads, journal)
