"""Typed settings: ``config.toml`` overlaid by ``LIMEN_*`` environment variables.

``[scp] port`` is overridden by ``LIMEN_SCP__PORT``. Every fault is reported at
once; an unknown key is a fault. Read once, at start; ``config.toml`` at the top
of the repository documents each key with its default and unit.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from limen.errors import ConfigError
from limen.uids import is_uid

__all__ = ["Config", "load"]

ENV_PREFIX = "LIMEN_"
_SQLITE = "sqlite:///"
SHIPPED_BUNDLES = Path(__file__).resolve().parent.parent / "models"


def ae_title(value: str) -> str:
    """PS3.5 6.2, VR AE: 1 to 16 printable characters, no backslash, not only spaces."""
    printable = all(" " <= c <= "~" and c != "\\" for c in value)
    if not (1 <= len(value.strip()) <= 16 and len(value) <= 16 and printable):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters, no backslash")
    return value.strip()


def _uid(value: str) -> str:
    if not is_uid(value):
        raise ValueError("a UID has digits and dots, at most 64 characters")
    return value


def _network(value: str) -> str:
    ipaddress.ip_network(value, strict=False)
    return value


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


AeTitle = Annotated[str, AfterValidator(ae_title)]
Network = Annotated[str, AfterValidator(_network)]
Uid = Annotated[str, AfterValidator(_uid)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Node(_Section):
    """Who this installation is and where it keeps everything."""

    name: str = Field("limen", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    data_dir: Path = Path("limen-data")


class Peer(_Section):
    """A device that may send: an AE title, from an address or a network.

    ``port`` is where it listens for reports of storage commitment. ``tls_subject`` is what the
    subject of its client certificate must hold: ``"CN=ct1,O=Hospital"``, or a common name alone.
    """

    ae_title: AeTitle
    address: Network
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    tls_subject: str | None = Field(None, min_length=1)


class Tls(_Section):
    """The receiver's second port, for TLS 1.2 and 1.3 with the cipher suites of BCP 195."""

    port: Port = 0
    certificate_file: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = None
    client_certificate: Literal["none", "optional", "required"] = "none"

    @model_validator(mode="after")
    def _an_open_port_has_its_files(self) -> Tls:
        if self.port and not (self.certificate_file and self.key_file):
            raise ValueError("port is set, but certificate_file or key_file is not; set both")
        if self.port and self.client_certificate != "none" and not self.ca_file:
            raise ValueError(
                f"client_certificate is {self.client_certificate!r}, but ca_file is not set; "
                "name the file of the authorities that sign the senders' certificates"
            )
        return self


class Scp(_Section):
    """The receiver."""

    ae_title: AeTitle = "LIMEN"
    host: str = "127.0.0.1"
    port: Port = 11112
    allow_any_peer: bool = False
    peer: tuple[Peer, ...] = ()
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    max_associations: Count = 64
    max_associations_per_address: Count = 16
    max_contexts: Annotated[int, Field(ge=1, le=128)] = 128
    private_sop_classes: tuple[Uid, ...] = ()
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = 128 * 1024
    max_instance_bytes: Annotated[int, Field(ge=1 << 20)] = 2 << 30
    handshake_timeout_s: Seconds = 10
    pdu_timeout_s: Seconds = 30
    idle_timeout_s: Seconds = 300
    association_timeout_s: Seconds = 4 * 3600
    quiet_s: Seconds = 5
    release_quiet_s: Seconds = 1
    min_free_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    tls: Tls = Tls()

    @model_validator(mode="after")
    def _an_open_node_is_asked_for_by_name(self) -> Scp:
        if not (self.peer or self.allow_any_peer or _is_loopback(self.host)):
            raise ValueError(
                f"host {self.host} is reachable from outside, but no [[scp.peer]] is listed; "
                "list the senders, or set allow_any_peer = true to accept everyone"
            )
        return self

    @model_validator(mode="after")
    def _a_subject_is_asked_of_whoever_shows_one(self) -> Scp:
        named = [peer.ae_title for peer in self.peer if peer.tls_subject]
        if named and (not self.tls.port or self.tls.client_certificate == "none"):
            raise ValueError(
                f"[[scp.peer]] {named[0]} has a tls_subject, but no client certificate is asked "
                'for; set scp.tls.port and scp.tls.client_certificate = "required"'
            )
        return self


class Journal(_Section):
    """Where the state of every study is kept."""

    url: str = Field("", pattern=r"^$|^sqlite:///.+|^postgresql(\+psycopg)?://.+")


class Queue(_Section):
    """Broker, retries and leases."""

    broker: str = Field("filesystem://", pattern=r"^(filesystem://$|amqps?://.+)")
    prefix: str = Field("limen", pattern=r"^[a-z0-9][a-z0-9._-]{0,40}$")
    dispatch_s: Seconds = 0.5
    republish_s: Seconds = 60
    confirm_timeout_s: Seconds = 5
    lease_s: Seconds = 30
    max_attempts: Count = 3
    retry_base_s: Seconds = 2
    retry_max_s: Seconds = 900
    delivery_give_up_s: Annotated[float, Field(gt=0)] = 7 * 86400


