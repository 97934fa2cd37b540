"""``limen install``, ``upgrade``, ``uninstall``: Limen as services of a systemd host.

``make install`` runs this with the Python of the host before anything is installed: nothing is
imported here but what comes with Python.

A release has a folder of its own, ``/opt/limen/current`` leads to the one that runs. Whatever can
fail is done before that link is moved; so an upgrade that fails leaves the old release running.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from limen import __version__
from limen.command.edge import FAILED, OK, USAGE, at_the_edge
from limen.command.screen import say
from limen.errors import LimenError

__all__ = ["Host", "main"]

_SOURCE = Path(__file__).resolve().parents[2]
_ROOMS = ("limen", "logs", "scp", "worker", "web", "models", "deploy", "docs")
_FILES = ("config.toml", "requirements.lock", "README.md", "CHANGELOG.md")
_ACCOUNT = "limen"
_OPT, _ETC, _STATE = "/opt/limen", "/etc/limen", "/var/lib/limen"
_CURRENT = f"{_OPT}/current"
_CONFIG, _ENVIRONMENT, _SECRETS = f"{_ETC}/config.toml", f"{_ETC}/environment", f"{_ETC}/secrets"
_COMMAND = "/usr/local/bin/limen"
_UNITS = "/usr/local/lib/systemd/system"
_SYSUSERS = "/usr/local/lib/sysusers.d/limen.conf"
_SERVICES = {
    "scp": "limen-scp.service",
    "web": "limen-web.service",
    "worker": "limen-worker@1.service",
}
_SECRET_BYTES: Final = {"web-token": 32, "web-secret-key": 64}
_SAID = 600  # characters of what a program said that failed
_KEPT_RELEASES = 2

_RELEASE_COMMAND = """\
#!/bin/sh
# One release, with the packages it was tested with.
export PYTHONPATH={src} PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
exec {python} -m limen "$@"
"""
_HOST_COMMAND = f"""\
#!/bin/sh
# The command of this host: it reads the settings that the services read.
export LIMEN_CONFIG="${{LIMEN_CONFIG:-{_CONFIG}}}"
if [ "$LIMEN_CONFIG" = {_CONFIG} ] && [ -r {_ENVIRONMENT} ]; then
  while IFS= read -r line; do
    case $line in LIMEN_*=*) export "$line" ;; esac
  done < {_ENVIRONMENT}
fi
exec {_CURRENT}/bin/limen "$@"
"""
_ENVIRONMENT_HEAD = """\
# What holds a password, for the services and commands of this host: KEY=value, no quotes.
# LIMEN_QUEUE__BROKER=amqp://user:password@host:5672/vhost
# LIMEN_JOURNAL__URL=postgresql://user:password@host/limen
# LIMEN_WEB__DATABASE_URL=postgresql://user:password@host/limen_web
"""
_IN_CONFIG = (
    ('data_dir = "limen-data"        #', f'data_dir = "{_STATE}"    #'),
    ('# token_file = "/etc/limen/web-token"   ', f'token_file = "{_SECRETS}/web-token"'),
    (
        '# secret_key_file = "/etc/limen/web-secret-key"  ',
        f'secret_key_file = "{_SECRETS}/web-secret-key"',
    ),
)


class _Wrong(LimenError):
    """This host, or the way this was called, does not do; nothing was changed."""

    exit_code = USAGE


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``install``, ``upgrade`` or ``uninstall``; return an exit code."""
    args = _parser().parse_args(argv)
    if args.word == "upgrade" and args.source is not None:
        return _hand_over(args.source.resolve(), list(sys.argv[1:] if argv is None else argv))
    return at_the_edge(lambda: _run(args), debug=args.debug)


def _run(args: argparse.Namespace) -> int:
    host = Host(args.root.resolve(), dry_run=args.dry_run)
    if args.word == "uninstall":
        host.uninstall(delete_data=args.delete_data)
        return OK
    if args.word == "upgrade" and not host.is_installed:
        raise _Wrong("Limen is not installed here; install it with: make install")
    host.install(_SOURCE, args.services.split(","), start=not args.no_start)
    return OK


def _hand_over(source: Path, words: list[str]) -> int:
    """Let the new release install itself: it knows what it needs."""
    if not (source / "limen/command/install.py").is_file():
        say(f"limen: {source} holds no Limen; name the folder that was unpacked", error=True)
        return USAGE
    kept = [w for w in words if Path(w).resolve() != source]
    env = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.call([_base_python(), "-m", "limen.command.install", *kept], env=env)


