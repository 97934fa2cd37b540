"""limen.config: one file, one environment, every fault at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from limen import config
from limen.config import SHIPPED_BUNDLES, Config, load
from limen.errors import ConfigError
from tests.support.services import REPOSITORY
from worker.lime.explain import ROUND

SECRET = "hunter2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, "utf-8")
    return path


def faults(file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file)
    return str(caught.value)


def test_without_a_file_the_defaults_hold(folder: Path) -> None:
    loaded = load()
    assert loaded.scp.port == 11112
    assert loaded.data_dir == folder / "limen-data"
    assert loaded.journal_url == f"sqlite:///{folder}/limen-data/journal.db"


def test_every_fault_is_reported_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMEN_QUEU__BROKER", "x")
    monkeypatch.setenv("LIMEN_ENGINE__MAX_BATCH", "many")
    file = write(
        folder,
        '[node]\nname = "has spaces"\n[logs]\na = 1\n'
        '[scp]\nport = 70000\nprot = 1\nae_title = "\\\\"',
    )
    text = faults(file)
    for key in ("LIMEN_QUEU__BROKER", "engine.max_batch", "node.name", "scp.port", "scp.prot"):
        assert key in text
    for key in ("scp.ae_title", "logs"):
        assert key in text
    assert str(file) in text


def test_an_unknown_key_is_refused(folder: Path) -> None:
    assert "scp.prot: unknown key" in faults(write(folder, "[scp]\nprot = 1"))


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("LIMEN_SCP_PORT", "LIMEN_SCP__PORT"),
        ("LIMEN_SPC__PORT", "LIMEN_SCP__PORT"),
        ("LIMEN_SCP__PROT", "LIMEN_SCP__PORT"),
        ("limen_scp_port", "LIMEN_SCP__PORT"),
        ("LIMEN_SCP_TLS_PORT", "LIMEN_SCP__TLS__PORT"),
        ("LIMEN_SCP_PEERS", "LIMEN_SCP__PEER"),
        ("LIMEN_WEB_PUBLIC_URL", "LIMEN_WEB__PUBLIC_URL"),
        ("LIMEN_DESTINATION__GCS__BUKCET", "LIMEN_DESTINATION__ARCHIVE__BUCKET"),
        ("LIMEN_CONFIG_FILE", ""),
    ],
)
def test_a_variable_that_is_not_understood_is_refused_once_and_the_likely_one_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, likely: str
) -> None:
    monkeypatch.setenv(name, "1")
    (told,) = faults().splitlines()[1:]
    assert told.strip().startswith(f"{name}: no such setting; ")
    assert (f"did you mean {likely}?" if likely else "two underscores") in told


def test_variables_of_others_are_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMEN_REQUIRE_SERVICES", "1")
    # What Kubernetes tells every container of a service that is called limen-scp.
    monkeypatch.setenv("LIMEN_SCP_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("LIMEN_SCP_SERVICE_PORT", "11112")
    monkeypatch.setenv("LIMEN_SCP_PORT", "tcp://10.0.0.1:11112")
    monkeypatch.setenv("LIMEN_SCP_PORT_11112_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("LIMENADE", "1")
    assert load().scp.port == 11112


@pytest.mark.parametrize("name", ["LIMEN_SCP__PEER", "LIMEN_SCP", "LIMEN_ROUTE"])
def test_a_variable_that_should_be_json_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "CT1")
    assert f"{name}: is not JSON" in faults()


PEERS = """
[scp]
host = "0.0.0.0"

[[scp.peer]]
ae_title = "CT1"
address = "10.0.0.1"

  [[ scp.peer ]]
