"""A receiver under attack, watched: what it spends, and whether it still serves who is welcome."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme

from tests.support.node import Node, until
from tests.support.ports import free_ports
from tests.support.wire import RawPeer, echo_rq

GOOD_ADDRESS = "127.0.0.9"
SERVED_S = 2.0
"""A good peer is served within this, whatever another one does."""
_PAUSE_S = 0.2
_FAULT = " where="  # the telemetry of a fault says where, and gives no traceback
_AUTHORITY = "ca.pem"
_OWN_FILES = 3
"""Files that the receiver may open for itself meanwhile: a connection to the journal, its log."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the receiver's processes hold."""

    threads: int
    files: int
    rss_bytes: int
    peak_bytes: int


class Receiver:
    """``python -m scp`` in a folder of its own.

    Parameters
    ----------
    config
        A settings file, for what no environment variable says.
    settings
        Keys of ``[scp]``.

    Attributes
    ----------
    is_calm
        The last siege ended with everything as before, and nothing has happened since.
    """

    def __init__(self, folder: Path, config: Path | None = None, **settings: object) -> None:
        keys = {"quiet_s": 60, "release_quiet_s": 60, "min_free_bytes": 0} | settings
        overrides = {f"LIMEN_SCP__{k.upper()}": str(v) for k, v in keys.items()}
        if config is not None:
            overrides["LIMEN_CONFIG"] = str(config)
        self.node = Node(folder, **overrides)
        self.is_calm = False

    def __enter__(self) -> Self:
        self.node.start("scp")
        with RawPeer(self.port) as peer:  # what is made at the first association is no leak
            peer.open()
            peer.ask(1, echo_rq())
            peer.release()
        return self

    def __exit__(self, *_: object) -> None:
        self.node.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.node.config.scp.port

    @property
    def tls_port(self) -> int:
        """Where it listens for TLS."""
        return self.node.config.scp.tls.port

    @property
    def spool(self) -> Path:
        """Where it keeps instances."""
        return self.node.config.spool_dir

    @property
    def pid(self) -> int:
        """Its first process."""
        assert self.node.supervisor is not None
        return self.node.supervisor.pid("scp")

    def pids(self) -> list[int]:
        """Return it and its children."""
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):  # a process, or a thread, that has just ended
                for task in Path(f"/proc/{pid}/task").iterdir():
                    with contextlib.suppress(OSError):
                        found += map(int, (task / "children").read_text("ascii").split())
        return found

    def usage(self) -> Usage:
        """Return what it holds now, and the most memory it held since ``forget_peak``."""
        pids = self.pids()
        status = [_status(pid) for pid in pids]
        return Usage(
            threads=sum(s["Threads"] for s in status),
            files=sum(open_files(pid, self.spool) for pid in pids),
            rss_bytes=sum(s["VmRSS"] for s in status) * 1024,
            peak_bytes=sum(s["VmHWM"] for s in status) * 1024,
        )

    def forget_peak(self) -> None:
        """Start a new high-water mark of resident memory (proc(5), clear_refs)."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")

    def parts(self) -> list[Path]:
        """Return part files in the spool."""
        return [p for p in self.spool.rglob("*") if p.is_file() and p.suffix != ".dcm"]

    def instances(self) -> list[Path]:
        """Return the kept instances."""
        return sorted(self.spool.rglob("*.dcm"))

    def faults(self) -> list[str]:
        """Return the log lines that tell of a fault of ours."""
        return [line for line in self.node.logs().splitlines() if _FAULT in line]

    def serves(self) -> float:
        """Return the seconds that a new association with one C-ECHO takes from another address."""
        began = time.monotonic()
        with RawPeer(self.port, GOOD_ADDRESS) as peer:
            peer.open()
            assert peer.ask(1, echo_rq()).status == 0
            peer.release()
        return time.monotonic() - began


def tls_settings(folder: Path) -> dict[str, object]:
    """Write an authority, and a certificate of the receiver; return settings of a TLS port."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / _AUTHORITY)
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "limen.crt")
    issued.private_key_pem.write_to_path(folder / "limen.key")
    return {
        "tls__port": free_ports(1)[0],
        "tls__certificate_file": folder / "limen.crt",
        "tls__key_file": folder / "limen.key",
    }


def shaken(receiver: Receiver) -> RawPeer:
    """Return a peer that has shaken hands on the TLS port of ``tls_settings``."""
    peer = RawPeer(receiver.tls_port)
    context = ssl.create_default_context(cafile=str(receiver.node.folder / _AUTHORITY))
    peer.sock = context.wrap_socket(peer.sock, server_hostname="127.0.0.1")
    return peer


def open_files(pid: int, spool: Path) -> int:
    """Count them without the folders of the spool, a fixed number of which stays open."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed a moment ago
            place = os.readlink(link)
            found += not (place.startswith(str(spool)) and Path(place).is_dir())
    return found


def _status(pid: int) -> dict[str, int]:
    lines = (line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {k: int(v.split()[0]) for k, v in lines if k in {"Threads", "VmRSS", "VmHWM"}}


class Siege:
    """While it lasts a good peer is served again and again; then everything must be as before.

    Parameters
    ----------
    memory_bytes
        Resident memory that the attack may cost at its height.
    """

    def __init__(self, receiver: Receiver, memory_bytes: int = 48 << 20) -> None:
        self._receiver = receiver
        self._memory_bytes = memory_bytes
        self._over = threading.Event()
        self._served: list[float] = []
        self._fault: BaseException | None = None
        self._witness = threading.Thread(target=self._watch, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self._pid = self._receiver.pid
        if not self._receiver.is_calm:
            until(self._settles, 20, "the receiver to be idle", self._receiver.node.tell)
        self._receiver.is_calm = False
        self._receiver.forget_peak()
        self.before = self._receiver.usage()
        self._faults = self._receiver.node.logs().count(_FAULT)
        self._witness.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        self._witness.join(30)
        if kind is not None:
            return
        if self._fault is not None:
            raise AssertionError("a good peer was not served meanwhile") from self._fault
        assert self._served, "no good peer was served meanwhile"
        assert max(self._served) < SERVED_S, f"a good peer waited {max(self._served):.1f} s"
        assert self._receiver.serves() < SERVED_S
        assert self._receiver.pid == self._pid, "the receiver died and was started again"
        until(self._is_as_before, 20, "threads and files to be as before", self._tell)
        cost = self._receiver.usage().peak_bytes - self.before.rss_bytes
        assert cost < self._memory_bytes, f"the attack cost {cost / 2**20:.0f} MiB"
        log = self._receiver.node.logs()
        assert log.count(_FAULT) == self._faults, f"a fault of ours: {log[log.rindex(_FAULT) :]}"
        until(lambda: not self._receiver.parts(), 10, "part files to be gone", self._tell)
        self._receiver.is_calm = True

    def _watch(self) -> None:
        try:
            while True:
                self._served.append(self._receiver.serves())
                if self._over.wait(_PAUSE_S):
                    return
        except BaseException as exc:  # told by the thread of the test
            self._fault = exc

    def _settles(self) -> bool:
        first = self._receiver.usage()
        time.sleep(_PAUSE_S / 2)
        second = self._receiver.usage()
        return (first.threads, first.files) == (second.threads, second.files)

    def _is_as_before(self) -> bool:
        now = self._receiver.usage()
        return now.threads <= self.before.threads and now.files <= self.before.files + _OWN_FILES

    def _tell(self) -> str:
        return (
            f"before {self.before}\nnow    {self._receiver.usage()}\n{self._receiver.node.tell()}"
        )