def _base_python() -> str:
    """Return the Python of the host, not that of the environment of a release."""
    return str(getattr(sys, "_base_executable", sys.executable))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="limen", description="Limen as services of this systemd host."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR",
        help="a host that is prepared in a folder, with chroot (default: this one)",
    )  # fmt: skip
    common.add_argument("--dry-run", action="store_true", help="say what would be done")
    common.add_argument("--debug", action="store_true", help="print a traceback on failure")
    starting = argparse.ArgumentParser(add_help=False)
    starting.add_argument("--no-start", action="store_true", help="leave the services as they are")
    starting.add_argument(
        "--services", default=",".join(_SERVICES), type=_services, metavar="A,B",
        help="those that a first installation turns on (default: scp,web,worker)",
    )  # fmt: skip
    words = parser.add_subparsers(dest="word", required=True)
    words.add_parser("install", parents=[common, starting], help="install, or upgrade")
    upgrade = words.add_parser("upgrade", parents=[common, starting], help="to a newer version")
    upgrade.add_argument(
        "source", nargs="?", type=Path, metavar="DIR", help="the newer version, unpacked"
    )
    uninstall = words.add_parser("uninstall", parents=[common], help="remove it, keep the data")
    uninstall.add_argument(
        "--delete-data", action="store_true", help="delete studies, results and settings too"
    )
    return parser


def _services(text: str) -> str:
    for name in text.split(","):
        if name not in _SERVICES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(_SERVICES)}")
    return text