ae_title = "CT2"
address = "10.0.0.300"
addr_ess = "10.0.0.3"
"""


def test_a_fault_of_a_peer_names_its_entry_and_the_line(folder: Path) -> None:
    text = faults(write(folder, PEERS))
    assert "[[scp.peer]] 2, line 9: address: '10.0.0.300' does not appear to be" in text
    assert "[[scp.peer]] 2, line 9: addr_ess: unknown key; did you mean address?" in text


def test_a_fault_of_a_peer_without_a_line_of_its_own_names_its_entry(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = '[{ae_title = "A", address = "::1"}, {ae_title = "B"}]'
    assert "[[scp.peer]] 2: address: Field required" in faults(
        write(folder, f"[scp]\npeer = {peers}")
    )
    monkeypatch.setenv("LIMEN_SCP__PEER", '[{"ae_title": "A", "address": "::1"}, {}]')
    assert "[[scp.peer]] 2: address: Field required" in faults(write(folder, PEERS))


def test_a_key_that_does_not_exist_is_told_with_the_likely_one(folder: Path) -> None:
    text = faults(write(folder, "[scp]\nprot = 1\n[quue]\n[destination.archivee]\nx = 1"))
    assert "scp.prot: unknown key; did you mean port?" in text
    assert "quue: unknown key; did you mean queue?" in text
    assert "destination.archivee: unknown key; did you mean archive?" in text


def test_the_environment_overrides_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, '[scp]\nport = 104\nae_title = "FILE"\n[destination.archive]\nbucket = "a"')
    monkeypatch.setenv("LIMEN_SCP__PORT", "105")
    monkeypatch.setenv("LIMEN_DESTINATION__ARCHIVE__BUCKET", "b")
    monkeypatch.setenv("LIMEN_SCP__PEER", '[{"ae_title": "CT1", "address": "10.0.0.0/8"}]')
    loaded = load()
    assert (loaded.scp.port, loaded.scp.ae_title) == (105, "FILE")
    assert loaded.destination.archive.bucket == "b"
    assert loaded.scp.peer[0].ae_title == "CT1"


@pytest.mark.parametrize("where", ["file", "environment", "both"])
def test_the_old_name_of_the_archive_still_counts_and_is_told(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    if where != "environment":
        write(folder, '[destination.gcs]\nbucket = "a"\nprefix = "site"')
    if where != "file":
        monkeypatch.setenv("LIMEN_DESTINATION__GCS__BUCKET", "b")
    archive = load().destination.archive
    assert archive.bucket == ("a" if where == "file" else "b")
    assert archive.prefix == ("" if where == "environment" else "site")
    assert "[destination.archive] (LIMEN_DESTINATION__ARCHIVE__<KEY>)" in caplog.text


def test_the_archive_by_both_its_names_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "destination: [destination.gcs] is the old name of [destination.archive]"
    write(folder, '[destination.gcs]\nbucket = "a"\n[destination.archive]\nbucket = "a"')
    assert told in faults()
    write(folder, '[destination.gcs]\nbucket = "a"')
    monkeypatch.setenv("LIMEN_DESTINATION__ARCHIVE__BUCKET", "a")
    assert told in faults()


def test_a_typo_under_the_old_name_of_the_archive_is_told_by_its_new_one(folder: Path) -> None:
    write(folder, '[destination.gcs]\nbuket = "a"')
    assert "destination.archive.buket: unknown key" in faults()


def test_the_file_is_the_argument_else_the_environment_else_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, '[node]\nname = "here"')
    named, given = folder / "named.toml", folder / "given.toml"
    named.write_text('[node]\nname = "named"')
    given.write_text('[node]\nname = "given"')
    assert load().node.name == "here"
    monkeypatch.setenv("LIMEN_CONFIG", str(named))
    assert load().node.name == "named"
    assert load(given).node.name == "given"


def test_a_file_that_is_named_but_absent_is_refused(folder: Path) -> None:
    assert "does not exist" in faults(folder / "absent.toml")


@pytest.mark.parametrize("body", [b"[scp\n", b"\xff\xfe", b"port = = 1"])
def test_a_file_that_is_not_toml_is_refused_by_name(folder: Path, body: bytes) -> None:
    file = folder / "config.toml"
    file.write_bytes(body)
    assert str(file) in faults(file)


def test_relative_paths_are_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    file = write(
        tmp_path,
        '[node]\ndata_dir = "d"\n[web]\nsecret_key_file = "w"\n[destination.django]\n'
        'token_file = "t"\n[destination.archive]\nfolder = "f"\ncredentials_file = "/c"\n'
        '[journal]\nurl = "sqlite:///j.db"\n'
        '[[route]]\nname = "r"\nmodality = "CT"\nbundle = "b"',
    )
    loaded = load(file)
    assert loaded.data_dir == tmp_path / "d"
    assert loaded.spool_dir == tmp_path / "d" / "spool"
    assert loaded.web.secret_key_file == tmp_path / "w"
    assert loaded.token_file == tmp_path / "t"
    assert loaded.archive_dir == tmp_path / "f"
    assert loaded.destination.archive.credentials_file == Path("/c")
    assert loaded.bundle_dir(loaded.route[0].bundle) == tmp_path / "b"
    assert loaded.journal_url == f"sqlite:///{tmp_path}/j.db"


def test_a_shipped_bundle_is_found_by_its_name(folder: Path) -> None:
    loaded = load()
    assert loaded.bundle_dir(loaded.route[0].bundle) == SHIPPED_BUNDLES / "ich"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.1.2.3", "node.example.org"])
def test_an_open_host_without_peers_is_refused(folder: Path, host: str) -> None:
    assert "allow_any_peer" in faults(write(folder, f'[scp]\nhost = "{host}"'))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_a_loopback_host_needs_no_peers(folder: Path, host: str) -> None:
    assert load(write(folder, f'[scp]\nhost = "{host}"')).scp.host == host


@pytest.mark.parametrize(
    "asked",
    ["allow_any_peer = true", '[[scp.peer]]\nae_title = "CT1"\naddress = "10.20.0.0/16"'],
)
def test_an_open_host_is_asked_for_by_name(folder: Path, asked: str) -> None:
    assert load(write(folder, f'[scp]\nhost = "0.0.0.0"\n{asked}')).scp.host == "0.0.0.0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[scp.tls]\nport = 2762", "certificate_file"),
        ('[scp.tls]\nport = 2762\ncertificate_file = "c"', "key_file"),
        (
            '[scp.tls]\nport = 1\ncertificate_file = "c"\nkey_file = "k"\n'
            'client_certificate = "required"',
            "ca_file",
        ),
        ('[[scp.peer]]\nae_title = "A"\naddress = "::1"\ntls_subject = "CN=a"', "tls_subject"),
        ('[scp]\nprivate_sop_classes = ["1.2.x"]', "private_sop_classes"),
        ("[scp]\nprocesses = 0", "scp.processes"),
        ("[scp]\nmax_contexts = 129", "scp.max_contexts"),
    ],
)
def test_a_receiver_that_could_not_work_is_refused(folder: Path, text: str, said: str) -> None:
    assert said in faults(write(folder, text))


def test_the_files_of_tls_are_relative_to_the_file(folder: Path) -> None:
    file = write(
        folder,
        '[scp.tls]\nport = 2762\ncertificate_file = "t/c.crt"\nkey_file = "t/c.key"\n'
        'ca_file = "/a.crt"\nclient_certificate = "optional"\n'
        '[[scp.peer]]\nae_title = "A"\naddress = "::1"\ntls_subject = "CN=a"\nport = 104',
    )
    tls = load(file).scp.tls
    assert tls.certificate_file == folder / "t/c.crt"
    assert tls.key_file == folder / "t/c.key"
    assert tls.ca_file == Path("/a.crt")


@pytest.mark.parametrize("title", ["", "   ", "A" * 17, "A\\B", "Ä", "A\tB", "A\0"])
def test_an_ae_title_outside_the_standard_is_refused(
    folder: Path, title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="AE title"):
        config.Scp(ae_title=title)


def test_spaces_around_an_ae_title_do_not_count() -> None:
    assert config.Scp(ae_title=" LIMEN ").ae_title == "LIMEN"


@pytest.mark.parametrize(
    "text",
    [
        f'[journal]\nurl = "mysql://limen:{SECRET}@db/limen"',
        f'[queue]\nbroker = "redis://limen:{SECRET}@mq"',
        f'[queue]\nbrokr = "amqp://limen:{SECRET}@mq"',
        f'[web]\ndatabase_url = ["postgresql://limen:{SECRET}@db/limen"]',
        f'[destination.django]\nurl = "ftp://limen:{SECRET}@web"',
        f'journal = "postgresql://limen:{SECRET}@db/limen"',
        f'[scp]\nhost = ["amqp://limen:{SECRET}@mq"]',
    ],
)
def test_a_secret_is_not_repeated_in_the_fault(folder: Path, text: str) -> None:
    assert SECRET not in faults(write(folder, text))


@pytest.mark.parametrize("name", ["LIMEN_QUEUE", "LIMEN_JOURNAL", "LIMEN_QUEUE__BROKER"])
def test_a_secret_of_the_environment_is_not_repeated_in_the_fault(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"x://limen:{SECRET}@mq")
    assert SECRET not in faults()


URLS_IN_FILES = [
    ("journal", "url", "postgresql://limen:hunter2@db/limen"),
    ("queue", "broker", "amqp://limen:hunter2@rabbitmq:5672/limen"),
    ("web", "database_url", "postgresql://limen:hunter2@db/limen_web"),
]


@pytest.mark.parametrize(("section", "key", "url"), URLS_IN_FILES)
def test_a_url_with_a_password_may_stand_in_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, section: str, key: str, url: str
) -> None:
    (folder / "secret").write_text(f"{url}\n", "utf-8")
    file = write(folder, f'[{section}]\n{key}_file = "secret"\n')
    assert getattr(getattr(load(file), section), key) == url
    # As a variable; and a URL that is set itself goes first.
    write(folder, "")
    monkeypatch.setenv(f"LIMEN_{section}__{key}_file".upper(), str(folder / "secret"))
    assert getattr(getattr(load(file), section), key) == url
    monkeypatch.setenv(f"LIMEN_{section}__{key}".upper(), url.replace("limen:", "other:"))
    assert "other:" in getattr(getattr(load(file), section), key)


@pytest.mark.parametrize(("section", "key"), [(one, key) for one, key, _ in URLS_IN_FILES])
def test_a_file_without_a_url_is_refused_and_what_it_holds_is_not_repeated(
    folder: Path, section: str, key: str
) -> None:
    file = write(folder, f'[{section}]\n{key}_file = "secret"\n')
    assert f"{section}.{key}_file: {folder}/secret cannot be read" in faults(file)
    for held in (b"", SECRET.encode() if section != "web" else b" ", b"\xff"):
        (folder / "secret").write_bytes(held)
        said = faults(file)
        assert f"{section}.{key}_file: {folder}/secret" in said
        assert SECRET not in said


def test_postgresql_is_reached_through_psycopg(folder: Path) -> None:
    loaded = load(write(folder, '[journal]\nurl = "postgresql://limen@db/limen"'))
    assert loaded.journal_url == "postgresql+psycopg://limen@db/limen"


def test_results_go_to_the_web_server_of_this_node_unless_said_otherwise(folder: Path) -> None:
    file = write(folder, '[web]\nhost = "0.0.0.0"\nport = 9000')
    assert load(file).django_url == load(file).web_url == "http://127.0.0.1:9000"
    file = write(folder, '[destination.django]\nurl = "https://web.example.org/"')
    assert load(file).django_url == "https://web.example.org"


def test_only_enabled_destinations_count(folder: Path) -> None:
    assert load().destinations == ("django", "archive")
    file = write(folder, "[destination.archive]\nenabled = false")
    assert load(file).destinations == ("django",)


PACS = """
[[destination.pacs]]
name = "main-pacs"
ae_title = "PACS"
host = "pacs.example.org"
"""


def test_each_pacs_is_a_destination_of_its_own(folder: Path) -> None:
    second = PACS.replace("main-pacs", "other-pacs")
    web = '[[destination.dicomweb]]\nname = "web-pacs"\nurl = "https://pacs.example.org/dicom-web"'
    loaded = load(write(folder, PACS + second + web))
    assert loaded.destinations == ("django", "archive", "main-pacs", "other-pacs", "web-pacs")
    first = loaded.destination.pacs[0]
    assert (first.port, first.commitment, first.send, first.tls) == (104, "ask", "all", False)
    assert first.objects == ("sr", "seg", "sc", "ko", "pm")


def test_a_pacs_may_be_set_by_a_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = '[{"name": "main-pacs", "ae_title": "PACS", "host": "pacs", "objects": ["sr"]}]'
    monkeypatch.setenv("LIMEN_DESTINATION__PACS", value)
    (entry,) = load().destination.pacs
    assert (entry.name, entry.objects) == ("main-pacs", ("sr",))


def test_the_files_of_a_pacs_are_found_beside_the_settings(folder: Path) -> None:
    text = PACS + 'tls = true\nca_file = "ca.crt"'
    assert load(write(folder, text)).destination.pacs[0].ca_file == folder / "ca.crt"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (PACS + "port = 0", "[[destination.pacs]] 1, line 2: port"),
        (PACS + 'objects = ["sr", "dose"]', "objects.1: Input should be 'sr', 'seg'"),
        (PACS + 'commitment = "maybe"', "commitment: Input should be 'required', 'ask' or 'off'"),
        (PACS + PACS, "the name main-pacs is given twice"),
        (PACS.replace("main-pacs", "django"), "the name django is given twice, or is one that"),
        (PACS.replace("main-pacs", "Main PACS"), "name: String should match pattern"),
        (PACS + 'ca_file = "ca.crt"', "are for tls = true"),
        (PACS + 'tls = true\nkey_file = "me.key"', "name the certificate too"),
        (PACS + 'comitment = "ask"', "unknown key; did you mean commitment?"),
        (
            '[[destination.dicomweb]]\nname = "w"\nurl = "http://w"\nusername = "me"',
            "username and password_file belong together",
        ),
        ('[web]\nviewer_url = "https://viewer"', "web.viewer_url"),
    ],
)
def test_what_is_wrong_with_a_pacs_is_told(folder: Path, text: str, told: str) -> None:
    assert told in faults(write(folder, text))


def test_the_digest_changes_with_any_setting(folder: Path) -> None:
    assert load().sha256() == load().sha256()
    assert load().sha256() != load(write(folder, "[explain]\nseed = 1")).sha256()


# -- config.toml at the top of the repository ------------------------------------------------


def test_the_shipped_file_holds_exactly_the_defaults() -> None:
    tree = tomllib.loads((REPOSITORY / "config.toml").read_text("utf-8"))
    assert Config(**tree) == Config()


def test_the_shipped_file_mentions_every_key() -> None:
    text = (REPOSITORY / "config.toml").read_text("utf-8")
    missing = [
        f"{section}.{key}" for section, key in keys(Config) if key not in mentioned(text, section)
    ]
    assert missing == []


def test_the_shipped_file_documents_every_key_on_its_line() -> None:
    text = (REPOSITORY / "config.toml").read_text("utf-8")
    obvious = {"ae_title", "address", "modality", "timeout_s", "seed", "host", "port", "enabled"}
    silent = [
        line.split("=")[0].strip("# ")
        for line in text.splitlines()
        if re.match(r"^(# )?[a-z_0-9]+ = ", line) and "#" not in line.split("=", 1)[1]
    ]
    assert set(silent) - obvious <= {"name", "decode_processes"}


def keys(model: type[BaseModel], section: str = "") -> Iterator[tuple[str, str]]:
    """Yield (section, key) of every setting, sections of sections included."""
    for name, field in model.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            yield from keys(inner, f"{section}.{name}".strip("."))
        else:
            yield section, name


def section_of(annotation: object) -> type[BaseModel] | None:
    """The model behind a section, or behind a list of sections."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def mentioned(text: str, section: str) -> set[str]:
    """Keys below the header of a section, commented out or not."""
    found: set[str] = set()
    here = ""
    for line in text.splitlines():
        header = re.match(r"^(?:# )?\[\[?([a-z0-9.]+)\]\]?", line)
        if header:
            here = header[1]
        key = re.match(r"^(?:# )?([a-z_0-9]+) = ", line)
        if key and here == section:
            found.add(key[1])
    return found


