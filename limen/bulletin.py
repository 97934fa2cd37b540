"""The bulletin: what a receiver tells the results server of what no result tells yet.

Which studies came and have no result that people can read, and what is not well. It is a whole
picture each time, so that none can be lost: it goes out when it has changed, and again after half
a minute, so that a receiver that has fallen silent is seen there. It does not wait for a worker:
that there is none is what it has to tell. With it goes how the node stands (limen/operations.py);
in the answer comes what somebody asked for on the results server (limen/orders.py).
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import asdict
from typing import Any

import requests

from limen import node_token, operations, orders
from limen.alarms import alarms
from limen.authorities import authorities
from limen.config import Config
from limen.errors import Unreachable
from limen.journal import Awaited, Journal
from limen.states import StudyState

__all__ = ["ROUND_S", "Bulletin"]

ROUND_S = 3.0
"""Between looks at the journal."""

_AGAIN_S = 30.0
_MOST = 200
_TIMEOUT_S = 10.0


class Bulletin:
    """Posts to ``<destination.django.url>/api/v1/bulletins``.

    Parameters
    ----------
    config
        ``[destination.django]``: where, with which token, signed by whom.
    """

    def __init__(self, config: Config, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self._host = socket.gethostname()
        self._url = f"{config.django_url}/api/v1/bulletins"
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no .netrc between us and our own server
        self._told: dict[str, Any] = {}
        self._told_s = float("-inf")
        self._answers: list[orders.Answer] = []

    def round(self) -> None:
        """Tell how it stands, where that is new or was told long ago; do what is asked for.

        Raises
        ------
        Unreachable
            The journal or the results server does not answer, or it refuses what it is told.
        """
        now = self.read()
        is_new = now != self._told or self._answers
        if not is_new and time.monotonic() - self._told_s < _AGAIN_S:
            return
        stands = operations.read(self._config, self._journal)
        answers = [asdict(answer) for answer in self._answers]
        asked = self._post({**now, "operations": stands, "answers": answers})
        self._told, self._told_s, self._answers = now, time.monotonic(), []
        for order in orders.read(asked):
            self._answers.append(orders.carry_out(self._config, self._journal, order))

    def read(self) -> dict[str, Any]:
        """Return how it stands: no name of a patient, and at most 200 studies.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        status = self._journal.status
        awaited, total = status.awaited(_MOST)
        off_s = self._journal.database.clock_off_s
        deployed = self._journal.deployments.standing()
        found = alarms(self._config, status.queues(), status.workers(), off_s, deployed)
        return {
            "host": self._host,
            "alarms": [{"kind": a.kind.value, "about": a.about, "text": a.text} for a in found],
            "awaited": [_said(one) for one in awaited],
            "awaited_total": total,
        }

    def _post(self, told: dict[str, Any]) -> Any:
        """Post, and return what is answered; None where that is no JSON."""
        settings = self._config.destination.django
        token = node_token.read(self._config.token_file)
        try:
            answer = self._session.post(
                self._url,
                data=json.dumps(told),
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                timeout=_TIMEOUT_S,
                allow_redirects=False,
                verify=authorities(settings.ca_file, "destination.django.ca_file"),
            )
        except requests.RequestException as exc:
            raise Unreachable(
                f"results server {self._url} does not answer ({type(exc).__name__}); "
                "`limen doctor` says why"
            ) from exc
        if answer.status_code != requests.codes.ok:
            raise Unreachable(
                f"results server {self._url} answered {answer.status_code} to what waits here; "
                "`limen doctor` says why"
            )
        try:
            return answer.json()
        except requests.JSONDecodeError:
            return None


_NOT_PREDICTED = {StudyState.RECEIVING, StudyState.COMPLETE}


def _said(one: Awaited) -> dict[str, Any]:
    return {
        "study_uid": one.study_uid,
        "revision": one.revision,
        "accession": one.accession,
        "state": one.state if one.state in _NOT_PREDICTED else StudyState.PREDICTED.value,
        "outcome": one.outcome or "",
        "images": one.instances,
        "received_at": one.received_at.isoformat(),
        "last_image_at": one.last_instance_at.isoformat(),
    }
