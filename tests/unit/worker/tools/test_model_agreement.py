"""``limen model agreement``: what two models said of the same studies, the gravest first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from limen import selftest
from limen.command.edge import FAILED, OK, PARTIAL, USAGE
from limen.journal import Job, Journal, Opinion, Shadow
from limen.result import Outcome
from limen.states import ARCHIVE
from limen.uids import key_of
from tests.support.samples import SUMMARY, new_instance
from worker.tools import model_tool
from worker.tools.model_agreement import Pair, kappa, pairs

Captured = pytest.CaptureFixture[str]
P, N = Outcome.POSITIVE, Outcome.NEGATIVE


class Studies:
    """A journal with studies, each with what a version said of it and what one in shadow did."""

    def __init__(self, url: str) -> None:
        self.journal = Journal(url)
        self.journal.migrate()

    def look(
        self,
        study_uid: str,
        version: str,
        outcome: Outcome,
        probability: float | None,
        revision: int = 1,
        shadow: tuple[str, Outcome, float | None] | None = None,
    ) -> None:
        """Let a version look at what is due of a study, and another one in shadow."""
        key = key_of(study_uid)
        if revision == 1:
            self.journal.receiving.record([new_instance(n, study_uid) for n in (1, 2)])
            assert self.journal.receiving.complete(key, 1)
        said = replace(SUMMARY, bundle="heads", bundle_version=version)
        said = replace(said, outcome=outcome, probability=probability)
        job = self.journal.work.claim(Job, f"{key}-{revision}-prediction", "a", 30)
        assert job is not None
        routes = ["trial"] if shadow else []
        assert self.journal.work.commit(job, "a", said, (), shadows=routes)
        if shadow:
            work = self.journal.work.claim(Shadow, f"{key}-{revision}-shadow1", "a", 30)
            assert work is not None
            other, its, probability = shadow
            said = replace(said, bundle_version=other, outcome=its, probability=probability)
            assert self.journal.work.commit_shadow(work, "a", said, ARCHIVE)


@pytest.fixture
def studies(tmp_path: Path) -> Iterator[Studies]:
    made = Studies(f"sqlite:///{tmp_path / 'data' / 'journal.db'}")
    yield made
    made.journal.close()


@pytest.fixture
def run(studies: Studies, tmp_path: Path, capsys: Captured) -> Callable[..., tuple[int, str]]:
    settings = tmp_path / "config.toml"
    settings.write_text(f'[node]\ndata_dir = "{tmp_path / "data"}"\n', "utf-8")

    def agreement(*words: str) -> tuple[int, str]:
        code = model_tool.main(["agreement", *words, "--config", str(settings)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return agreement


BLEED, FALSE, SAME = "1.2.1", "1.2.2", "1.2.3"


def test_a_bleed_that_the_new_one_calls_negative_stands_first(
    studies: Studies, run: Callable[..., tuple[int, str]]
) -> None:
    studies.look(FALSE, "1.0", N, 0.1, shadow=("2.0", P, 0.99))
    studies.look(BLEED, "1.0", P, 0.7, shadow=("2.0", N, 0.4))
    studies.look(SAME, "1.0", N, 0.2, shadow=("2.0", N, 0.2))
    code, said = run("heads@1.0", "heads@2.0")
    assert code == OK
    assert "3 studies were seen by both" in said
    assert "of 2: 1 that A calls positive and B does not, 1 the other way" in said
    assert said.index(key_of(BLEED)) < said.index(key_of(FALSE))
    assert key_of(SAME) not in said
    assert BLEED not in said
    code, said = run("heads@1.0", "heads@2.0", "--json")
    tree = json.loads(said)
    assert tree["studies"] == 3
    assert [one["study"] for one in tree["disagreeing"]] == [key_of(BLEED), key_of(FALSE)]
    assert tree["table"] == [
        {"a": "negative", "b": "negative", "studies": 1},
        {"a": "negative", "b": "positive", "studies": 1},
        {"a": "positive", "b": "negative", "studies": 1},
    ]
    assert tree["difference"]["largest"] == pytest.approx(0.89)


def test_what_gave_no_word_is_no_agreement(
    studies: Studies, run: Callable[..., tuple[int, str]]
) -> None:
    studies.look(BLEED, "1.0", P, 0.7, shadow=("2.0", Outcome.NOT_ANALYSED, None))
    code, said = run("heads@1.0", "heads@2.0")
    assert (code, "there is no study of which both say positive or negative" in said) == (OK, True)
    assert "1 that A calls positive and B does not" in said


def test_a_study_that_was_looked_at_again_counts_where_its_instances_are_the_same(
    studies: Studies, run: Callable[..., tuple[int, str]]
) -> None:
    receiving = studies.journal.receiving
    studies.look(BLEED, "2.0", N, 0.4)
    studies.look(FALSE, "2.0", N, 0.4)
    assert receiving.replay(key_of(BLEED), "anna") == 2
    receiving.record([new_instance(3, FALSE)])
    assert receiving.complete(key_of(FALSE), 2)
    for uid in (BLEED, FALSE):
        studies.look(uid, "1.0", P, 0.8, revision=2)
    tree = json.loads(run("heads@1.0", "heads@2.0", "--json")[1])
    assert [one["study"] for one in tree["disagreeing"]] == [key_of(BLEED)]


def test_a_test_study_of_ours_is_nobodys(
    studies: Studies, run: Callable[..., tuple[int, str]]
) -> None:
    studies.look(f"{selftest.ROOT}.1", "1.0", P, 0.7, shadow=("2.0", N, 0.4))
    assert run("heads@1.0", "heads@2.0")[0] == FAILED


def test_versions_without_a_study_in_common_say_so(
    studies: Studies, run: Callable[..., tuple[int, str]]
) -> None:
    studies.look(BLEED, "1.0", P, 0.7)
    studies.look(FALSE, "2.0", P, 0.7)
    code, said = run("heads@1.0", "heads@2.0")
    assert (code, "0 studies were seen by both" in said) == (PARTIAL, True)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("heads@1.0", "heads@1.0"), USAGE, "agrees with itself"),
        (("heads@1.0", "heads@9.9"), FAILED, "no result of heads@9.9; there are heads@1.0 (1"),
        (("heads@1.0", "chests"), FAILED, "no result of chests; a route in shadow"),
    ],
)
def test_what_cannot_be_compared_is_said_with_what_there_is(
    words: tuple[str, str],
    code: int,
    told: str,
    studies: Studies,
    run: Callable[..., tuple[int, str]],
) -> None:
    studies.look(BLEED, "1.0", P, 0.7)
    found, said = run(*words)
    assert (found, told in said) == (code, True), said


# -- numbers -----------------------------------------------------------------------------------


def table(both: int, only_a: int, only_b: int, neither: int) -> list[Pair]:
    """Return pairs of which both say positive, only A does, only B does, and neither."""
    cells = ((both, P, P), (only_a, P, N), (only_b, N, P), (neither, N, N))
    return [Pair(str(n), a, None, b, None) for count, a, b in cells for n in range(count)]


def test_kappa_is_cohens() -> None:
    found = kappa(table(20, 5, 10, 15))
    assert found is not None
    assert (found.observed, found.value) == (pytest.approx(0.7), pytest.approx(0.4))
    # Wilson of 35 in 50 is 0.5625 to 0.8090; chance is 0.5.
    assert (found.low, found.high) == (
        pytest.approx(0.125, abs=1e-3),
        pytest.approx(0.618, abs=1e-3),
    )


def test_few_studies_that_all_agree_prove_little_and_many_prove_much() -> None:
    few, many = kappa(table(2, 0, 0, 2)), kappa(table(200, 0, 0, 200))
    assert few is not None
    assert many is not None
    assert few.value == many.value == 1
    assert few.low is not None
    assert many.low is not None
    assert few.low < 0.1
    assert many.low > 0.95


def test_where_everything_has_one_word_kappa_is_not_defined() -> None:
    found = kappa(table(0, 0, 0, 30))
    assert found is not None
    assert (found.value, found.observed, found.studies) == (None, 1, 30)
    assert kappa([Pair("a", P, 0.9, Outcome.PARTIAL, 0.2)]) is None


def test_the_last_opinions_on_the_same_instances_count() -> None:
    def said(version: str, instances: int, probability: float, revision: int = 1) -> Opinion:
        return Opinion("k", revision, instances, version, P, probability)

    a = [said("1", 2, 0.1), said("1", 2, 0.2, 2), said("1", 3, 0.3, 3)]
    b = [said("2", 2, 0.9), said("2", 3, 0.8, 3)]
    assert [(p.probability_a, p.probability_b) for p in pairs(a, b)] == [(0.3, 0.8)]
    assert [p.probability_a for p in pairs(a, b[:1])] == [0.2]