@pytest.mark.parametrize("key", ["enabled", "originals"])
def test_a_worker_cannot_work_from_an_archive_that_holds_no_originals(
    folder: Path, key: str
) -> None:
    text = f'[worker]\nsource = "archive"\n[destination.archive]\n{key} = false\n'
    assert "set destination.archive.enabled = true" in faults(write(folder, text))


def test_lanes_on_other_hosts_need_an_archive_that_they_can_read(folder: Path) -> None:
    text = '[worker]\nsource = "archive"\nlanes = ["predict"]\n'
    assert "the archive is a folder of this host alone" in faults(write(folder, text))
    shared = f'{text}[destination.archive]\nfolder = "/mnt/archive"\n'
    assert load(write(folder, shared)).originals_first
    alone = '[worker]\nsource = "archive"\n'
    assert load(write(folder, alone)).has_own_archive


def test_the_queue_before_the_model_holds_what_every_slot_asks_for(folder: Path) -> None:
    text = faults(write(folder, "[engine]\nmax_queue = 400\n"))
    assert "engine.max_queue = 400 is less than the 448 that 7 slots of [worker] ask for" in text
    fewer = "[engine]\nmax_queue = 400\n[worker]\npredict_slots = 3\n"
    assert load(write(folder, fewer)).engine.max_queue == 400
    assert config.EXPLAIN_ROUND == ROUND


