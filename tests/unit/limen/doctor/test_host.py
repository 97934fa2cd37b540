"""limen.doctor.host and limen.modes: settings, file modes, disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from limen.doctor.check import Node, Verdict
from tests.support.doctor import fault, findings, node_of
from tests.support.ports import free_ports
from tests.support.services import program, require_service


@pytest.fixture
def entered() -> Iterator[Path]:
    """A folder that every account may enter; that of pytest is closed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def secret(node: Node, mode: int) -> Path:
    folder = node.settings.data_dir / "secrets"
    folder.mkdir(mode=0o755, exist_ok=True)
    path = folder / "web-token"
    path.write_text("t" * 43, "ascii")
    path.chmod(mode)
    return path


SOURCE = '[node]\ndata_dir = "data"\n[worker]\nsource = "archive"\n'


def test_a_cache_is_looked_at_where_workers_fetch_from_the_archive(tmp_path: Path) -> None:
    assert "nothing is fetched" in fault(node_of(tmp_path), "cache", Verdict.SKIPPED)
    text = f'{SOURCE}cache_bytes = 268435456\n[destination.archive]\nfolder = "archive"\n'
    (found,) = findings(node_of(tmp_path, text), "cache")
    assert found.verdict is Verdict.OK
    assert "0.0 of 0.3 GB in use" in found.text


def test_a_cache_that_is_larger_than_its_disk_and_an_archive_of_one_host_are_warnings(
    tmp_path: Path,
) -> None:
    node = node_of(tmp_path, f"{SOURCE}cache_bytes = {10**18}\n")
    texts = [f.text for f in findings(node, "cache") if f.verdict is Verdict.WARNING]
    assert ["no other host can read" in texts[0], "has room for" in texts[1]] == [True, True]


def test_files_that_are_closed_are_well(entered: Path) -> None:
    node = node_of(entered)
    secret(node, 0o640)
    assert [f.verdict for f in findings(node, "files")] == [Verdict.OK]


def test_a_secret_that_others_can_read_is_a_failure_with_its_command(entered: Path) -> None:
    node = node_of(entered)
    node.settings.data_dir.chmod(0o711)
    path = secret(node, 0o644)
    told = " ".join(f"{f.text} -> {f.next}" for f in findings(node, "files"))
    assert f"{path} holds a secret that every account of this host can read" in told
    assert f"chmod o-rwx {path}" in told


def test_a_secret_in_a_closed_folder_is_closed(entered: Path) -> None:
    node = node_of(entered)
    secret(node, 0o644)
    assert [f.verdict for f in findings(node, "files")] == [Verdict.OK]


def test_a_data_folder_that_others_may_enter_is_a_failure(entered: Path) -> None:
    node = node_of(entered)
    node.settings.data_dir.chmod(0o755)
    assert "data of patients" in fault(node, "files")


@pytest.mark.parametrize(
    ("mode", "text", "why"),
    [
        (0o646, "", "can be changed by every account"),
        (0o644, '[journal]\nurl = "postgresql://limen:geheim@db/limen"\n', "holds a secret"),
    ],
)
def test_settings_that_others_may_change_or_that_hold_a_password_are_a_failure(
    entered: Path, mode: int, text: str, why: str
) -> None:
    node = node_of(entered, text)
    (entered / "config.toml").chmod(mode)
    assert why in fault(node, "files")
    assert "geheim" not in fault(node, "files")


def test_settings_without_a_password_may_be_read(entered: Path) -> None:
    node = node_of(entered, '[journal]\nurl = "postgresql://limen@db/limen"\n')
    (entered / "config.toml").chmod(0o644)
    assert [f.verdict for f in findings(node, "files")] == [Verdict.OK]


def test_the_receiver_says_at_its_start_what_is_open(entered: Path) -> None:
    node = node_of(entered, "[scp]\nprocesses = 1\n")
    node.settings.data_dir.chmod(0o755)
    # A journal of a kind that is not there ends the process after what it says first.
    env = {**node.environment, "LIMEN_JOURNAL__URL": f"postgresql://127.0.0.1:{free_ports(1)[0]}/x"}
    done = subprocess.run(
        [sys.executable, "-m", "scp"], env=env, capture_output=True, text=True, timeout=60
    )
    assert "file.open_to_others" in done.stderr
    assert f"chmod o-rwx {node.settings.data_dir}" in done.stderr


def test_a_disk_below_the_watermark_is_a_failure(tmp_path: Path) -> None:
    told = fault(node_of(tmp_path, f"[scp]\nmin_free_bytes = {1 << 60}\n"), "disk")
    assert "scp.min_free_bytes" in told
    assert "0xA700" in told
    assert "limen purge --dry-run" in told


def test_a_disk_that_retention_has_to_relieve_is_a_warning(tmp_path: Path) -> None:
    told = fault(
        node_of(tmp_path, f"[retention]\nfree_bytes = {1 << 60}\n"), "disk", Verdict.WARNING
    )
    assert "retention keeps free" in told


def test_a_data_folder_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    node = node_of(tmp_path)
    node.settings.data_dir.rmdir()
    assert "limen up" in fault(node, "disk")


def test_the_settings_file_is_told(tmp_path: Path) -> None:
    (found,) = findings(node_of(tmp_path), "settings")
    assert str(tmp_path / "config.toml") in found.text


# -- file systems that take nothing ----------------------------------------------------------------


def doctor_on(mount: str, node: Node, name: str) -> str:
    """Return what `limen doctor` fails for where its data folder is mounted like this."""
    require_service(os.geteuid() == 0, "only root can mount")
    script = f'mount {mount} "$0" && exec "$@"'
    words = [sys.executable, "-m", "limen", "doctor", name, "--json"]
    done = subprocess.run(
        [program("unshare", "util-linux"), "--mount", "sh", "-c", script]
        + [str(node.settings.data_dir), *words],
        env=dict(node.environment), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (made,) = json.loads(done.stdout)["checks"]
    return " ".join(
        f"{f['text']} -> {f['next']}" for f in made["findings"] if f["verdict"] == "failed"
    )


def test_a_data_folder_that_nothing_can_be_written_to_is_a_failure(tmp_path: Path) -> None:
    node = node_of(tmp_path)
    told = doctor_on('-o bind,ro "$0"', node, "disk")
    assert f"nothing can be written to {node.settings.data_dir}" in told
    assert "chown" in told


def test_a_file_system_without_inodes_is_a_failure(tmp_path: Path) -> None:
    node = node_of(tmp_path, "[scp]\nmin_free_bytes = 1\n[retention]\nfree_bytes = 1\n")
    told = doctor_on("-t tmpfs -o size=1m,nr_inodes=1 tmpfs", node, "disk")
    assert "no inode is left" in told
    assert "remove files" in told


def test_a_folder_of_messages_that_is_not_open_to_us_is_a_failure(tmp_path: Path) -> None:
    node = node_of(tmp_path)
    (node.settings.data_dir / "queue" / "messages").mkdir(parents=True)
    told = doctor_on('-o bind,ro "$0"', node, "broker")
    assert "is not open to this account" in told
    assert "chown" in told