class Worker(_Section):
    """Threads that work on jobs, and the children that decode."""

    predict_slots: Count = 4
    explain_slots: Count = 1
    deliver_slots: Count = 2
    decode_processes: Count = 2
    decode_timeout_s: Seconds = 20
    decode_memory_bytes: Annotated[int, Field(ge=256 << 20)] = 2 << 30
    max_pixels: Annotated[int, Field(ge=1)] = 64_000_000


class Engine(_Section):
    """The shared model, and the batcher in front of it."""

    max_batch: Count = 32
    max_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 5
    max_queue: Count = 4096
    predict_latency_ms: Annotated[float, Field(gt=0, le=10_000)] = 100
    explain_share: Annotated[float, Field(ge=0.01, le=0.9)] = 0.1
    backend: Literal["auto", "openvino", "tensorflow"] = "auto"
    precision: Literal["auto", "fp32", "int8"] = "auto"
    allow_legacy_h5: bool = False


class Explain(_Section):
    """LIME. What is not set here is what the bundle says."""

    mode: Literal["settled", "reference"] | None = None
    samples: Annotated[int, Field(ge=20, le=100_000)] | None = None
    superpixels: Annotated[int, Field(ge=4, le=1000)] | None = None
    max_explained: Annotated[int, Field(ge=0)] | None = None
    seed: int = 0


RouteKeyword = Literal[
    "BodyPartExamined",
    "ConvolutionKernel",
    "InstitutionName",
    "SeriesDescription",
    "StudyDescription",
]
"""What a route may look at; nothing that a patient is known by."""


class Route(_Section):
    """Which studies a bundle looks at. The first route that matches and is no shadow wins.

    ``where`` maps a DICOM keyword to a pattern (``*``, ``?``, ``[...]``, any case); one instance
    of the modality has to match all of them. A ``shadow`` runs beside the route that wins; its
    results go to the archive and are never shown.
    """

    name: str
    modality: str
    bundle: str
    where: dict[RouteKeyword, Annotated[str, Field(min_length=1, max_length=64)]] = {}
    shadow: bool = False


class DjangoDestination(_Section):
    """The results server."""

    enabled: bool = True
    url: str = Field("", pattern=r"^$|^https?://.+")
    token_file: Path | None = None
    timeout_s: Seconds = 30


class GcsDestination(_Section):
    """The archive: a bucket of Google Cloud Storage, or a local folder."""

    enabled: bool = True
    bucket: str = ""
    prefix: str = ""
    credentials_file: Path | None = None
    folder: Path | None = None
    originals: bool = True
    timeout_s: Seconds = 60


class Destination(_Section):
    """Where results go."""

    django: DjangoDestination = DjangoDestination()
    gcs: GcsDestination = GcsDestination()


class Web(_Section):
    """The results server; it reads the same ``LIMEN_WEB__*`` variables itself."""

    host: str = "127.0.0.1"
    port: Port = 8042
    public_url: str = Field("", pattern=r"^$|^https?://.+")
    database_url: str = ""
    secret_key_file: Path | None = None


class Metrics(_Section):
    """Where Prometheus reads the metrics of each process; a port of 0 is closed."""

    host: str = "127.0.0.1"
    scp_port: Port = 0
    worker_port: Port = 0