HOOK = '[[destination.webhook]]\nname = "worklist"\nsecret_file = "secret"\n'


def test_a_webhook_is_a_destination_and_its_secret_lies_beside_the_settings(folder: Path) -> None:
    loaded = load(write(folder, f'{HOOK}url = "https://ris.example.org/limen"'))
    assert "worklist" in loaded.destinations
    assert "worklist" in loaded.lanes
    assert loaded.destination.webhook[0].secret_file == folder / "secret"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f'{HOOK}url = "http://10.0.0.1/x"', "url is http, but 10.0.0.1 is another machine"),
        (f'{HOOK}url = "https://limen:hunter2@ris/x"', "url: "),
        (
            '[[destination.webhook]]\nname = "x"\nurl = "https://ris/"',
            "secret_file: Field required",
        ),
        (f'{HOOK}url = "https://ris/"\n{HOOK}url = "https://ris/"', "is given twice"),
        ('[alarm]\nwebhook = "https://ris/"', "secret_file is not; name a file"),
        ('[alarm]\nwebhook = "ftp://ris/"', "alarm.webhook"),
    ],
)
def test_what_is_wrong_with_a_webhook_is_told(folder: Path, text: str, told: str) -> None:
    said = faults(write(folder, text))
    assert told in said
    assert "hunter2" not in said


RIS = '[[destination.hl7]]\nname = "ris"\nhost = "10.0.0.9"\n'


def test_a_ris_is_a_destination_and_its_template_lies_beside_the_settings(folder: Path) -> None:
    loaded = load(write(folder, f'{RIS}template = "ris.toml"\n'))
    assert "ris" in loaded.destinations
    (ris,) = loaded.destination.hl7
    assert (ris.template, ris.port, ris.processing_id) == (folder / "ris.toml", 2575, "P")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f'{RIS}ca_file = "ca"\n', "are for tls = true"),
        (f'{RIS}tls = true\nkey_file = "key"\n', "name the certificate too"),
        (f'{RIS}sending_facility = "a\\rb"\n', "sending_facility"),
        (f"{RIS}{RIS}", "is given twice"),
    ],
)
def test_what_is_wrong_with_a_ris_is_told(folder: Path, text: str, told: str) -> None:
    assert told in faults(write(folder, text))
