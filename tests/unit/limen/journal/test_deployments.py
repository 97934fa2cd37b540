"""limen.journal.deployments: which version looks at which study, decided once for every worker."""

from __future__ import annotations

import pytest

from limen.errors import Delayed, Permanent
from limen.journal import Deployment, Holding, Journal, WorkerSign, chosen
from limen.result import Outcome
from limen.states import DeploymentState, HoldingState
from limen.uids import key_of
from tests.support.journals import BOTH, PREDICTION, claimed, receive, state_of
from tests.support.samples import SUMMARY, Clock

NAME, WHO = "heads", "anna@host"
ONE, TWO = "1" * 32, "2" * 32
DIGESTS = {"1.0": "a" * 64, "2.0": "b" * 64, "3.0": "c" * 64}


def alive(journal: Journal, *workers: str) -> None:
    for worker in workers:
        journal.workers.seen(WorkerSign(worker, f"host-{worker[0]}", "0.1.0", ("prediction",)), 30)


def say(
    journal: Journal,
    worker: str,
    deployment: int,
    state: HoldingState = HoldingState.READY,
    text: str = "",
) -> None:
    journal.deployments.report(worker, [Holding(worker, NAME, deployment, state, text)])


def ask(journal: Journal, version: str, percent: int = 100) -> Deployment:
    return journal.deployments.ask(NAME, version, DIGESTS[version], percent, WHO)


def deploy(journal: Journal, version: str, percent: int = 100) -> Deployment:
    """Ask for a version, which the only worker can run."""
    alive(journal, ONE)
    made = ask(journal, version, percent)
    say(journal, ONE, made.id)
    return made


def serving(journal: Journal) -> list[tuple[str, int]]:
    return sorted((one.version, one.percent) for one in journal.deployments.serving(NAME))


def test_a_version_serves_when_the_last_worker_that_lives_is_ready(journal: Journal) -> None:
    alive(journal, ONE, TWO)
    for worker in (ONE, TWO):
        say(journal, worker, 0, HoldingState.MISSING)
    made = ask(journal, "1.0")
    say(journal, ONE, made.id)
    assert serving(journal) == []
    say(journal, TWO, made.id, HoldingState.LOADING)
    assert serving(journal) == []
    say(journal, TWO, made.id)
    assert serving(journal) == [("1.0", 100)]


def test_a_version_that_one_worker_cannot_run_serves_nowhere_and_says_why(
    journal: Journal,
) -> None:
    deploy(journal, "1.0")
    alive(journal, TWO)
    say(journal, TWO, 1)  # it says what it has of a model before its first sign of life
    made = ask(journal, "2.0")
    say(journal, ONE, made.id)
    say(journal, TWO, made.id, HoldingState.FAILED, "golden tensors differ by 0.3")
    say(journal, ONE, made.id)
    assert serving(journal) == [("1.0", 100)]
    last = journal.deployments.all(NAME)[0]
    assert (last.version, last.state) == ("2.0", DeploymentState.REFUSED)
    assert last.note == "worker 22222222 on host-2: golden tensors differ by 0.3"


def test_a_worker_that_is_dead_holds_nobody_up_and_says_nothing(
    journal: Journal, clock: Clock
) -> None:
    alive(journal, ONE, TWO)
    say(journal, TWO, 0, HoldingState.MISSING)
    made = ask(journal, "1.0")
    say(journal, ONE, made.id)
    assert serving(journal) == []
    clock.forward(31)
    alive(journal, ONE)
    journal.deployments.decide(NAME)
    assert serving(journal) == [("1.0", 100)]
    say(journal, TWO, made.id, HoldingState.FAILED, "too late")
    assert serving(journal) == [("1.0", 100)]


def test_what_a_worker_was_loading_when_it_died_is_not_given_to_the_next(
    journal: Journal,
) -> None:
    deploy(journal, "1.0")
    made = ask(journal, "2.0")
    say(journal, ONE, made.id, HoldingState.LOADING)
    journal.deployments.died(ONE)
    journal.workers.gone(ONE)
    last = journal.deployments.all(NAME)[0]
    assert (last.state, last.note) == (
        DeploymentState.REFUSED,
        "worker 11111111 died while it loaded it",
    )
    assert serving(journal) == [("1.0", 100)]


