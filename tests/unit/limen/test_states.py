"""limen.states: every cell of the two tables."""

from __future__ import annotations

from itertools import product

import pytest

from limen.errors import IllegalTransition
from limen.states import StudyState, WorkState, sources

STUDY = {
    ("receiving", "complete"),
    ("complete", "predicted"),
    ("complete", "done"),
    ("complete", "failed"),
    ("predicted", "done"),
    ("predicted", "failed"),
}
WORK = {
    ("queued", "running"),
    ("running", "running"),
    ("running", "queued"),
    ("running", "done"),
    ("running", "dead"),
    ("running", "sent"),
    ("running", "committed"),
    ("sent", "running"),
    ("dead", "queued"),
    ("dead", "discarded"),
    ("discarded", "queued"),
}


def allowed(old: str, new: StudyState | WorkState) -> bool:
    try:
        return old in sources(new)
    except IllegalTransition:
        return False


@pytest.mark.parametrize(("old", "new"), list(product(StudyState, StudyState)))
def test_a_study_moves_only_as_drawn(old: StudyState, new: StudyState) -> None:
    assert allowed(old.value, new) == ((old.value, new.value) in STUDY)


@pytest.mark.parametrize(("old", "new"), list(product(WorkState, WorkState)))
def test_work_moves_only_as_drawn(old: WorkState, new: WorkState) -> None:
    assert allowed(old.value, new) == ((old.value, new.value) in WORK)


def test_a_state_that_rows_are_created_in_cannot_be_entered() -> None:
    with pytest.raises(IllegalTransition, match="receiving"):
        sources(StudyState.RECEIVING)


def test_a_state_of_a_study_never_stands_for_one_of_work() -> None:
    assert set(sources(StudyState.DONE)) <= {s.value for s in StudyState}
    assert set(sources(WorkState.DONE)) == {"running"}