class Log(_Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(BaseSettings):
    """All settings. Built by ``load``; paths in it are absolute."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    node: Node = Node()
    scp: Scp = Scp()
    journal: Journal = Journal()
    queue: Queue = Queue()
    worker: Worker = Worker()
    engine: Engine = Engine()
    explain: Explain = Explain()
    route: tuple[Route, ...] = (Route(name="head-ct", modality="CT", bundle="ich"),)
    destination: Destination = Destination()
    web: Web = Web()
    metrics: Metrics = Metrics()
    log: Log = Log()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then what ``load`` read from the file."""
        return EnvSettingsSource(settings_cls), init_settings

    @model_validator(mode="after")
    def _a_shadow_has_somewhere_to_go(self) -> Config:
        shadows = [route.name for route in self.route if route.shadow]
        if shadows and not self.destination.gcs.enabled:
            raise ValueError(
                f"route {', '.join(shadows)} is a shadow, and the results of a shadow go to the "
                "archive only; set destination.gcs.enabled = true, or remove the route"
            )
        return self

    @property
    def data_dir(self) -> Path:
        """Folder that holds everything this node keeps."""
        return self.node.data_dir

    @property
    def spool_dir(self) -> Path:
        """Folder of the received instances."""
        return self.data_dir / "spool"

    @property
    def results_dir(self) -> Path:
        """Folder of the result files."""
        return self.data_dir / "results"

    @property
    def journal_url(self) -> str:
        """SQLAlchemy URL of the journal."""
        if not self.journal.url:
            return f"sqlite:///{self.data_dir / 'journal.db'}"
        return self.journal.url.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def archive_dir(self) -> Path:
        """Folder of the archive when no bucket is configured."""
        return self.destination.gcs.folder or self.data_dir / "archive"

    @property
    def web_url(self) -> str:
        """Base URL of the results server, as people open it."""
        host = "127.0.0.1" if self.web.host in {"0.0.0.0", "::", ""} else self.web.host  # noqa: S104
        return (self.web.public_url or f"http://{host}:{self.web.port}").rstrip("/")

    @property
    def django_url(self) -> str:
        """Base URL that results are posted to."""
        return (self.destination.django.url or self.web_url).rstrip("/")

    @property
    def token_file(self) -> Path:
        """File with this node's bearer token for the results server."""
        return self.destination.django.token_file or self.data_dir / "secrets" / "web-token"

    @property
    def destinations(self) -> tuple[str, ...]:
        """Names of the enabled destinations."""
        pairs = (("django", self.destination.django), ("gcs", self.destination.gcs))
        return tuple(name for name, section in pairs if section.enabled)

    def bundle_dir(self, bundle: str) -> Path:
        """Return the folder of a bundle: a shipped one by its name, else a path."""
        shipped = SHIPPED_BUNDLES / bundle
        return shipped if (shipped / "bundle.toml").is_file() else Path(bundle).resolve()

    def sha256(self) -> str:
        """Return the digest of every setting, for the provenance of a result."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def find(path: Path | None) -> Path | None:
    """Return the settings file: ``path``, else ``LIMEN_CONFIG``, else ``./config.toml``."""
    if path is None and os.environ.get("LIMEN_CONFIG"):
        path = Path(os.environ["LIMEN_CONFIG"])
    if path is None:
        default = Path("config.toml")
        return default if default.is_file() else None
    if not path.is_file():
        raise ConfigError(f"settings file {path} does not exist; check --config or LIMEN_CONFIG")
    return path


def load(path: Path | None = None) -> Config:
    """Read the settings.

    Raises
    ------
    ConfigError
        With every fault, one a line: the key, what is wrong, what was given.
    """
    file = find(path)
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            tree = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{file} is not valid TOML: {exc}") from exc
    faults = _unknown_environment()
    try:
        config = Config(**tree)
    except ValidationError as exc:
        faults += [_fault(e) for e in exc.errors()]
    except ValueError as exc:  # an environment value that is not JSON where a list is wanted
        faults.append(str(exc))
    if faults:
        where = file or "the environment (no config.toml here)"
        raise ConfigError("\n  ".join([f"settings of {where} cannot be used:", *faults]))
    return _with_absolute_paths(config, (file.parent if file else Path()).resolve())


def _unknown_environment() -> list[str]:
    sections = {name.upper() for name in Config.model_fields}
    known = [n for n in os.environ if n.startswith(ENV_PREFIX) and "__" in n]
    return [
        f"{name}: no such section; sections are {', '.join(sorted(s.lower() for s in sections))}"
        for name in sorted(known)
        if name.removeprefix(ENV_PREFIX).split("__")[0] not in sections
    ]


def _fault(error: Any) -> str:
    key = ".".join(str(p) for p in error["loc"]) or "(settings)"
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key; check the spelling against config.toml"
    given = repr(error["input"])
    secret = "token" in key or "url" in key or "broker" in key or "://" in given
    shown = "" if secret or isinstance(error["input"], BaseModel | dict) else f" (got {given})"
    return f"{key}: {error['msg'].removeprefix('Value error, ')}{shown}"


def _with_absolute_paths(config: Config, base: Path) -> Config:
    """Resolve relative paths against the folder of the settings file."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else (base / path.expanduser()).resolve()

    django, gcs = config.destination.django, config.destination.gcs
    journal = config.journal.url
    if journal.startswith(_SQLITE):
        journal = f"{_SQLITE}{absolute(Path(journal.removeprefix(_SQLITE)))}"
    tls = config.scp.tls
    tls = tls.model_copy(
        update={
            "certificate_file": absolute(tls.certificate_file),
            "key_file": absolute(tls.key_file),
            "ca_file": absolute(tls.ca_file),
        }
    )
    bundles = tuple(
        r
        if (SHIPPED_BUNDLES / r.bundle / "bundle.toml").is_file()
        else r.model_copy(update={"bundle": str(absolute(Path(r.bundle)))})
        for r in config.route
    )
    return config.model_copy(
        update={
            "node": config.node.model_copy(update={"data_dir": absolute(config.node.data_dir)}),
            "scp": config.scp.model_copy(update={"tls": tls}),
            "journal": config.journal.model_copy(update={"url": journal}),
            "route": bundles,
            "web": config.web.model_copy(
                update={"secret_key_file": absolute(config.web.secret_key_file)}
            ),
            "destination": Destination(
                django=django.model_copy(update={"token_file": absolute(django.token_file)}),
                gcs=gcs.model_copy(
                    update={
                        "credentials_file": absolute(gcs.credentials_file),
                        "folder": absolute(gcs.folder),
                    }
                ),
            ),
        }
    )
