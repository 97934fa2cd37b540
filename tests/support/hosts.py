"""Hosts on one machine: network namespaces, each with a cable to one switch that can be pulled.

What a thread starts while it is ``inside`` a host runs there. Names hold the process id, so that
two test runs do not meet; nothing of the machine's own network is touched.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.services import program, require_service

__all__ = ["Hosts", "hosts"]

_NETWORK = 0x40000000  # CLONE_NEWNET of setns(2)
_OWN = Path("/proc/thread-self/ns/net")


class Hosts:
    """A switch and the hosts at it.

    Parameters
    ----------
    names
        Of the hosts; the first has the address 10.77.0.1, and so on.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._ip = program("ip", "iproute2")
        self._prefix = f"limen{os.getpid()}-"
        self._names = list(names)

    def make(self) -> None:
        """Make all of them; each has loopback and a cable."""
        switch = f"{self._prefix}switch"
        self._run("netns", "add", switch)
        self._run("-n", switch, "link", "add", "switch", "type", "bridge")
        self._run("-n", switch, "link", "set", "switch", "up")
        for number, name in enumerate(self._names):
            there, port = f"{self._prefix}{name}", f"port{number}"
            self._run("netns", "add", there)
            peer = ("type", "veth", "peer", "name", "cable", "netns", there)
            self._run("-n", switch, "link", "add", port, *peer)
            self._run("-n", switch, "link", "set", port, "master", "switch", "up")
            address = f"{self.address(name)}/24"
            self._run("-n", there, "address", "add", address, "dev", "cable")
            self._run("-n", there, "link", "set", "cable", "up")
            self._run("-n", there, "link", "set", "lo", "up")

    def remove(self) -> None:
        """Remove all of them, whatever is there; the kernel removes the cables."""
        for name in ("switch", *self._names):
            done = ["netns", "delete", f"{self._prefix}{name}"]
            subprocess.run([self._ip, *done], capture_output=True, timeout=20, check=False)

    def address(self, name: str) -> str:
        """Return the address of a host."""
        return f"10.77.0.{self._names.index(name) + 1}"

    def pull(self, name: str) -> None:
        """Pull the cable of a host."""
        self._plug(name, "down")

    def plug(self, name: str) -> None:
        """Put the cable of a host back."""
        self._plug(name, "up")

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Let this thread, and what it starts, be on a host until the end."""
        before = os.open(_OWN, os.O_RDONLY)
        there = os.open(f"/run/netns/{self._prefix}{name}", os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(before)
            os.close(there)
            os.close(before)

    def _plug(self, name: str, how: str) -> None:
        port = f"port{self._names.index(name)}"
        self._run("-n", f"{self._prefix}switch", "link", "set", port, how)

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            [self._ip, *words], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "this thread cannot enter another network")


@contextmanager
def hosts(*names: str) -> Iterator[Hosts]:
    """Make hosts; skip where that is not allowed."""
    require_service(os.geteuid() == 0, "only root makes hosts of network namespaces")
    with ExitStack() as stack:
        made = Hosts(names)
        stack.callback(made.remove)
        made.make()
        yield made
