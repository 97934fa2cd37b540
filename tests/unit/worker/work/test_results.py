"""worker.work.results: what one host made, any other reads; what is damaged, nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from limen.errors import Delayed, Permanent, Transient, Unreachable
from limen.result import Phase, Result
from tests.support.samples import result
from worker.destinations.folder import FolderArchive
from worker.dicom.decoder import Decoder
from worker.objects import Built, Kind, Objects
from worker.work import sendable as module
from worker.work.cache import Cache
from worker.work.results import ArchivedResults
from worker.work.sendable import Sendable

KEY = "ab" * 16
FILES = {"a-1.png": b"slice"}
OVERLAY = {"a-1-o.png": b"overlay"}


class Site:
    """Hosts that share an archive, and what the journal says was committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = FolderArchive(folder / "archive")
        self.made = folder / "archive" / KEY / "made"
        self.digests: dict[tuple[str, int, Phase], str] = {}

    def host(self, name: str) -> ArchivedResults:
        cache = Cache(self.folder / name, 1 << 30)
        return ArchivedResults(cache, self.archive, lambda *where: self.digests.get(where, ""))

    def commit(self, by: ArchivedResults, phase: Phase = Phase.PREDICTION) -> bytes:
        document = explained() if phase is Phase.EXPLANATION else result()
        files = OVERLAY if phase is Phase.EXPLANATION else FILES
        self.digests[KEY, 1, phase] = by.write(KEY, document, files)
        return document.to_json()


def explained() -> Result:
    before = result(Phase.EXPLANATION)
    return replace(before, images=[replace(before.images[0], explanation="a-1-o.png")])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_another_host_reads_a_committed_result_with_its_pictures(site: Site) -> None:
    body = site.commit(site.host("one"))
    other = site.host("other")
    document, read = other.read(KEY, 1, Phase.PREDICTION)
    assert read == body
    files = other.files(KEY, document)
    assert {name: path.read_bytes() for name, path in files.items()} == FILES


def test_an_explanation_brings_the_pictures_of_its_prediction_along(site: Site) -> None:
    first, second = site.host("one"), site.host("two")
    site.commit(first)
    site.commit(second, Phase.EXPLANATION)
    other = site.host("other")
    document, _ = other.read(KEY, 1, Phase.EXPLANATION)
    files = other.files(KEY, document)
    assert {name: path.read_bytes() for name, path in files.items()} == {**FILES, **OVERLAY}


def test_of_two_that_wrote_a_result_the_committed_one_is_read(site: Site) -> None:
    lost, won = site.host("one"), site.host("two")
    lost.write(KEY, result(reason="by the one that lost its lease"), FILES)
    body = site.commit(won)
    for name in ("one", "other"):
        assert site.host(name).read(KEY, 1, Phase.PREDICTION)[1] == body


@pytest.mark.parametrize("name", ["result.json", "a-1.png", "digests.json"])
def test_a_damaged_file_in_the_cache_is_fetched_again(site: Site, name: str) -> None:
    host = site.host("one")
    body = site.commit(host)
    (path,) = (site.folder / "one").rglob(name)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    document, read = host.read(KEY, 1, Phase.PREDICTION)
    assert read == body
    assert host.files(KEY, document)["a-1.png"].read_bytes() == b"slice"


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b.replace(b"slice", b"SLICE")])
def test_what_is_damaged_in_the_archive_is_not_read(
    site: Site, damage: Callable[[bytes], bytes]
) -> None:
    site.commit(site.host("one"))
    (pack,) = site.made.rglob("*.zip")
    pack.write_bytes(damage(pack.read_bytes()))
    with pytest.raises(Delayed, match="is damaged in the archive"):
        site.host("other").read(KEY, 1, Phase.PREDICTION)


def test_what_was_not_committed_is_nobodys(site: Site) -> None:
    site.host("one").write(KEY, result(), FILES)
    with pytest.raises(Transient, match="the journal does not know the prediction"):
        site.host("other").read(KEY, 1, Phase.PREDICTION)


def test_an_archive_that_is_away_delays_before_anything_is_committed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unreachable("bucket b answered 503")

    monkeypatch.setattr(FolderArchive, "put", away)
    with pytest.raises(Delayed, match="results cannot be put into the archive: bucket b"):
        site.host("one").write(KEY, result(), FILES)


def test_what_a_bundle_in_shadow_says_first_stands(site: Site) -> None:
    one, two = site.host("one"), site.host("two")
    assert one.shadow(KEY, 1, "try") is None
    one.write(KEY, result(reason="first"), {}, "try")
    two.write(KEY, result(reason="second"), {}, "try")
    for host in (one, two, site.host("other")):
        assert host.shadow(KEY, 1, "try") == result(reason="first").to_json()


class Builder:
    """Stands for ``worker.objects.build.build``: another body each time."""

    def __init__(self) -> None:
        self.replaces: list[list[str]] = []
        self.together: threading.Barrier | None = None

    def __call__(self, *_: object, replaces: tuple = (), **__: object) -> Objects:  # type: ignore[type-arg]
        self.replaces.append([one.sop_uid for one in replaces])
        number = len(self.replaces)
        if self.together is not None:
            self.together.wait(10)
        return Objects((Built(Kind.SR, "1.2", f"1.2.{number}", "1.2.3", b"%d" % number),), ())


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    made = Builder()
    monkeypatch.setattr(module, "build", made)
    return made


def ask(host: ArchivedResults, phase: Phase = Phase.PREDICTION) -> bytes:
    sendable = Sendable(host, cast(Decoder, None))
    (one,) = sendable.of(KEY, result(phase), {}, (), frozenset({"sr"}))
    assert one.path is not None
    return one.path.read_bytes()


def test_objects_are_built_once_whichever_host_is_asked(site: Site, builder: Builder) -> None:
    assert [ask(site.host(name)) for name in ("one", "two", "one")] == [b"1"] * 3


def test_of_two_hosts_that_build_at_once_the_first_is_sent_by_both(
    site: Site, builder: Builder
) -> None:
    builder.together, sent = threading.Barrier(2), list[bytes]()
    threads = [
        threading.Thread(target=lambda n=name: sent.append(ask(site.host(n))))  # type: ignore[misc]
        for name in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builder.replaces) == 2
    assert len(set(sent)) == 1


def test_a_report_names_its_predecessor_that_another_host_built(
    site: Site, builder: Builder
) -> None:
    ask(site.host("one"))
    ask(site.host("two"), Phase.EXPLANATION)
    assert builder.replaces == [[], ["1.2.1"]]


def test_objects_that_were_not_put_yet_are_put_before_they_are_sent(
    site: Site, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, real = site.host("one"), FolderArchive.put

    def away(*_: object) -> None:
        raise Unreachable("away")

    monkeypatch.setattr(FolderArchive, "put", away)
    with pytest.raises(Delayed, match="DICOM objects cannot be put"):
        ask(host)
    monkeypatch.setattr(FolderArchive, "put", real)
    assert ask(host) == ask(site.host("two")) == b"1"


def test_a_rejected_pack_whose_other_is_damaged_is_an_error(site: Site) -> None:
    host = site.host("one")
    site.commit(host)
    (pack,) = site.made.rglob("*.zip")
    pack.write_bytes(b"damaged")
    with pytest.raises((Permanent, Delayed)):
        host.write(KEY, result(), FILES)
