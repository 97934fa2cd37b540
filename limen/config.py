"""Typed settings: ``config.toml`` overlaid by ``LIMEN_*`` environment variables.

``[scp] port`` is overridden by ``LIMEN_SCP__PORT``. Every fault is reported at
once; an unknown key is a fault. Read once, at start; ``config.toml`` at the top
of the repository documents each key with its default and unit.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from limen import faults
from limen.errors import ConfigError
from limen.result import Phase
from limen.states import SHADOW_LANE
from limen.uids import is_uid

__all__ = ["Config", "load"]

# Not structlog: the settings say how to log, and until then standard error gets a plain line.
log = logging.getLogger("limen.config")

ENV_PREFIX = "LIMEN_"
# Where the settings are; that tests may skip nothing.
_NO_SETTINGS = frozenset({"LIMEN_CONFIG", "LIMEN_REQUIRE_SERVICES"})
_OLD_NAMES = {"LIMEN_DESTINATION__GCS": "LIMEN_DESTINATION__ARCHIVE"}
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


_S = TypeVar("_S", bound=_Section)


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
    """Where the state of every study is kept. ``url_file`` holds the URL, with its password."""

    url: str = Field("", pattern=r"^$|^sqlite:///.+|^postgresql(\+psycopg)?://.+")
    url_file: Path | None = None


_BROKER_PORTS: Final = {"amqp": 5672, "amqps": 5671}


class Queue(_Section):
    """Broker, retries and leases. ``broker_file`` holds the URL of the broker."""

    broker: str = Field("filesystem://", pattern=r"^(filesystem://$|amqps?://.+)")
    broker_file: Path | None = None
    prefix: str = Field("limen", pattern=r"^[a-z0-9][a-z0-9._-]{0,40}$")
    dispatch_s: Seconds = 0.5
    republish_s: Seconds = 60
    confirm_timeout_s: Seconds = 5
    lease_s: Seconds = 30
    max_attempts: Count = 3
    retry_base_s: Seconds = 2
    retry_max_s: Seconds = 900
    probe_s: Seconds = 15
    delivery_give_up_s: Annotated[float, Field(gt=0)] = 7 * 86400

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port of the broker; None: there is none, but a folder."""
        parts = urlsplit(self.broker)
        if parts.scheme == "filesystem":
            return None
        return parts.hostname or "localhost", parts.port or _BROKER_PORTS[parts.scheme]


WorkerLane = Literal["predict", "explain", "deliver"]
WORKER_LANES: Final[tuple[WorkerLane, ...]] = ("predict", "explain", "deliver")


class Worker(_Section):
    """Threads that work on jobs, and the children that decode.

    ``lanes`` is what a worker takes: predictions with the shadows beside them, explanations, and
    deliveries to every destination. ``source`` is where it finds instances and results: in the
    folders of the receiver's host, or in the archive, through ``cache_bytes`` of its own disk.
    """

    lanes: Annotated[tuple[WorkerLane, ...], Field(min_length=1)] = WORKER_LANES
    source: Literal["spool", "archive"] = "spool"
    cache_bytes: Annotated[int, Field(ge=256 << 20)] = 10 << 30
    predict_slots: Count = 4
    explain_slots: Count = 1
    deliver_slots: Count = 2
    decode_processes: Count = 2
    decode_timeout_s: Seconds = 20
    decode_memory_bytes: Annotated[int, Field(ge=256 << 20)] = 2 << 30
    max_pixels: Annotated[int, Field(ge=1)] = 64_000_000
    max_memory_bytes: Annotated[int, Field(ge=0)] = 8 << 30


class RemoteModels(_Section):
    """The server that runs the models of bundles that have no weights; none without ``url``.

    ``token_file`` goes before ``token``, which is for the environment: it is a password. A batch
    that takes two minutes hangs, and a server that comes back is looked at within one of them.
    """

    url: str = Field("", pattern=r"^$|^https?://[^/?#@]+$")
    token: SecretStr = SecretStr("")
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: Annotated[float, Field(gt=0, le=40)] = 30


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
    allow_code: bool = False
    remote: RemoteModels = RemoteModels()


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
    ca_file: Path | None = None
    timeout_s: Seconds = 30


