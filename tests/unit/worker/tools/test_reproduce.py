"""worker.tools.reproduce: a result is made again, and compared with what is stored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from limen.broker import make_app
from limen.config import Config
from limen.dispatch import Dispatcher
from limen.journal import Journal
from limen.uids import key_of
from scp.header import Identity
from scp.intake import new_instance
from scp.spool import Spool
from tests.support import synthetic
from tests.support.samples import START, encode, keep, settings
from worker.destinations.registry import destinations
from worker.dicom.decoder import Decoder
from worker.process import stores
from worker.serving.repository import Repository
from worker.tools.reproduce import reproduce
from worker.work.jobs import Jobs
from worker.work.models import Models

KEY = key_of(synthetic.STUDY)
EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass
class Analysed:
    """A study that a worker has predicted, explained and archived."""

    config: Config
    journal: Journal

    def again(self) -> tuple[str, list[tuple[str, str, str]]]:
        said = reproduce(self.config, KEY, 1)
        return said["state"], [(p["phase"], p["state"], p["reason"]) for p in said["phases"]]

    def stored(self, phase: str) -> Path:
        return self.config.results_dir / KEY / "1" / phase


@pytest.fixture
def analysed(tmp_path: Path, tiny_bundle: Path, decoder: Decoder) -> Iterator[Analysed]:
    bundle = tmp_path / "tiny"
    shutil.copytree(tiny_bundle, bundle)
    text = (bundle / "bundle.toml").read_text("utf-8")  # of a few weights: all slices are positive
    text = text.replace("threshold = 0.5", "threshold = 0.01")
    (bundle / "bundle.toml").write_text(text, "utf-8")
    config = settings(
        tmp_path,
        route=[{"name": "tiny", "modality": "CT", "bundle": str(bundle)}],
        destination={"django": {"enabled": False}},
        explain={"samples": 32},
    )
    journal = Journal(config.journal_url)
    config.data_dir.mkdir(parents=True, exist_ok=True)
    journal.migrate()
    spool = Spool(config.spool_dir, 0)
    for number in range(1, 5):
        body = encode(synthetic.instance(number))
        identity = Identity.of(body, EXPLICIT)
        kept = keep(spool, identity, body)
        journal.receiving.record([new_instance(identity, kept, EXPLICIT, "CT1", START)])
    assert journal.receiving.complete(KEY, 1)
    models = Models(config, "me", journal, Repository(config))
    places = destinations(config, journal.objects)
    dispatcher = Dispatcher(config, journal, make_app(config))
    kept = stores(config, journal)
    jobs = Jobs(config, "me", journal, dispatcher, *kept, decoder, models, places)
    for phase in ("prediction", "explanation"):
        jobs.handle(f"{KEY}-1-{phase}", phase)
    for phase in ("prediction", "explanation"):
        jobs.handle(f"{KEY}-1-{phase}-archive", "archive")
    models.close()
    yield Analysed(config, journal)
    journal.close()


def test_a_result_is_reproduced_byte_for_byte_also_from_the_archive(analysed: Analysed) -> None:
    both = ("reproduced", [(p, "reproduced", "") for p in ("prediction", "explanation")])
    assert list(analysed.stored("explanation").glob("*.png"))
    assert analysed.again() == both
    shutil.rmtree(analysed.config.spool_dir / KEY)
    shutil.rmtree(analysed.config.results_dir / KEY)
    assert analysed.again() == both
    assert not (analysed.config.spool_dir / KEY).exists()
    shutil.rmtree(analysed.config.archive_dir)
    state, phases = analysed.again()
    assert (state, {p[1] for p in phases}) == ("cannot", {"cannot"})


def test_what_was_changed_since_is_told(analysed: Analysed) -> None:
    overlay = next(analysed.stored("explanation").glob("*.png"))
    before = overlay.read_bytes()
    overlay.write_bytes(before[:-1] + b"x")
    state, (_, explained) = analysed.again()
    assert (state, explained) == (
        "differs", ("explanation", "differs", f"{overlay.name}: other bytes"),
    )  # fmt: skip
    overlay.write_bytes(before)
    document = analysed.stored("prediction") / "result.json"
    document.write_bytes(document.read_bytes().replace(b"0.1.0", b"0.9.9"))
    state, (predicted, _) = analysed.again()
    assert (state, predicted[2]) == ("differs", "the stored document was altered since")


def test_instances_that_were_altered_in_the_spool_are_told(analysed: Analysed) -> None:
    """Also where it changes nothing of the result."""
    instance = next((analysed.config.spool_dir / KEY).glob("*.dcm"))
    body = instance.read_bytes()
    assert body.count(b"Test^Person") == 1
    instance.write_bytes(body.replace(b"Test^Person", b"Text^Person"))
    state, phases = analysed.again()
    assert state == "differs"
    assert all("1 of 4 instances in the spool are not what was received" in p[2] for p in phases)


def test_a_bundle_that_is_no_longer_configured_cannot_be_asked(analysed: Analysed) -> None:
    shutil.rmtree(analysed.config.route[0].bundle)
    state, phases = analysed.again()
    assert state == "cannot"
    assert all("is not configured any more" in reason for _, _, reason in phases)
