"""worker.work.cache: bounded, and never taken away from who works on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from limen.errors import Delayed
from worker.work.cache import Cache

FIRST, SECOND, THIRD = "a1" * 16, "b2" * 16, "c3" * 16
KB = 1000


def fetch(cache: Cache, study: str, size: int = 100 * KB, used_s: float = 0.0) -> None:
    """Work on a study as if it had been at some second of 2026."""
    with cache.using(study) as folder:
        (folder / "instances").mkdir(exist_ok=True)
        (folder / "instances" / "one.dcm").write_bytes(bytes(size))
    if folder.exists():
        os.utime(folder, (1_770_000_000 + used_s,) * 2)


def there(cache: Cache) -> set[str]:
    return {path.name for path in cache.root.iterdir()}


def test_the_study_that_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 250 * KB)
    fetch(cache, FIRST, used_s=1)
    fetch(cache, SECOND, used_s=2)
    fetch(cache, FIRST, used_s=3)
    fetch(cache, THIRD, used_s=4)
    assert there(cache) == {FIRST, THIRD}


def test_what_is_worked_on_stays_whatever_its_size(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 50 * KB)
    with cache.using(FIRST) as folder:
        (folder / "one.dcm").write_bytes(bytes(200 * KB))
        fetch(cache, SECOND)
        assert (folder / "one.dcm").stat().st_size == 200 * KB
    assert there(cache) == set()


def test_what_another_process_works_on_stays(tmp_path: Path) -> None:
    held = (
        "import sys; from pathlib import Path; from worker.work.cache import Cache\n"
        f"cache = Cache(Path({str(tmp_path)!r}), 1)\n"
        f"with cache.using({FIRST!r}) as folder:\n"
        "    (folder / 'one').write_bytes(b'one'); print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        cache = Cache(tmp_path, 1)
        fetch(cache, SECOND)
        assert there(cache) == {FIRST}
        other.communicate("")
    Cache(tmp_path, 1)
    assert there(cache) == set()


def test_two_that_work_on_a_study_share_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1)
    with cache.using(FIRST) as one:
        with cache.using(FIRST) as other:
            (other / "one").write_bytes(b"one")
        assert (one / "one").is_file()


def test_what_nobody_used_for_its_time_goes_though_there_is_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1 << 30, max_age_s=86400)
    fetch(cache, FIRST)
    fetch(cache, SECOND)
    assert there(cache) == {SECOND}


def test_what_a_process_that_died_was_removing_goes(tmp_path: Path) -> None:
    (tmp_path / ".gone-1").mkdir()
    (tmp_path / ".gone-1" / "one").write_bytes(b"one")
    assert there(Cache(tmp_path, 1 << 30)) == set()


def test_a_cache_that_cannot_be_written_delays(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 1)
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(Delayed, match="the cache cannot be written"), cache.using(FIRST):
        pass