def test_a_worker_that_falls_silent_while_it_loads_has_refused_it(
    journal: Journal, clock: Clock
) -> None:
    alive(journal, ONE, TWO)
    made = ask(journal, "1.0")
    say(journal, TWO, made.id, HoldingState.LOADING)
    say(journal, ONE, made.id)
    clock.forward(31)
    alive(journal, ONE)
    journal.deployments.decide(NAME)
    last = journal.deployments.all(NAME)[0]
    assert (last.state, "no sign of life since it began to load it" in last.note) == (
        DeploymentState.REFUSED,
        True,
    )


def test_a_worker_that_ends_while_it_loads_refuses_nothing(journal: Journal) -> None:
    alive(journal, ONE, TWO)
    made = ask(journal, "1.0")
    say(journal, ONE, made.id, HoldingState.LOADING)
    journal.workers.gone(ONE)
    say(journal, TWO, made.id)
    assert serving(journal) == [("1.0", 100)]


def test_who_is_asked_for_first_gives_way_to_who_is_asked_for_next(journal: Journal) -> None:
    first, second = ask(journal, "1.0"), ask(journal, "2.0")
    alive(journal, ONE)
    say(journal, ONE, first.id)
    assert serving(journal) == []
    say(journal, ONE, second.id)
    assert serving(journal) == [("2.0", 100)]
    states = {one.version: one.state for one in journal.deployments.all(NAME)}
    assert states == {"1.0": DeploymentState.REPLACED, "2.0": DeploymentState.SERVING}


def test_every_change_is_kept_with_who_and_when(journal: Journal, clock: Clock) -> None:
    asked_at = clock.now
    deploy(journal, "1.0")
    clock.forward(60)
    deploy(journal, "2.0")
    clock.forward(60)
    journal.deployments.take_back(NAME, "ben@host", "bleeds were missed")
    again, two, one = journal.deployments.all(NAME)
    assert (one.asked_by, one.asked_at, one.served_at) == (WHO, asked_at, asked_at)
    assert (one.state, one.ended_by) == (DeploymentState.REPLACED, "")
    assert (two.state, two.ended_by, two.note) == (
        DeploymentState.WITHDRAWN,
        "ben@host",
        "bleeds were missed",
    )
    assert two.ended_at == again.served_at == clock.now
    assert (again.version, again.asked_by, again.note) == ("1.0", "ben@host", "in place of 2.0")


# -- which study -----------------------------------------------------------------------------------


def test_a_canary_looks_at_its_share_the_same_studies_each_time_and_more_keep_those(
    journal: Journal,
) -> None:
    deploy(journal, "1.0")
    deploy(journal, "2.0", 10)
    assert serving(journal) == [("1.0", 100), ("2.0", 10)]
    keys = [key_of(f"1.2.3.{n}") for n in range(2000)]

    def seen_by_two() -> set[str]:
        now = journal.deployments.serving(NAME)
        picked = {key: chosen(now, key) for key in keys}
        assert all(picked.values())
        return {key for key, one in picked.items() if one is not None and one.version == "2.0"}

    some = seen_by_two()
    assert some == seen_by_two()
    assert 150 < len(some) < 250
    deploy(journal, "2.0", 50)
    more = seen_by_two()
    assert some < more
    assert 900 < len(more) < 1100
    deploy(journal, "2.0")
    assert serving(journal) == [("2.0", 100)]
    assert seen_by_two() == set(keys)


def test_nothing_is_chosen_where_nothing_serves(journal: Journal) -> None:
    assert chosen(journal.deployments.serving(NAME), "0" * 32) is None


def test_a_canary_needs_something_that_looks_at_the_rest(journal: Journal) -> None:
    with pytest.raises(Permanent, match="leave out --percent"):
        ask(journal, "1.0", 5)


@pytest.mark.parametrize(("version", "percent"), [("1.0", 100), ("1.0", 5), ("2.0", 5)])
def test_what_serves_already_is_not_asked_for_again(
    version: str, percent: int, journal: Journal
) -> None:
    deploy(journal, "1.0")
    deploy(journal, "2.0", 5)
    with pytest.raises(Permanent, match="already"):
        ask(journal, version, percent)


