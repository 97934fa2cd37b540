"""Dead work that is done again, or never: for `limen retry` and `limen discard`, and for who asks
for it on the results server.
"""

from __future__ import annotations

from limen.config import Config
from limen.errors import ConfigError, LimenError
from limen.journal import Journal

__all__ = ["discard", "replay", "retry"]


def retry(config: Config, journal: Journal, key: str, by: str) -> str:
    """Queue a dead delivery again, run the study of a dead job again, or ask a PACS again.

    Parameters
    ----------
    key
        Of the work, or the name of a destination that rejects this node.
    by
        Who asks for it.

    Returns
    -------
    str
        What was done, in words.

    Raises
    ------
    LimenError
        There is nothing dead of that key, or its study is still being received.
    """
    if journal.work.ask_again(key):
        return f"{key} is asked again: what waits for it is due now"
    if journal.work.retry(key, by):
        return f"{key} is queued again"
    study_key = key.split("-", maxsplit=1)[0]
    jobs = [job for row in journal.status.studies(study_key) for job in row.jobs if job.key == key]
    if not any(job.state in {"dead", "discarded"} for job in jobs):
        raise LimenError(
            f"{key} is not a dead job or delivery, nor a destination that rejects this node; "
            "see `limen status --json`"
        )
    # What the job gave up with has been delivered: a new run is a new revision.
    return replay(config, journal, study_key, by)


def replay(config: Config, journal: Journal, study_key: str, by: str) -> str:
    """Analyse a study again, as a new revision; return so in words.

    Raises
    ------
    LimenError
        It is still being received.
    """
    revision = journal.receiving.replay(study_key, by, originals_first=config.originals_first)
    if revision is None:
        raise LimenError(f"study {study_key} is still being received; wait until it is complete")
    return f"study {study_key[:12]} runs again as revision {revision}"


def discard(  # noqa: PLR0913 - all by name
    config: Config, journal: Journal, key: str, *, reason: str, by: str
) -> str:
    """Let dead work stay undone: it is no fault any more, and is never shown as done.

    Returns
    -------
    str
        What was done, in words.

    Raises
    ------
    ConfigError
        The reason is empty.
    LimenError
        There is no dead work of that key.
    """
    reason = " ".join(reason.split())
    if not reason:
        raise ConfigError("the reason is empty; say why nobody needs this")
    to_pacs = any(key.endswith(f"-{one.name}") for one in config.object_destinations)
    tell = "django" if to_pacs and config.destination.django.enabled else ""
    words = f"discarded by {by}: {reason}"
    if not journal.work.discard(key, words, by=by, tell=tell):
        raise LimenError(f"{key} is no dead work; see `limen status --dead`")
    return f"{key} is discarded; `limen retry {key}` takes that back"
