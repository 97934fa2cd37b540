"""Every check of `limen doctor`, each after those that it needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from importlib import import_module
from importlib.util import find_spec

from limen.doctor import broker, certificates, database, destinations, host, notices, web, workers
from limen.doctor.check import Check, Finding, Node, skipped

__all__ = ["CHECKS", "chosen"]

_Look = Callable[[Node], Iterable[Finding]]

_MODEL_S = 60.0


def _dicom(name: str) -> _Look:
    """Return a check that speaks DICOM; where only the results server is installed nothing does."""

    def look(node: Node) -> Iterable[Finding]:
        if find_spec("pynetdicom") is None:
            return [skipped("neither receiver nor worker is installed here: nothing speaks DICOM")]
        module = "study" if name == "study" else "peers"
        found: Iterable[Finding] = getattr(import_module(f"limen.doctor.{module}"), name)(node)
        return found

    return look


def _beside_receiver(look: _Look) -> _Look:
    """Return a check that a host which only predicts or explains has no need of."""

    def check(node: Node) -> Iterable[Finding]:
        if node.settings.is_beside_receiver:
            return look(node)
        return [skipped("looked at on the host of the receiver: worker.lanes has no deliver here")]

    return check


CHECKS = (
    Check("settings", "the settings: which file and variables hold", host.settings),
    Check("files", "file modes of settings, data and secrets", host.files),
    Check("disk", "free space against the watermark; whether a file can be written", host.disk),
    Check("cache", "room for what workers fetch from the archive; who can read that", host.cache),
    Check(
        "journal",
        "whether the journal answers, and the file of SQLite is whole",
        database.journal,
    ),
    Check(
        "migrations",
        "the version of the tables of journal and results server",
        database.migrations,
        needs=("journal",),
        timeout_s=_MODEL_S,
    ),
    Check(
        "clock",
        "the clocks of this host and of the workers against that of the journal",
        database.clock,
        needs=("migrations",),
    ),
    Check("broker", "RabbitMQ: rights, queues, their type, limits and consumers", broker.broker),
    Check(
        "workers",
        "whether each lane has a worker that is alive, of this version",
        workers.workers,
        needs=("migrations",),
    ),
    Check(
        "model",
        "bundles: the manifest, the weights, the golden tensors",
        workers.model,
        timeout_s=_MODEL_S,
    ),
    Check(
        "web",
        "the results server, its database, and whether it takes our token",
        _beside_receiver(web.web),
    ),
    Check(
        "archive",
        "bucket or folder: write, read, remove; DICOMweb servers; HL7 templates",
        destinations.archive,
        timeout_s=30.0,
    ),
    Check("receiver", "our own receiver, by C-ECHO", _beside_receiver(_dicom("receiver"))),
    Check(
        "pacs",
        "each PACS: C-ECHO, what it takes, storage commitment, its certificate",
        _beside_receiver(_dicom("pacs")),
        timeout_s=20.0,
    ),
    Check(
        "senders",
        "each [[scp.peer]]: when it sent last; C-ECHO where it listens",
        _beside_receiver(_dicom("senders")),
        needs=("migrations",),
        timeout_s=20.0,
    ),
    Check(
        "notices",
        "whom we tell of alarms and results: reachable, trusted, a secret to sign with",
        notices.notices,
        timeout_s=20.0,
    ),
    Check("certificates", "when our own certificates end", certificates.certificates),
    Check(
        "study",
        "a test study through all of it: receiver, journal, worker, results server",
        _beside_receiver(_dicom("study")),
        needs=("disk", "migrations", "receiver"),
        timeout_s=_MODEL_S,
    ),
)


def chosen(names: Collection[str]) -> list[Check]:
    """Return the checks of these names and what they need; all of them for no name.

    Raises
    ------
    KeyError
        There is no check of a name.
    """
    known = {check.name: check for check in CHECKS}
    wanted: set[str] = set()
    left = list(names or known)
    while left:
        name = left.pop()
        if name not in wanted:
            wanted.add(name)
            left += known[name].needs
    return [check for check in CHECKS if check.name in wanted]