def test_a_version_is_one_set_of_files_for_ever(journal: Journal) -> None:
    deploy(journal, "1.0")
    deploy(journal, "2.0")
    with pytest.raises(Permanent, match="with other files"):
        journal.deployments.ask(NAME, "1.0", "d" * 64, 100, WHO)


# -- taking back -----------------------------------------------------------------------------------


def test_going_back_again_and_again_never_comes_to_what_was_taken_back(journal: Journal) -> None:
    for version in ("1.0", "2.0", "3.0"):
        deploy(journal, version)
    for version in ("2.0", "1.0"):
        _, serves = journal.deployments.take_back(NAME, WHO)
        assert serves is not None
        assert serves.version == version
        assert serving(journal) == [(version, 100)]
    with pytest.raises(Permanent, match="nothing to go back to"):
        journal.deployments.take_back(NAME, WHO)
    assert serving(journal) == [("1.0", 100)]


def test_a_canary_that_is_taken_back_leaves_all_to_what_served_beside_it(
    journal: Journal,
) -> None:
    deploy(journal, "1.0")
    deploy(journal, "2.0", 5)
    ask(journal, "2.0")
    gone, serves = journal.deployments.take_back(NAME, WHO)
    assert (gone.version, serves and serves.version) == ("2.0", "1.0")
    assert [one.version for one in journal.deployments.open(NAME)] == ["1.0"]


def test_what_is_only_asked_for_is_called_off(journal: Journal) -> None:
    deploy(journal, "1.0")
    made = ask(journal, "2.0")
    journal.deployments.take_back(NAME, WHO)
    say(journal, ONE, made.id)
    assert serving(journal) == [("1.0", 100)]


def test_what_was_refused_is_told_until_somebody_takes_it_back_and_what_serves_goes_on(
    journal: Journal,
) -> None:
    deploy(journal, "1.0")
    made = ask(journal, "2.0")
    say(journal, ONE, made.id, HoldingState.FAILED, "no such file")
    told = journal.deployments.standing()
    assert [(d.version, d.state.value) for d in told.deployments] == [
        ("2.0", "refused"),
        ("1.0", "serving"),
    ]
    gone, serves = journal.deployments.take_back(NAME, WHO)
    assert (gone.version, serves and serves.version) == ("2.0", "1.0")
    assert [d.version for d in journal.deployments.standing().deployments] == ["1.0"]


def test_nothing_is_taken_back_where_nothing_is_deployed(journal: Journal) -> None:
    with pytest.raises(Permanent, match="no version of heads is deployed"):
        journal.deployments.take_back(NAME, WHO)


def test_no_prediction_of_a_version_is_committed_once_it_was_taken_back(journal: Journal) -> None:
    deploy(journal, "1.0")
    two = deploy(journal, "2.0")
    receive(journal)
    job = claimed(journal)
    journal.deployments.take_back(NAME, WHO)
    with pytest.raises(Delayed, match="taken back"):
        journal.work.commit(job, "a", SUMMARY, BOTH, explain=True, deployment=two.id)
    assert state_of(journal, PREDICTION) == "running"
    assert journal.status.study(job.study_key, 1).outcome is None
    (one,) = journal.deployments.serving(NAME)
    assert journal.work.commit(job, "a", SUMMARY, BOTH, deployment=one.id)
    assert journal.status.study(job.study_key, 1).outcome == Outcome.POSITIVE


def test_a_prediction_of_a_version_that_was_only_replaced_stays(journal: Journal) -> None:
    one = deploy(journal, "1.0")
    receive(journal)
    job = claimed(journal)
    deploy(journal, "2.0")
    assert journal.work.commit(job, "a", SUMMARY, BOTH, deployment=one.id)


def test_a_worker_that_was_forgotten_is_forgotten_here_too(journal: Journal, clock: Clock) -> None:
    alive(journal, ONE)
    say(journal, ONE, 0, HoldingState.MISSING)
    assert [one.who for one in journal.deployments.standing().holdings] == ["11111111 on host-1"]
    clock.forward(3700)
    alive(journal, TWO)
    clock.forward(10)
    alive(journal, ONE)
    assert journal.deployments.standing().holdings == ()
