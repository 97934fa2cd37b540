"""scp.machine: the table cell by cell (PS3.8 Table 9-10, columns of an acceptor)."""

from __future__ import annotations

import pytest

from scp.machine import EVENT_OF_PDU, TABLE, Action, Event, State

STA1, STA2, STA3 = State.IDLE, State.AWAITING_REQUEST, State.AWAITING_LOCAL_ANSWER
STA6, STA8, STA13 = State.READY, State.AWAITING_LOCAL_RELEASE, State.AWAITING_CLOSE
AA1, AA8 = (Action.ABORT, STA13), (Action.ABORT_PROVIDER, STA13)
AA3, AA4 = (Action.PEER_ABORTED, STA1), (Action.LOST, STA1)

# Rows of Table 9-10: an event, and the cells of Sta2, Sta3, Sta6, Sta8, Sta13.
STANDARD = {
    Event.ASSOCIATE_AC: (AA1, AA8, AA8, AA8, (Action.IGNORE, STA13)),
    Event.ASSOCIATE_RJ: (AA1, AA8, AA8, AA8, (Action.IGNORE, STA13)),
    Event.ASSOCIATE_RQ: ((Action.CONSIDER, STA3), AA8, AA8, AA8, (Action.ABORT_AGAIN, STA13)),
    Event.ACCEPT: (None, (Action.ACCEPT, STA6), None, None, None),
    Event.REJECT: (None, (Action.REJECT, STA13), None, None, None),
    Event.P_DATA: (AA1, AA8, (Action.DELIVER, STA6), AA8, (Action.IGNORE, STA13)),
    Event.RELEASE_RQ: (AA1, AA8, (Action.ANNOUNCE_RELEASE, STA8), AA8, (Action.IGNORE, STA13)),
    Event.RELEASE_RP: (AA1, AA8, AA8, AA8, (Action.IGNORE, STA13)),
    Event.RELEASE: (None, None, None, (Action.RELEASE, STA13), None),
    Event.ABORT: ((Action.CLOSE, STA1), AA3, AA3, AA3, (Action.CLOSE, STA1)),
    Event.CLOSED: ((Action.STOP_TIMER, STA1), AA4, AA4, AA4, (Action.STOP_TIMER, STA1)),
    Event.INVALID_PDU: (AA1, AA8, AA8, AA8, (Action.ABORT_AGAIN, STA13)),
}
STATES = (STA2, STA3, STA6, STA8, STA13)


@pytest.mark.parametrize("event", list(STANDARD))
def test_every_cell_is_that_of_the_standard(event: Event) -> None:
    for state, cell in zip(STATES, STANDARD[event], strict=True):
        assert TABLE.get((state, event)) == cell, state


def test_the_timer_closes_before_and_after_an_association_and_aborts_within() -> None:
    assert TABLE[STA2, Event.TIMER] == (Action.CLOSE, STA1)
    assert TABLE[STA13, Event.TIMER] == (Action.CLOSE, STA1)
    assert TABLE[STA6, Event.TIMER] == AA1


def test_every_pdu_has_a_cell_in_every_state_that_reads() -> None:
    for state in STATES:
        for event in (*EVENT_OF_PDU.values(), Event.INVALID_PDU, Event.CLOSED):
            assert (state, event) in TABLE


def test_from_every_state_there_is_a_way_to_the_end() -> None:
    for state in STATES:
        assert TABLE[state, Event.CLOSED][1] is STA1
