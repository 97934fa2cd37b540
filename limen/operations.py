"""How the node stands, for the operations page of the results server; nothing of a patient."""

from __future__ import annotations

import shutil
from typing import Any

from limen.config import Config
from limen.journal import Journal
from limen.states import DeploymentState, HoldingState

__all__ = ["read"]

_MOST_DEAD = 50
_MOST = 100
_ERROR_LENGTH = 300


def read(config: Config, journal: Journal) -> dict[str, Any]:
    """Return queues and destinations, dead work, workers, disk and peers, as of now.

    Raises
    ------
    Unreachable
        The journal does not answer.
    """
    status = journal.status
    lanes = status.queues()
    # What is dead is looked for only where there is some.
    dead = status.dead(limit=_MOST_DEAD) if any(lane.dead for lane in lanes.values()) else []
    last = status.last_received()
    peers = dict.fromkeys((peer.ae_title for peer in config.scp.peer), None) | last
    return {
        "lanes": [
            {
                "name": name,
                "queued": lane.queued,
                "running": lane.running,
                "dead": lane.dead,
                "sent": lane.sent,
                "oldest_s": lane.oldest_s,
                "away_s": lane.away_s,
                "unwelcome": lane.unwelcome[:_ERROR_LENGTH],
            }
            for name, lane in sorted(lanes.items())
        ][:_MOST],
        "dead": [
            {
                "key": work.key,
                "lane": work.destination or work.phase,
                "attempts": work.attempts,
                "error": work.last_error[:_ERROR_LENGTH],
            }
            for work in dead[:_MOST_DEAD]
        ],
        "workers": [
            {
                "name": worker.name,
                "version": worker.version,
                "lanes": list(worker.lanes),
                "started_at": worker.started_at.isoformat(),
                "seen_s": worker.seen_s,
                "late": worker.late,
            }
            for worker in status.workers()
        ][:_MOST],
        "models": _models(journal),
        "disk": _disk(config),
        "peers": [
            {"name": name, "last_at": at.isoformat() if at else None}
            for name, at in sorted(peers.items())
        ][:_MOST],
    }


def _models(journal: Journal) -> list[dict[str, Any]]:
    """Return what serves, what is asked for, and what was refused and not yet taken back."""
    told = journal.deployments.standing()
    return [
        {
            "name": one.name,
            "version": one.version,
            "state": one.state.value,
            "looks_at": told.share(one) if one.state is DeploymentState.SERVING else "",
            "since": (one.served_at or one.asked_at).isoformat(),
            "by": one.asked_by,
            "note": one.note[:_ERROR_LENGTH],
            "ready": sum(
                h.deployment == one.id and h.state is HoldingState.READY for h in told.holdings
            ),
            "workers": len({h.worker for h in told.holdings if h.name == one.name}),
        }
        for one in sorted(told.deployments, key=lambda d: (d.name, -d.id))
    ][:_MOST]


def _disk(config: Config) -> dict[str, int] | None:
    """Return the room of the spool in bytes; None where it is not of this host."""
    try:
        usage = shutil.disk_usage(config.spool_dir)
    except OSError:
        return None
    return {"total": usage.total, "free": usage.free, "least": config.scp.min_free_bytes}
