"""limen.alarms: what is dead, late, missing or full, said once for everyone who asks."""

from __future__ import annotations

import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from limen.alarms import Kind, alarms, of_broker, of_certificates, of_disk, of_models
from limen.bulletin import Bulletin
from limen.collectors import JournalCollector
from limen.command.parser import main
from limen.config import Config
from limen.journal import Delivery, Holding, Job, Journal, Lane, WorkerRow, WorkerSign
from limen.notices import Notices
from limen.states import HoldingState
from tests.support.journals import KEY, PREDICTION, predicted, receive
from tests.support.ports import free_ports
from tests.support.samples import START, Clock, settings

GB = 10**9


def free_is(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil._ntuple_diskusage(100 * GB, 100 * GB - size, size)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return settings(tmp_path, scp={"min_free_bytes": 2 * GB})


@pytest.mark.parametrize(
    ("free", "told"),
    [(5 * GB, []), (3 * GB, ["fills up: 3.00 GB"]), (GB, ["is full: 1.00 GB", "0xA700"])],
)
def test_a_disk_is_told_before_it_is_full_and_when_it_is(
    free: int, told: list[str], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_is(free, monkeypatch)
    found = list(of_disk(config))
    assert len(found) == bool(told)
    for words in told:
        assert words in found[0].text
        assert found[0].kind is Kind.DISK


def test_a_host_without_a_spool_says_nothing_of_its_disk(config: Config) -> None:
    assert list(of_disk(config)) == []


def test_everything_that_is_wrong_at_once_is_told_at_once(
    config: Config, journal: Journal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_is(GB, monkeypatch)
    predicted(journal)
    for name in ("django", "archive"):
        key = f"{KEY}-1-prediction-{name}"
        delivery = journal.work.claim(Delivery, key, "a", 30)
        assert delivery is not None
        if name == "django":
            assert journal.work.bury(delivery, "a", "answered 409")
        else:
            assert journal.work.postpone_until_there(delivery, "a", 60, "away", probe_s=(1, 60))
    clock.forward(600)
    lanes, workers = journal.status.queues(), journal.status.workers()
    found = {(one.kind, one.about) for one in alarms(config, lanes, workers)}
    assert found == {
        (Kind.DEAD, "django"),
        (Kind.AWAY, "archive"),
        (Kind.MISSING, "worker"),
        (Kind.DISK, "spool"),
    }


def test_work_that_waits_for_a_server_of_models_says_so_until_it_is_taken_again(
    config: Config, journal: Journal, clock: Clock
) -> None:
    receive(journal)
    (due,) = journal.publishing.due()
    assert journal.publishing.sending(due, 60)
    why = "the server of models at http://models:8000 does not answer (ConnectionError)"
    for _ in range(5):
        work = journal.work.claim(Job, due.key, "a", 30)
        assert work is not None
        assert journal.status.queues()["prediction"].waits_for == ""
        assert journal.work.give_back(Job, work.key, "a", 30, why)
        clock.forward(31)
    found = alarms(config, journal.status.queues(), journal.status.workers())
    told = [one for one in found if one.kind is Kind.AWAY]
    assert [(one.about, one.text) for one in told] == [
        ("prediction", f"prediction: 1 wait, and nothing is lost: {why}")
    ]


# -- the broker ------------------------------------------------------------------------------------


def test_a_broker_that_takes_no_message_is_told_as_soon_as_work_waits_for_one(
    config: Config, journal: Journal, clock: Clock
) -> None:
    receive(journal)
    clock.forward(59)
    assert list(of_broker(config, journal.status.queues())) == []
    clock.forward(2)
    (alarm,) = of_broker(config, journal.status.queues())
    assert alarm.kind is Kind.BROKER
    assert "due 61 s ago" in alarm.text
    # A message went out: it is the worker that does not come.
    (work,) = journal.publishing.due()
    assert journal.publishing.sending(work, 60)
    assert list(of_broker(config, journal.status.queues())) == []


def test_work_that_waits_for_a_destination_or_for_its_next_try_is_not_laid_to_the_broker(
    config: Config, journal: Journal, clock: Clock
) -> None:
    predicted(journal)
    for name in ("django", "archive"):
        delivery = journal.work.claim(Delivery, f"{PREDICTION}-{name}", "a", 30)
        assert delivery is not None
        if name == "django":
            assert journal.work.postpone_until_there(delivery, "a", 60, "away", probe_s=(1, 60))
        else:
            assert journal.work.postpone(delivery, "a", 600, "not now")
    clock.forward(300)
    assert list(of_broker(config, journal.status.queues())) == []


def test_a_broker_where_nobody_listens_is_told_before_any_work_waits(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = settings(tmp_path, queue={"broker": f"amqp://limen:hunter2@127.0.0.1:{port}/x"})
    (alarm,) = of_broker(config, {})
    assert alarm.kind is Kind.BROKER
    assert f"127.0.0.1:{port} does not answer" in alarm.text
    assert "hunter2" not in alarm.text
    with socket.create_server(("127.0.0.1", port)):
        assert list(of_broker(config, {})) == []


def test_a_broker_is_looked_for_where_its_address_says() -> None:
    def address(url: str) -> tuple[str, int] | None:
        return Config(queue={"broker": url}).queue.address

    assert address("filesystem://") is None
    assert address("amqp://limen:hunter2@mq/x") == ("mq", 5672)
    assert address("amqps://mq") == ("mq", 5671)
    assert address("amqps://mq:5000//") == ("mq", 5000)


# -- certificates and clocks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "told"), [(60, ""), (15, ""), (13, "expires in"), (-1, "has expired on")]
)
def test_a_certificate_is_told_two_weeks_before_it_ends_and_after(
    tmp_path: Path, days: int, told: str
) -> None:
    ends = datetime.now(UTC) + timedelta(days=days)
    made = trustme.CA().issue_cert("limen", not_after=ends)
    made.cert_chain_pems[0].write_to_path(tmp_path / "crt")
    files = {"certificate_file": tmp_path / "crt", "key_file": tmp_path / "key"}
    config = settings(tmp_path, scp={"tls": {"port": 2762, **files}})
    found = list(of_certificates(config))
    assert [(one.kind, one.about) for one in found] == [(Kind.CERTIFICATE, "scp.tls")] * bool(told)
    assert all(told in one.text for one in found)


def test_a_certificate_that_is_none_is_told_and_one_of_another_host_is_not(tmp_path: Path) -> None:
    (tmp_path / "crt").write_text("no certificate")
    pacs = {"name": "main", "ae_title": "PACS", "host": "pacs", "tls": True}
    entries = [
        {**pacs, "certificate_file": tmp_path / "crt"},
        {**pacs, "name": "other", "certificate_file": tmp_path / "absent"},
    ]
    (alarm,) = of_certificates(settings(tmp_path, destination={"pacs": entries}))
    assert (alarm.kind, alarm.about) == (Kind.CERTIFICATE, "main")


def test_a_host_whose_clock_is_not_that_of_the_journal_is_told(config: Config) -> None:
    worker = WorkerRow("w", "other", "1", ("prediction",), START, 1.0, False, -90.0)
    found = alarms(config, {}, [worker], clock_off_s=3.0)
    clocks = {one.about: one.text for one in found if one.kind is Kind.CLOCK}
    assert set(clocks) == {"other", socket.gethostname()}
    assert "90 s behind" in clocks["other"]
    assert "3 s ahead" in clocks[socket.gethostname()]
    assert not [one for one in alarms(config, {}, [], 1.9) if one.kind is Kind.CLOCK]


# -- lanes -----------------------------------------------------------------------------------------


def test_a_lane_that_no_worker_takes_and_work_that_waits_too_long_are_told(
    config: Config, journal: Journal, clock: Clock
) -> None:
    receive(journal)
    clock.forward(901)
    journal.workers.seen(WorkerSign("w", "host", "1", ("explanation",)), 30.0)
    found = alarms(config, journal.status.queues(), journal.status.workers())
    told = {(one.kind, one.about) for one in found}
    assert told >= {(Kind.MISSING, "prediction"), (Kind.LATE, "prediction")}


def test_a_destination_that_rejects_us_is_told_by_its_own_words(config: Config) -> None:
    found = alarms(config, {"main": Lane(queued=1, away_s=5.0, unwelcome="it rejects us")}, [])
    assert ("rejected", "main: it rejects us") in {(one.kind.value, one.text) for one in found}


def test_status_ends_with_1_and_says_first_what_is_not_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (port,) = free_ports(1)
    (tmp_path / "config.toml").write_text(
        f'[node]\ndata_dir = "data"\n[queue]\nbroker = "amqp://127.0.0.1:{port}"\n'
    )
    (tmp_path / "data").mkdir()
    journal = Journal(f"sqlite:///{tmp_path}/data/journal.db")
    journal.migrate()
    journal.workers.seen(WorkerSign("w", "host", "1", ("prediction",)), 30.0)
    journal.close()
    assert main(["status"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("Not well:\n  the broker at 127.0.0.1")
    assert main(["status", "--json"]) == 1
    assert '"kind": "broker"' in capsys.readouterr().out


# -- versions of models --------------------------------------------------------------------------


@pytest.fixture
def deployed(journal: Journal) -> Journal:
    """A journal where heads 1.0 serves, with one worker."""
    journal.workers.seen(WORKER, 1e6)
    ask(journal, "1.0", HoldingState.READY)
    return journal


WORKER = WorkerSign("abcdef01" * 4, "host-a", "0.1.0", ("prediction",))


def ask(journal: Journal, version: str, state: HoldingState, text: str = "") -> None:
    """Ask for a version, and let the worker say how far it is."""
    made = journal.deployments.ask("heads", version, version * 20, 100, "anna@host")
    journal.deployments.report(WORKER.id, [Holding(WORKER.id, "heads", made.id, state, text)])


def of_heads(journal: Journal) -> str:
    """Return what is told of the model."""
    found = list(of_models(journal.deployments.standing()))
    assert all((one.kind, one.about) == (Kind.MODEL, "heads") for one in found)
    return "".join(one.text for one in found)


def test_a_version_that_serves_everywhere_is_no_alarm(deployed: Journal) -> None:
    assert of_heads(deployed) == ""


def test_that_no_version_is_deployed_is_told_where_a_route_names_the_model(
    journal: Journal,
) -> None:
    journal.workers.seen(WORKER, 30)
    assert of_heads(journal) == ""
    missing = Holding(WORKER.id, "heads", 0, HoldingState.MISSING)
    journal.deployments.report(WORKER.id, [missing])
    assert "no version of heads serves, its studies wait: limen model deploy" in of_heads(journal)


def test_a_version_that_was_refused_is_told_until_it_is_taken_back(deployed: Journal) -> None:
    ask(deployed, "2.0", HoldingState.FAILED, "golden tensors differ")
    told = of_heads(deployed)
    assert "heads 2.0 does not serve, heads 1.0 goes on: worker abcdef01 on host-a" in told
    assert "golden tensors differ" in told
    deployed.deployments.take_back("heads", "anna@host")
    assert of_heads(deployed) == ""


def test_a_worker_that_cannot_run_what_serves_is_told(deployed: Journal) -> None:
    (serving,) = deployed.deployments.serving("heads")
    failed = Holding(WORKER.id, "heads", serving.id, HoldingState.FAILED, "other files")
    deployed.deployments.report(WORKER.id, [failed])
    assert "worker abcdef01 on host-a cannot run heads 1.0: other files" in of_heads(deployed)


def test_a_version_that_is_not_ready_in_time_is_told_with_who_is_slow(
    deployed: Journal, clock: Clock
) -> None:
    ask(deployed, "2.0", HoldingState.LOADING)
    clock.forward(599)
    assert of_heads(deployed) == ""
    clock.forward(2)
    told = of_heads(deployed)
    assert told == (
        "heads 2.0 was asked for 10 min ago, heads 1.0 goes on; not ready on abcdef01 on host-a"
    )


def test_what_is_not_well_with_a_model_is_told_by_every_one_who_tells_alarms(
    deployed: Journal, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_" + "A" * 44, "utf-8")
    alarm = {"webhook": "https://alerts.example.org/limen", "secret_file": secret}
    config = settings(tmp_path, alarm=alarm)
    ask(deployed, "2.0", HoldingState.FAILED, "golden tensors differ")
    kinds = {one["kind"] for one in Bulletin(config, deployed).read()["alarms"]}
    assert "model" in kinds
    collected = JournalCollector(config, deployed).collect()
    (family,) = [one for one in collected if one.name == "limen_alarms"]
    counts = {sample.labels["kind"]: sample.value for sample in family.samples}
    assert counts["model"] == 1
    notices = Notices(config, deployed)
    assert any(kind == "model" for kind, _ in notices._found())