class ArchiveDestination(_Section):
    """The archive: a bucket of Google Cloud Storage, or a local folder."""

    enabled: bool = True
    bucket: str = ""
    prefix: str = ""
    credentials_file: Path | None = None
    folder: Path | None = None
    originals: bool = True
    timeout_s: Seconds = 60


WebhookUrl = Annotated[str, Field(pattern=r"^https?://[^\s@]+$", max_length=2000)]
"""Without user and password: who we are is said by the signature."""
DestinationName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")]
ObjectKind = Literal["sr", "seg", "sc", "ko", "pm", "pr"]
"""Structured report, segmentation, secondary capture, key object selection, parametric map,
presentation state."""

_OBJECTS: tuple[ObjectKind, ...] = ("sr", "seg", "sc", "ko", "pm")


class _ObjectDestination(_Section):
    """What goes to a place that takes DICOM objects."""

    name: DestinationName
    objects: Annotated[tuple[ObjectKind, ...], Field(min_length=1)] = _OBJECTS
    send: Literal["all", "positive"] = "all"
    reject_replaced: bool = False
    ca_file: Path | None = None
    timeout_s: Seconds = 30


class PacsDestination(_ObjectDestination):
    """A PACS that results are sent to by C-STORE.

    ``commitment``: whether the PACS has to say that it keeps them (PS3.4 J); ``ask`` takes a PACS
    that does not answer at its word.
    """

    ae_title: AeTitle
    host: str = Field(min_length=1)
    port: Annotated[int, Field(ge=1, le=65535)] = 104
    calling_ae_title: AeTitle | None = None
    tls: bool = False
    certificate_file: Path | None = None
    key_file: Path | None = None
    commitment: Literal["required", "ask", "off"] = "ask"

    @model_validator(mode="after")
    def _files_of_tls_ask_for_tls(self) -> PacsDestination:
        if not self.tls and (self.ca_file or self.certificate_file or self.key_file):
            raise ValueError("ca_file, certificate_file and key_file are for tls = true; set it")
        if self.key_file and not self.certificate_file:
            raise ValueError("key_file is the key of certificate_file; name the certificate too")
        return self


class DicomwebDestination(_ObjectDestination):
    """A PACS that results are sent to by STOW-RS (PS3.18 10.5)."""

    url: str = Field(pattern=r"^https?://.+")
    username: str = ""
    password_file: Path | None = None
    token_file: Path | None = None

    @model_validator(mode="after")
    def _one_way_to_say_who_we_are(self) -> DicomwebDestination:
        if bool(self.username) != bool(self.password_file):
            raise ValueError("username and password_file belong together; set both or none")
        if self.username and self.token_file:
            raise ValueError("set username and password_file, or token_file, not all three")
        return self


class WebhookDestination(_Section):
    """Who is told what was found, by a signed POST."""

    name: DestinationName
    url: WebhookUrl
    secret_file: Path
    ca_file: Path | None = None
    send: Literal["all", "positive"] = "all"
    timeout_s: Seconds = 10

    @model_validator(mode="after")
    def _studies_are_not_named_on_an_open_wire(self) -> WebhookDestination:
        host = urlsplit(self.url).hostname or ""
        if self.url.startswith("http:") and not _is_loopback(host):
            raise ValueError(
                f"url is http, but {host} is another machine, and messages hold accession numbers; "
                "use https"
            )
        return self


