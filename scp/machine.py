"""The state machine of the upper layer, acceptor side, as a table (PS3.8 9.2, Table 9-10).

An acceptor never asks for a release, so the states of a requestor and of a release collision
(Sta4, 5, 7, 9 to 12) are not entered. What is left is here cell by cell.
"""

from __future__ import annotations

from enum import Enum, auto

from scp.pdu import ABORT, ASSOCIATE_AC, ASSOCIATE_RJ, ASSOCIATE_RQ, P_DATA, RELEASE_RP, RELEASE_RQ

__all__ = ["EVENT_OF_PDU", "TABLE", "Action", "Event", "State"]


class State(Enum):
    """PS3.8 Tables 9-1 to 9-5."""

    IDLE = 1
    AWAITING_REQUEST = 2
    AWAITING_LOCAL_ANSWER = 3
    READY = 6
    AWAITING_LOCAL_RELEASE = 8
    AWAITING_CLOSE = 13


class Event(Enum):
    """PS3.8 Table 9-10, left column."""

    ASSOCIATE_RQ = auto()
    ASSOCIATE_AC = auto()
    ASSOCIATE_RJ = auto()
    P_DATA = auto()
    RELEASE_RQ = auto()
    RELEASE_RP = auto()
    ABORT = auto()
    INVALID_PDU = auto()
    CLOSED = auto()
    TIMER = auto()
    ACCEPT = auto()
    REJECT = auto()
    RELEASE = auto()
    LOCAL_ABORT = auto()


class Action(Enum):
    """PS3.8 Tables 9-6 to 9-9."""

    CONSIDER = "AE-6: look at the request"
    ACCEPT = "AE-7: send A-ASSOCIATE-AC"
    REJECT = "AE-8: send A-ASSOCIATE-RJ, start the timer"
    DELIVER = "DT-2: hand the data on"
    ANNOUNCE_RELEASE = "AR-2: hand the release on"
    RELEASE = "AR-4: send A-RELEASE-RP, start the timer"
    ABORT = "AA-1: send A-ABORT (service user), start the timer"
    CLOSE = "AA-2: stop the timer, close"
    PEER_ABORTED = "AA-3: note the abort, close"
    LOST = "AA-4: note the loss of the connection"
    STOP_TIMER = "AA-5, AR-5: stop the timer"
    IGNORE = "AA-6: ignore"
    ABORT_AGAIN = "AA-7: send A-ABORT"
    ABORT_PROVIDER = "AA-8: send A-ABORT (service provider), note it, start the timer"


EVENT_OF_PDU = {
    ASSOCIATE_RQ: Event.ASSOCIATE_RQ,
    ASSOCIATE_AC: Event.ASSOCIATE_AC,
    ASSOCIATE_RJ: Event.ASSOCIATE_RJ,
    P_DATA: Event.P_DATA,
    RELEASE_RQ: Event.RELEASE_RQ,
    RELEASE_RP: Event.RELEASE_RP,
    ABORT: Event.ABORT,
}
_PDUS = frozenset({*EVENT_OF_PDU.values(), Event.INVALID_PDU} - {Event.ABORT})


def _rows(
    state: State,
    others: tuple[Action, State],
    **cells: tuple[Action, State],
) -> dict[tuple[State, Event], tuple[Action, State]]:
    """One column of the table: ``others`` for every PDU that no cell names."""
    rows = {(state, event): others for event in _PDUS}
    return rows | {(state, Event[name]): cell for name, cell in cells.items()}


_IDLE, _PARTING = State.IDLE, State.AWAITING_CLOSE
_ESTABLISHED = {
    "ABORT": (Action.PEER_ABORTED, _IDLE),
    "CLOSED": (Action.LOST, _IDLE),
    "TIMER": (Action.ABORT, _PARTING),  # our own: an association that is silent or too long
    "LOCAL_ABORT": (Action.ABORT, _PARTING),
}

TABLE: dict[tuple[State, Event], tuple[Action, State]] = {
    **_rows(
        State.AWAITING_REQUEST,
        (Action.ABORT, _PARTING),
        ASSOCIATE_RQ=(Action.CONSIDER, State.AWAITING_LOCAL_ANSWER),
        ABORT=(Action.CLOSE, _IDLE),
        CLOSED=(Action.STOP_TIMER, _IDLE),
        TIMER=(Action.CLOSE, _IDLE),
        LOCAL_ABORT=(Action.ABORT, _PARTING),
    ),
    **_rows(
        State.AWAITING_LOCAL_ANSWER,
        (Action.ABORT_PROVIDER, _PARTING),
        ACCEPT=(Action.ACCEPT, State.READY),
        REJECT=(Action.REJECT, _PARTING),
        **_ESTABLISHED,
    ),
    **_rows(
        State.READY,
        (Action.ABORT_PROVIDER, _PARTING),
        P_DATA=(Action.DELIVER, State.READY),
        RELEASE_RQ=(Action.ANNOUNCE_RELEASE, State.AWAITING_LOCAL_RELEASE),
        **_ESTABLISHED,
    ),
    **_rows(
        State.AWAITING_LOCAL_RELEASE,
        (Action.ABORT_PROVIDER, _PARTING),
        RELEASE=(Action.RELEASE, _PARTING),
        **_ESTABLISHED,
    ),
    **_rows(
        _PARTING,
        (Action.IGNORE, _PARTING),
        ASSOCIATE_RQ=(Action.ABORT_AGAIN, _PARTING),
        INVALID_PDU=(Action.ABORT_AGAIN, _PARTING),
        ABORT=(Action.CLOSE, _IDLE),
        CLOSED=(Action.STOP_TIMER, _IDLE),
        TIMER=(Action.CLOSE, _IDLE),
    ),
}
"""(state, event) -> (action, next state)."""