class Host:
    """A host that Limen is installed on.

    Parameters
    ----------
    root
        Its root folder; any but ``/`` is worked on with chroot, and nothing is started.
    dry_run
        Whether only to say what would be done.
    """

    def __init__(self, root: Path, *, dry_run: bool = False) -> None:
        self._root = root
        self._dry_run = dry_run
        self._began = time.monotonic()

    @property
    def is_installed(self) -> bool:
        """Whether a release is there."""
        return self._at(_CURRENT).is_symlink()

    def install(self, source: Path, services: Sequence[str], *, start: bool = True) -> None:
        """Install a release, or bring this host to it; a second time changes nothing.

        Raises
        ------
        LimenError
            It cannot be; the release that ran before still does.
        """
        self._look(source)
        release = Release(source)
        old = os.readlink(self._at(_CURRENT)) if self.is_installed else None
        first = old is None
        self._step("account of the services", self._make_account, source)
        self._step(f"release {release.name} in {release.folder}", self._copy, release)
        self._step("packages, pinned by hash (minutes the first time)", self._fill, release)
        self._step(
            f"settings and secrets in {_ETC}, where they are missing", self._settings, source
        )
        self._step("journal and web database: no newer than this release", self._check, release)
        start = start and self._systemd_runs
        new = old != release.folder
        if start and new and not first:
            self._step("stop the services: what runs may end", self._stop)
        try:
            if old is not None and new:
                self._step("copies of SQLite databases", self._back_up, Path(old).name)
            self._step("journal, web database, token, first account", self._migrate, release)
            self._step(f"{_COMMAND} and {_CURRENT}", self._switch, release)
        except BaseException:
            if start and new and not first:
                self._systemctl("start", "limen.target")  # the old release
            raise
        self._step(f"units in {_UNITS}", self._write_units, source, services)
        if start:
            verb = "restart" if new else "start"  # who runs this release already goes on
            self._step("start the services and wait until they are ready", self._start, verb)
        self._step("releases that are no longer needed", self._prune, release, old)
        self._tell(started=start)

    def uninstall(self, *, delete_data: bool) -> None:
        """Remove everything that ``install`` made; studies and settings only where asked for."""
        self._need_root()
        if self._systemd_runs:
            self._step("stop the services", self._stop)
        self._step("units, command and releases", self._remove)
        if delete_data:
            self._step(f"studies, results, settings, account: {_STATE}, {_ETC}", self._forget)
        else:
            say(f"kept: {_STATE} (studies, results, databases) and {_ETC} (settings, secrets)")

    # -- before anything is changed ---------------------------------------------------------------

    def _look(self, source: Path) -> None:
        self._need_root()
        lacking = [name for name in (*_ROOMS, *_FILES) if not (source / name).exists()]
        if lacking:
            raise _Wrong(
                f"{source} is not a whole source tree ({', '.join(lacking)} missing); run "
                "`make install` or `limen upgrade DIR` with the unpacked release"
            )
        if shutil.which("systemd-sysusers") is None:
            raise _Wrong("this host has no systemd; run `limen up` instead, or see docs/compose.md")
        python = "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))"
        if self._call([self._python, "-c", python]).returncode:
            raise _Wrong(
                "Python 3.11 or newer with venv is needed; on Debian or Ubuntu: "
                "apt-get install python3-venv"
            )

    def _need_root(self) -> None:
        if os.geteuid() != 0 and not self._dry_run:
            raise _Wrong("only root may do this; call it with sudo")

    @property
    def _python(self) -> str:
        return _base_python() if self._root == Path("/") else "python3"

    @property
    def _systemd_runs(self) -> bool:
        return self._root == Path("/") and Path("/run/systemd/system").is_dir()

    # -- steps of an installation -----------------------------------------------------------------

    def _make_account(self, source: Path) -> str:
        self._put(_SYSUSERS, (source / "deploy/systemd/limen.sysusers").read_text("utf-8"))
        self._must(["systemd-sysusers", _SYSUSERS])
        self._folder(_STATE, 0o700, *self._owner())
        return _ACCOUNT

    def _copy(self, release: Release) -> str:
        if (self._at(release.folder) / ".complete").exists():
            return "there already"
        part = self._at(release.folder).with_name(f".{release.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        for file in release.files():
            target = part / "src" / file.relative_to(release.source)
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            shutil.copyfile(file, target)
            target.chmod(0o644)
        words = {"src": f"{release.folder}/src", "python": f"{release.venv}/bin/python"}
        command = part / "bin/limen"
        command.parent.mkdir(mode=0o755)
        command.write_text(_RELEASE_COMMAND.format(**words), "utf-8")
        command.chmod(0o755)
        for folder in (*self._at(_OPT).glob("*"), part, *part.rglob("*")):
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(0o755)
        (part / ".complete").touch()
        part.rename(self._at(release.folder))
        return "copied"

    def _fill(self, release: Release) -> str:
        done = self._at(release.venv) / ".complete"
        if done.exists():
            return "there already"
        shutil.rmtree(self._at(release.venv), ignore_errors=True)
        self._at(release.venv).parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._must([self._python, "-m", "venv", release.venv])
        pip = [f"{release.venv}/bin/python", "-m", "pip", "install", "--quiet"]
        pip += ["--disable-pip-version-check", "--no-input", "--require-hashes"]
        self._must([*pip, "-r", f"{release.folder}/src/requirements.lock"])
        code = [f"{release.venv}/bin/python", "-m", "compileall", "-q", f"{release.folder}/src"]
        self._must(code)
        done.touch()
        return "installed"

    def _settings(self, source: Path) -> str:
        made = []
        _, group = self._owner()
        self._folder(_ETC, 0o750, 0, group)
        self._folder(_SECRETS, 0o750, 0, group)
        texts = {_CONFIG: _config_text(source), _ENVIRONMENT: _ENVIRONMENT_HEAD}
        for name, size in _SECRET_BYTES.items():
            texts[f"{_SECRETS}/{name}"] = secrets.token_urlsafe(size) + "\n"
        for path, text in texts.items():
            if not self._at(path).exists():
                self._put(path, text, 0o640, 0, group)
                made.append(Path(path).name)
        return f"made {', '.join(made)}" if made else "all there"

    def _check(self, release: Release) -> str:
        self._limen(release, "migrate", "--check")
        return "right"

    def _back_up(self, old: str) -> str:
        data = self._data_dir()
        copies = data / "before-upgrade"
        made = []
        for name in ("journal.db", "web.db"):
            if not (data / name).is_file():
                continue
            self._folder_at(copies, 0o700, *self._owner())
            target = copies / f"{name}.{old}"
            target.unlink(missing_ok=True)
            with (
                closing(sqlite3.connect(data / name)) as one,
                closing(sqlite3.connect(target)) as two,
            ):
                one.backup(two)
            os.chown(target, *self._owner())
            target.chmod(0o600)
            made.append(str(target))
        return ", ".join(made) or "none: back PostgreSQL up with its own tools"

    def _migrate(self, release: Release) -> str:
        self._limen(release, "migrate")
        return "up to date"

    def _switch(self, release: Release) -> str:
        self._put(_COMMAND, _HOST_COMMAND, 0o755)
        link = self._at(_CURRENT).with_name(".current")
        link.unlink(missing_ok=True)
        link.symlink_to(release.folder)
        link.rename(self._at(_CURRENT))
        return f"-> {release.name}"

    def _write_units(self, source: Path, services: Sequence[str]) -> str:
        new = []
        for file in sorted((source / "deploy/systemd").iterdir()):
            if file.suffix not in {".service", ".target", ".timer"}:
                continue
            if not self._at(f"{_UNITS}/{file.name}").exists():
                new.append(file.name)
            self._put(f"{_UNITS}/{file.name}", file.read_text("utf-8"))
        on = [unit for name, unit in _SERVICES.items() if name in services]
        on = [unit for unit in on if unit.replace("@1.", "@.") in new]
        wants = self._at("/etc/systemd/system/limen.target.wants")
        receives = _SERVICES["scp"] in {*on, *(p.name for p in wants.glob("*"))}
        # What is sent at regular times goes to the receiver of this host.
        ends = (".target", ".timer") if receives else (".target",)
        on += [name for name in new if name.endswith(ends)]
        if on:  # what an administrator has turned off since stays off
            self._must(
                ["systemctl", f"--root={self._root}", "enable", "--quiet", *on], inside=False
            )
        if self._systemd_runs:
            self._systemctl("daemon-reload")
        return f"turned on: {', '.join(on)}" if on else "none is new"

    def _start(self, verb: str) -> str:
        units = self._wanted()
        try:
            self._systemctl(verb, *units)
            self._systemctl("start", "limen.target")
        except LimenError as exc:
            raise LimenError(f"{exc}\nlook at: journalctl -b -u 'limen-*' -n 50") from exc
        return ", ".join(units)

    def _stop(self) -> str:
        self._systemctl("stop", "limen.target", "limen-*.service", "limen-*.timer")
        return "stopped"

    def _wanted(self) -> list[str]:
        """Return the services that are turned on."""
        folder = Path("/etc/systemd/system/limen.target.wants")
        return sorted(p.name for p in folder.glob("limen-*.service")) if folder.is_dir() else []

    def _prune(self, release: Release, old: str | None) -> str:
        """Keep this release and the one before, to go back to; and the packages that they need."""
        releases = self._at(f"{_OPT}/releases")
        kept = {release.name, Path(old or release.folder).name}
        others = sorted(releases.iterdir(), key=lambda p: -p.stat().st_mtime)
        kept |= {p.name for p in others[: _KEPT_RELEASES - len(kept)]}
        gone = [p for p in others if p.name not in kept]
        commands = [p / "bin/limen" for p in others if p.name in kept]
        needed = "".join(c.read_text("utf-8") for c in commands if c.is_file())
        gone += [p for p in self._at(f"{_OPT}/venvs").iterdir() if p.name not in needed]
        for path in gone:
            shutil.rmtree(path)
        return f"{len(gone)} removed"

    def _tell(self, *, started: bool) -> None:
        if self._dry_run:
            say("nothing was changed")
            return
        took = f"{time.monotonic() - self._began:.0f} s"
        then = "" if started else "\nstart it with: systemctl start limen.target"
        say(
            f"Limen {__version__} is installed ({took}). Settings: {_CONFIG}{then}\n"
            "log in with what this prints:   limen web link admin\n"
            "see whether all is well:        limen status"
        )

    # -- steps of its end -------------------------------------------------------------------------

    def _remove(self) -> str:
        units = [p.name for p in self._at(_UNITS).glob("limen*") if p.is_file()]
        if units:
            names = [*(u for u in units if "@" not in u), "limen-worker@1.service"]
            words = ["systemctl", f"--root={self._root}", "disable", "--quiet", *names]
            self._call(words, inside=False)
        for unit in units:
            self._at(f"{_UNITS}/{unit}").unlink()
        for path in (_COMMAND, _SYSUSERS):
            self._at(path).unlink(missing_ok=True)
        shutil.rmtree(self._at(_OPT), ignore_errors=True)
        shutil.rmtree(self._at("/etc/systemd/system/limen.target.wants"), ignore_errors=True)
        if self._systemd_runs:
            self._systemctl("daemon-reload")
        return "removed"

    def _forget(self) -> str:
        data = self._data_dir()
        for path in (data, self._at(_STATE), self._at(_ETC)):
            shutil.rmtree(path, ignore_errors=True)
        self._call(["userdel", _ACCOUNT])
        return "deleted"

    # -- what steps are made of -------------------------------------------------------------------

    def _step(self, text: str, do: Callable[..., str], *args: object) -> None:
        if self._dry_run:
            say(f"would: {text}")
            return
        began = time.monotonic()
        say(f"[{began - self._began:5.1f} s] {text} ...")
        said = do(*args)
        say(f"            {said}")

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _data_dir(self) -> Path:
        with suppress(OSError, tomllib.TOMLDecodeError):
            node = tomllib.loads(self._at(_CONFIG).read_text("utf-8")).get("node", {})
            return self._at(str(node.get("data_dir", _STATE)))
        return self._at(_STATE)

    def _owner(self) -> tuple[int, int]:
        """Return user and group of the services, as the files of that host have them."""
        for line in self._at("/etc/passwd").read_text("utf-8").splitlines():
            fields = line.split(":")
            if fields[0] == _ACCOUNT:
                return int(fields[2]), int(fields[3])
        raise LimenError(f"there is no account {_ACCOUNT}; make it with systemd-sysusers")

    def _folder(self, path: str, mode: int, user: int, group: int) -> None:
        self._folder_at(self._at(path), mode, user, group)

    def _folder_at(self, folder: Path, mode: int, user: int, group: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
        os.chown(folder, user, group)

    def _put(self, path: str, text: str, mode: int = 0o644, user: int = 0, group: int = 0) -> None:
        """Write a file, whole or not at all."""
        target = self._at(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        part.unlink(missing_ok=True)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            os.fchown(stream.fileno(), user, group)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(target)

    def _limen(self, release: Release, *words: str) -> None:
        """Run a command of a release as the services would: their account, their settings."""
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": _STATE, "LIMEN_CONFIG": _CONFIG}
        env |= dict(_pairs(self._at(_ENVIRONMENT)))
        become = ["setpriv", f"--reuid={_ACCOUNT}", f"--regid={_ACCOUNT}", "--init-groups"]
        done = self._call([*become, f"{release.folder}/bin/limen", *words], env=env, umask=0o077)
        if done.returncode:
            said = done.stderr.strip()[-_SAID:].removeprefix("limen: ")
            raise _of_code(done.returncode, said)

    def _must(self, words: Sequence[str], *, inside: bool = True) -> None:
        done = self._call(words, inside=inside)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-_SAID:]
            raise LimenError(f"{Path(words[0]).name} failed ({done.returncode}): {said}")

    def _systemctl(self, *words: str) -> None:
        self._must(["systemctl", *words])

    def _call(
        self,
        words: Sequence[str],
        *,
        inside: bool = True,
        env: dict[str, str] | None = None,
        umask: int = 0o022,
    ) -> subprocess.CompletedProcess[str]:
        change = ["chroot", str(self._root)] if inside and self._root != Path("/") else []
        return subprocess.run(
            [*change, *words], env=env, cwd="/", capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, umask=umask,
        )  # fmt: skip


class Release:
    """A release: its source, its name, and where it lies on a host."""

    def __init__(self, source: Path) -> None:
        self.source = source
        lock = (source / "requirements.lock").read_bytes()
        self.name = f"{__version__}-{self._digest()[:8]}"
        self.folder = f"{_OPT}/releases/{self.name}"
        self.venv = f"{_OPT}/venvs/{hashlib.sha256(lock + sys.version.encode()).hexdigest()[:12]}"

    def files(self) -> Iterator[Path]:
        """Yield every file of the release, in order."""
        for room in _ROOMS:
            for path in sorted((self.source / room).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    yield path
        for name in _FILES:
            yield self.source / name

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for file in self.files():
            digest.update(str(file.relative_to(self.source)).encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()


def _config_text(source: Path) -> str:
    """Return config.toml as it ships, with the folders of an installed node."""
    text = (source / "config.toml").read_text("utf-8")
    for old, new in _IN_CONFIG:
        if old not in text:
            raise LimenError(f"config.toml of this release has no line {old.strip()!r}")
        text = text.replace(old, new, 1)
    return text


def _pairs(file: Path) -> Iterator[tuple[str, str]]:
    if file.is_file():
        for line in file.read_text("utf-8").splitlines():
            name, equals, value = line.partition("=")
            if equals and name.startswith("LIMEN_"):
                yield name, value


def _of_code(code: int, said: str) -> LimenError:
    error = _Wrong(said) if code == USAGE else LimenError(said)
    return error if code in {USAGE, FAILED} else LimenError(f"{said} (code {code})")


if __name__ == "__main__":
    sys.exit(main())