Hl7Name = Annotated[str, Field(max_length=180, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Hl7Destination(_Section):
    """A RIS or worklist server that is told what was found by HL7 v2 (ORU^R01 over MLLP).

    ``sending_application`` to ``receiving_facility`` are MSH-3 to MSH-6, ``processing_id`` MSH-11.
    """

    name: DestinationName
    host: str = Field(min_length=1)
    port: Annotated[int, Field(ge=1, le=65535)] = 2575
    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    sending_application: Hl7Name = "LIMEN"
    sending_facility: Hl7Name = ""
    receiving_application: Hl7Name = ""
    receiving_facility: Hl7Name = ""
    processing_id: Literal["P", "T", "D"] = "P"
    template: Path | None = None
    send: Literal["all", "positive"] = "all"
    timeout_s: Seconds = 30

    @model_validator(mode="after")
    def _files_of_tls_ask_for_tls(self) -> Hl7Destination:
        if not self.tls and (self.ca_file or self.certificate_file or self.key_file):
            raise ValueError("ca_file, certificate_file and key_file are for tls = true; set it")
        if self.key_file and not self.certificate_file:
            raise ValueError("key_file is the key of certificate_file; name the certificate too")
        return self


class Destination(_Section):
    """Where results go."""

    django: DjangoDestination = DjangoDestination()
    archive: ArchiveDestination = ArchiveDestination()
    pacs: tuple[PacsDestination, ...] = ()
    dicomweb: tuple[DicomwebDestination, ...] = ()
    webhook: tuple[WebhookDestination, ...] = ()
    hl7: tuple[Hl7Destination, ...] = ()

    @property
    def named(
        self,
    ) -> tuple[PacsDestination | DicomwebDestination | WebhookDestination | Hl7Destination, ...]:
        """Those that the settings name."""
        return (*self.pacs, *self.dicomweb, *self.webhook, *self.hl7)

    @model_validator(mode="after")
    def _a_name_is_given_once(self) -> Destination:
        taken = {"django", "archive", "prediction", "explanation", "shadow"}
        for entry in self.named:
            if entry.name in taken:
                raise ValueError(
                    f"the name {entry.name} is given twice, or is one that Limen uses itself; each "
                    "[[destination.pacs]], [[destination.dicomweb]], [[destination.webhook]] and "
                    "[[destination.hl7]] needs its own"
                )
            taken.add(entry.name)
        return self

    @model_validator(mode="before")
    @classmethod
    def _the_old_name_of_the_archive(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or "gcs" not in tree:
            return tree
        old, new = "[destination.gcs]", "[destination.archive]"
        variable = f"{ENV_PREFIX}DESTINATION__ARCHIVE__<KEY>"
        if "archive" in tree:
            raise ValueError(
                f"{old} is the old name of {new}, and both are set; keep {new} ({variable}) only"
            )
        log.warning("settings: %s is the old name of %s (%s); rename it", old, new, variable)
        return {("archive" if key == "gcs" else key): section for key, section in tree.items()}


class Web(_Section):
    """The results server; it reads the same ``LIMEN_WEB__*`` variables itself.

    ``database_url_file`` holds the URL of its database, with its password.
    """

    host: str = "127.0.0.1"
    port: Port = 8642
    public_url: str = Field("", pattern=r"^$|^https?://.+")
    viewer_url: str = Field("", pattern=r"^$|^https?://[^\s]*\{study_uid\}[^\s]*$")
    database_url: str = ""
    database_url_file: Path | None = None
    secret_key_file: Path | None = None


Days = Annotated[float, Field(ge=0, le=36500)]


class Retention(_Section):
    """How long the node keeps what it has delivered; 0 days are for ever.

    ``days`` is for the instances in the spool and the result files of a study, ``archive_days``
    for its archive where that is a folder, ``aside_days`` for files that were set aside, and
    ``event_days`` for what `limen trace` tells of attempts and associations, ``row_days`` for the
    rows of instances and work in the journal, after a study was purged, and
    ``picture_days`` for the pictures in the results server: results stay there for ever.
    ``max_bytes`` bounds the instances in the spool, and ``free_bytes`` is what is kept free on the
    disk: the oldest studies go first, and before their time. 0 stands for no bound, and for twice
    ``scp.min_free_bytes``.
    """

    days: Days = 30
    archive_days: Days = 365
    aside_days: Days = 90
    event_days: Days = 1095
    row_days: Days = 0
    picture_days: Days = 365
    max_bytes: Annotated[int, Field(ge=0)] = 0
    free_bytes: Annotated[int, Field(ge=0)] = 0


class Audit(_Section):
    """The audit trail (PS3.15 A.5): a syslog collector, by TLS; off while ``host`` is empty.

    ``source_id`` is who sends, ``node.name`` by default; ``site_id`` the hospital.
    """

    host: str = ""
    port: Annotated[int, Field(ge=1, le=65535)] = 6514
    tls: bool = True
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    source_id: str = Field("", max_length=48)
    site_id: str = Field("", max_length=64)
    max_waiting: Count = 50_000
    timeout_s: Seconds = 10

    @model_validator(mode="after")
    def _patients_are_not_named_on_an_open_wire(self) -> Audit:
        if self.host and not self.tls and not _is_loopback(self.host):
            raise ValueError(
                f"tls is false, but {self.host} is another machine, and audit messages hold "
                "patient IDs; set tls = true"
            )
        if self.key_file and not self.certificate_file:
            raise ValueError("key_file is set, but certificate_file is not; set both")
        return self


class Alarm(_Section):
    """Who is told of alarms: a webhook, once when one is raised and once when it is cleared.

    One is raised when it has lasted for ``after_s``, and cleared when it has been gone as long.
    """

    webhook: WebhookUrl | Literal[""] = ""
    secret_file: Path | None = None
    ca_file: Path | None = None
    after_s: Annotated[float, Field(ge=0, le=3600)] = 30
    timeout_s: Seconds = 10

    @model_validator(mode="after")
    def _what_is_told_is_signed(self) -> Alarm:
        if self.webhook and self.secret_file is None:
            raise ValueError(
                "webhook is set, but secret_file is not; name a file with the secret that "
                "messages are signed with (docs/notify.md)"
            )
        return self


class Qa(_Section):
    """What a test study of ``limen qa`` may differ in from those before.

    It is slow above ``latency_factor`` times the median of the last ``compare_runs``, and at least
    ``latency_slack_s`` above it.
    """

    timeout_s: Seconds = 120
    compare_runs: Annotated[int, Field(ge=1, le=500)] = 20
    latency_factor: Annotated[float, Field(ge=1, le=100)] = 3
    latency_slack_s: Seconds = 5
    probability_tolerance: Annotated[float, Field(ge=0, le=1)] = 0.02


class Metrics(_Section):
    """Where Prometheus reads the metrics of each process; a port of 0 is closed."""

    host: str = "127.0.0.1"
    scp_port: Port = 0
    worker_port: Port = 0


class Log(_Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json", "journald"] = "text"


EXPLAIN_ROUND: Final = 32
"""Perturbed images that an explanation asks for at once (``worker.lime.explain.ROUND``)."""


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
    retention: Retention = Retention()
    audit: Audit = Audit()
    alarm: Alarm = Alarm()
    qa: Qa = Qa()
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
        if shadows and not self.destination.archive.enabled:
            raise ValueError(
                f"route {', '.join(shadows)} is a shadow, and the results of a shadow go to the "
                "archive only; set destination.archive.enabled = true, or remove the route"
            )
        return self

    @model_validator(mode="after")
    def _a_source_can_be_read(self) -> Config:
        archive = self.destination.archive
        if not self.originals_first:
            return self
        if not (archive.enabled and archive.originals):
            raise ValueError(
                'worker.source = "archive", but nothing is archived that a worker could work on; '
                "set destination.archive.enabled = true and destination.archive.originals = true"
            )
        if set(self.worker.lanes) != set(WORKER_LANES) and self.has_own_archive:
            raise ValueError(
                'worker.source = "archive", and worker.lanes leaves some lanes to other hosts, but '
                "the archive is a folder of this host alone; set destination.archive.bucket, or "
                "destination.archive.folder to one that every host has mounted"
            )
        return self

    @model_validator(mode="after")
    def _every_slot_finds_room_before_the_model(self) -> Config:
        """A lane that is full costs a job an attempt: that must not come of a slow model."""
        slots = self.worker.predict_slots + self.worker.explain_slots + self.worker.deliver_slots
        least = 2 * max(self.engine.max_batch, EXPLAIN_ROUND) * slots
        if self.engine.max_queue < least:
            raise ValueError(
                f"engine.max_queue = {self.engine.max_queue} is less than the {least} that "
                f"{slots} slots of [worker] ask for, two batches each; raise it, or set fewer"
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
    def free_bytes(self) -> int:
        """What retention keeps free on the disk of the spool."""
        return self.retention.free_bytes or 2 * self.scp.min_free_bytes

    @property
    def results_dir(self) -> Path:
        """Folder of the result files."""
        return self.data_dir / "results"

    @property
    def shelf_dir(self) -> Path:
        """Folder of rows of the journal that were put away."""
        return self.data_dir / "journal-shelf"

    @property
    def cache_dir(self) -> Path:
        """Folder of what was fetched from the archive to be worked on."""
        return self.data_dir / "cache"

    @property
    def originals_first(self) -> bool:
        """Whether a study is predicted only when its instances are in the archive."""
        return self.worker.source == "archive"

    @property
    def has_own_archive(self) -> bool:
        """Whether the archive is a folder that only this host has."""
        archive = self.destination.archive
        return not archive.bucket and archive.folder is None

    @property
    def audit_dir(self) -> Path:
        """Folder of audit messages that wait for the collector."""
        return self.data_dir / "audit"

    @property
    def journal_url(self) -> str:
        """SQLAlchemy URL of the journal."""
        if not self.journal.url:
            return f"sqlite:///{self.data_dir / 'journal.db'}"
        return self.journal.url.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def archive_dir(self) -> Path:
        """Folder of the archive when no bucket is configured."""
        return self.destination.archive.folder or self.data_dir / "archive"

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
        places = self.destination
        pairs = (("django", places.django), ("archive", places.archive))
        enabled = [name for name, section in pairs if section.enabled]
        return (*enabled, *(entry.name for entry in self.destination.named))

    @property
    def lanes(self) -> tuple[str, ...]:
        """Lanes of work: the phases of a study, shadows where a route is one, destinations."""
        shadows = [SHADOW_LANE] if any(route.shadow for route in self.route) else []
        return (*(phase.value for phase in Phase), *shadows, *self.destinations)

    @property
    def is_beside_receiver(self) -> bool:
        """Whether the settings are of the receiver's host, from which deliveries go too."""
        return "deliver" in self.worker.lanes

    @property
    def object_destinations(self) -> tuple[PacsDestination | DicomwebDestination, ...]:
        """Destinations that take DICOM objects."""
        return (*self.destination.pacs, *self.destination.dicomweb)

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
    text = ""
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            text = file.read_text("utf-8")
            tree = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{file} is not valid TOML: {exc}") from exc
        except OSError as exc:
            raise ConfigError(f"{file} cannot be read ({exc.strerror}); check who owns it") from exc
    unknown = faults.of_environment(os.environ, Config, ENV_PREFIX, _NO_SETTINGS, _OLD_NAMES)
    found = [f"{name}: {fault}" for name, fault in unknown.items()]
    try:
        config = Config(**tree)
    except ValidationError as exc:
        told = {_variable(name) for name in unknown}
        for error in exc.errors():
            by_variable = _is_said_by_a_variable(error["loc"])
            if _variable("__".join(map(str, error["loc"]))) not in told:
                found.append(faults.of_setting(error, Config, tree, text, by_variable))
    except ValueError as exc:
        if not unknown:
            raise ConfigError(f"a variable {ENV_PREFIX}... cannot be used: {exc}") from exc
    if found:
        where = file or "the environment (no config.toml here)"
        raise ConfigError("\n  ".join([f"settings of {where} cannot be used:", *found]))
    return _with_secrets(_with_absolute_paths(config, (file.parent if file else Path()).resolve()))


def _variable(name: str) -> str:
    """Return the words of a variable, or of a key, as they are compared."""
    name = name.upper()
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new, 1)
    return name.removeprefix(ENV_PREFIX)


def _is_said_by_a_variable(path: tuple[str | int, ...]) -> bool:
    """Return whether a variable sets a key, or a section that it is in."""
    given = {_variable(name) for name in os.environ if name.upper().startswith(ENV_PREFIX)}
    words = [str(part).upper() for part in path]
    return any("__".join(words[:n]) in given for n in range(1, len(words) + 1))


def _absolute_files(section: _S, absolute: Callable[[Path | None], Path | None]) -> _S:
    """Return a section with each path in it made absolute."""
    paths = {k: absolute(v) for k, v in section if isinstance(v, Path)}
    return section.model_copy(update=paths)


def _with_absolute_paths(config: Config, base: Path) -> Config:
    """Resolve relative paths against the folder of the settings file."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else (base / path.expanduser()).resolve()

    journal = config.journal.url
    if journal.startswith(_SQLITE):
        journal = f"{_SQLITE}{absolute(Path(journal.removeprefix(_SQLITE)))}"
    tls = _absolute_files(config.scp.tls, absolute)
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
            "journal": _absolute_files(config.journal, absolute).model_copy(
                update={"url": journal}
            ),
            "queue": _absolute_files(config.queue, absolute),
            "engine": config.engine.model_copy(
                update={"remote": _absolute_files(config.engine.remote, absolute)}
            ),
            "route": bundles,
            "web": _absolute_files(config.web, absolute),
            "audit": _absolute_files(config.audit, absolute),
            "alarm": _absolute_files(config.alarm, absolute),
            "destination": Destination(
                django=_absolute_files(config.destination.django, absolute),
                archive=_absolute_files(config.destination.archive, absolute),
                pacs=tuple(_absolute_files(p, absolute) for p in config.destination.pacs),
                dicomweb=tuple(_absolute_files(d, absolute) for d in config.destination.dicomweb),
                webhook=tuple(_absolute_files(w, absolute) for w in config.destination.webhook),
                hl7=tuple(_absolute_files(h, absolute) for h in config.destination.hl7),
            ),
        }
    )


def _with_secrets(config: Config) -> Config:
    """Read the URLs that stand in files of their own; one that is set itself goes first."""
    return config.model_copy(
        update={
            "journal": _with_secret(config.journal, "journal", "url"),
            "queue": _with_secret(config.queue, "queue", "broker"),
            "web": _with_secret(config.web, "web", "database_url"),
        }
    )


def _with_secret(section: _S, name: str, key: str) -> _S:
    """Return a section with ``key`` as its file says, where ``<key>_file`` names one.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds no URL of that kind. What it holds is not repeated.
    """
    file: Path | None = getattr(section, f"{key}_file")
    given = getattr(section, key)
    if file is None or given not in {"", "filesystem://"}:
        return section
    where = f"{name}.{key}_file"
    try:
        value = file.read_text("utf-8").strip()
    except OSError as exc:
        why = f"{file} cannot be read ({exc.strerror}); check that it is there, and whose it is"
        raise ConfigError(f"{where}: {why}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{where}: {file} is no text") from exc
    try:
        read = type(section).model_validate({key: value})
    except ValidationError:
        read = None
    if not value or read is None:
        raise ConfigError(
            f"{where}: {file} does not hold what {name}.{key} may be; put one URL into it, "
            "and nothing else"
        )
    return section.model_copy(update={key: value})
