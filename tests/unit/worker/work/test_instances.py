"""worker.work.instances: every slice that was received, as it was received, or said to be lost."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from limen.errors import Delayed, Rejected, Unreachable
from limen.journal import Instance as Row
from limen.result import Phase
from limen.uids import key_of
from tests.support.samples import START, STUDY_UID, data_set, write_file
from worker.destinations import Parcel
from worker.destinations.archive import ArchiveDestination
from worker.destinations.folder import FolderArchive
from worker.dicom.decoder import Decoder
from worker.study.parts import Instance, read_headers
from worker.work.cache import Cache
from worker.work.instances import DAMAGED, LOST, ArchivedInstances, SpooledInstances

KEY = key_of(STUDY_UID)
COUNT = 3


class Site:
    """The host of a receiver with an archived study, and a host without its spool."""

    def __init__(self, folder: Path, cache_bytes: int = 1 << 30) -> None:
        self.spool = folder / "receiver" / "spool"
        self.archive = FolderArchive(folder / "archive")
        self.kept = folder / "archive" / KEY / "instances"
        destination = ArchiveDestination(self.archive, originals=True)
        self.rows = [self._receive(number) for number in range(1, COUNT + 1)]
        self.destination = destination
        self.spooled = SpooledInstances(self.spool, destination)
        parcel = Parcel(KEY, 1, Phase.PREDICTION, b"", {}, self.spooled.originals(self.rows))
        destination.deliver(parcel)
        self.cache = Cache(folder / "compute" / "cache", cache_bytes)
        self.there = ArchivedInstances(self.cache, destination, folder / "compute" / "spool")

    def _receive(self, number: int) -> Row:
        sop_uid = f"{STUDY_UID}.1.{number}"
        path = f"{KEY}/{key_of(sop_uid)}.dcm"
        encoded = write_file(self.spool / path, data_set(number))
        digest = hashlib.sha256(encoded).hexdigest()
        return Row(key_of(sop_uid), sop_uid, f"{STUDY_UID}.1", "1.2", digest, path, START)

    def fetch(self) -> list[Instance]:
        with self.there.using(KEY):
            return self.there.of(KEY, self.rows)

    def received(self) -> list[bytes]:
        return [(self.spool / row.path).read_bytes() for row in self.rows]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def bodies(found: list[Instance]) -> list[bytes]:
    return [one.path.read_bytes() for one in found]


def test_a_host_without_the_spool_reads_what_was_received_byte_for_byte(site: Site) -> None:
    found = site.fetch()
    assert bodies(found) == site.received()
    assert {one.path.is_relative_to(site.cache.root) for one in found} == {True}


def test_what_is_in_the_cache_is_not_fetched_again(site: Site) -> None:
    site.fetch()
    for path in site.kept.iterdir():
        path.unlink()
    assert bodies(site.fetch()) == site.received()


def test_a_damaged_file_in_the_cache_is_fetched_again(site: Site) -> None:
    path = site.fetch()[1].path
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert bodies(site.fetch()) == site.received()


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_an_instance_that_the_archive_lost_is_told_and_never_left_out(
    site: Site, how: str, decoder: Decoder
) -> None:
    (kept,) = site.kept.glob(f"{site.rows[1].sop_key}-*")
    if how == "missing":
        kept.unlink()
    else:
        kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    found = site.fetch()
    assert [one.fault for one in found] == ["", LOST, ""]
    read = read_headers(found, decoder)
    assert len(read.headers) == COUNT - 1
    assert [(one.sop_uid, why) for one, why in read.unreadable] == [(site.rows[1].sop_uid, LOST)]


def test_an_archive_that_holds_nothing_of_a_study_is_the_wrong_one_and_delays(site: Site) -> None:
    for path in site.kept.iterdir():
        path.unlink()
    with pytest.raises(Delayed, match="whether it is the one that the receiver's host writes to"):
        site.fetch()


def test_an_archive_that_is_away_delays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> bool:
        raise Unreachable("bucket b answered 503")

    monkeypatch.setattr(FolderArchive, "get", away)
    with pytest.raises(Delayed, match="fetched from the archive: bucket b answered 503"):
        site.fetch()


def test_the_spool_goes_before_the_archive_where_it_holds_what_was_received(site: Site) -> None:
    beside = ArchivedInstances(site.cache, site.destination, site.spool)
    (site.spool / site.rows[0].path).write_bytes(b"damaged")
    with beside.using(KEY):
        found = beside.of(KEY, site.rows)
    assert [one.path.is_relative_to(site.spool) for one in found] == [False, True, True]
    assert [one.fault for one in found] == ["", "", ""]


def test_a_host_without_a_spool_says_so_and_judges_nothing(tmp_path: Path, site: Site) -> None:
    nowhere = SpooledInstances(tmp_path / "nowhere", None)
    for ask in (lambda: nowhere.of(KEY, site.rows), lambda: nowhere.originals(site.rows)):
        with pytest.raises(Delayed, match="there is no spool on this host"):
            ask()


def damaged(path: Path) -> None:
    """Let the last block of a file be empty, as a disk leaves what it lost."""
    body = path.read_bytes()
    path.write_bytes(body[:-8] + bytes(8))


def test_a_damaged_instance_in_the_spool_is_read_from_the_archive(site: Site) -> None:
    whole = site.received()
    damaged(site.spool / site.rows[1].path)
    found = site.spooled.of(KEY, site.rows)
    assert bodies(found) == whole
    assert site.received() == whole  # and is whole again


def test_a_damaged_instance_that_no_archive_has_is_told_and_never_read(
    site: Site, decoder: Decoder
) -> None:
    path = site.spool / site.rows[1].path
    damaged(path)
    (kept,) = site.kept.glob(f"{site.rows[1].sop_key}-*")
    kept.unlink()
    as_found = path.read_bytes()
    for spooled in (site.spooled, SpooledInstances(site.spool, None)):
        found = spooled.of(KEY, site.rows)
        assert [one.fault for one in found] == ["", DAMAGED, ""]
        assert len(read_headers(found, decoder).headers) == COUNT - 1
    assert path.read_bytes() == as_found


def test_a_damaged_instance_is_not_archived_as_what_was_received(site: Site) -> None:
    damaged(site.spool / site.rows[0].path)
    originals = site.spooled.originals(site.rows)
    again = Parcel(KEY, 2, Phase.PREDICTION, b"", {}, originals)
    site.destination.deliver(again)  # the archive has it
    (kept,) = site.kept.glob(f"{site.rows[0].sop_key}-*")
    kept.unlink()
    with pytest.raises(Rejected, match="not as it was received in the spool, nor in the archive"):
        site.destination.deliver(again)
    assert not kept.exists()


def test_originals_that_were_purged_are_looked_for_in_the_archive(site: Site) -> None:
    originals = site.spooled.originals(site.rows)
    (site.spool / site.rows[0].path).unlink()
    site.destination.deliver(Parcel(KEY, 2, Phase.PREDICTION, b"", {}, originals))
    (kept,) = site.kept.glob(f"{site.rows[0].sop_key}-*")
    kept.unlink()
    with pytest.raises(Rejected, match="not as it was received in the spool, nor in the archive"):
        site.destination.deliver(Parcel(KEY, 2, Phase.PREDICTION, b"", {}, originals))
