"""The destinations that the settings ask for, by the name that their deliveries carry."""

from __future__ import annotations

from limen.config import Config, DicomwebDestination, PacsDestination
from limen.config import Hl7Destination as Hl7Settings
from limen.config import WebhookDestination as WebhookSettings
from limen.errors import ConfigError
from limen.journal import Objects
from limen.scu import Peer, Tls
from limen.webhook import Webhook
from worker.destinations import Destination
from worker.destinations.archive import Archive, ArchiveDestination
from worker.destinations.django import DjangoDestination
from worker.destinations.folder import FolderArchive
from worker.destinations.hl7 import Hl7Destination
from worker.destinations.mllp import Receiver
from worker.destinations.oru import Header, Template
from worker.destinations.pacs import PacsWay
from worker.destinations.sending import ObjectDestination
from worker.destinations.sequence import Sequence
from worker.destinations.webhook import WebhookDestination

__all__ = ["archive", "archive_destination", "destinations"]


def destinations(config: Config, journal: Objects) -> dict[str, Destination]:
    """Return the enabled destinations by name.

    Parameters
    ----------
    journal
        Where those that take DICOM objects or messages note how each stands.

    Raises
    ------
    ConfigError
        Settings of a destination contradict each other, or a template is not one.
    """
    made = {"django": _results_server, "archive": archive_destination}
    found = {name: make(config) for name, make in made.items() if name in config.destinations}
    for entry in config.destination.pacs:
        found[entry.name] = _pacs(config, entry, journal)
    for web in config.destination.dicomweb:
        found[web.name] = _dicomweb(web, journal)
    for hook in config.destination.webhook:
        found[hook.name] = _webhook(config, hook, journal)
    for ris in config.destination.hl7:
        found[ris.name] = _hl7(config, ris, journal)
    return found


def _pacs(config: Config, entry: PacsDestination, journal: Objects) -> Destination:
    tls = Tls(entry.ca_file, entry.certificate_file, entry.key_file) if entry.tls else None
    way = PacsWay(
        entry.name,
        Peer(entry.ae_title, entry.host, entry.port),
        entry.calling_ae_title or config.scp.ae_title,
        entry.timeout_s,
        tls,
    )
    return ObjectDestination(
        entry.name,
        way,
        journal,
        entry.objects,
        only_positive=entry.send == "positive",
        commitment=entry.commitment,
        reject_replaced=entry.reject_replaced,
    )


def _dicomweb(entry: DicomwebDestination, journal: Objects) -> Destination:
    from worker.destinations.dicomweb import DicomwebWay  # noqa: PLC0415 - only who asks pays

    way = DicomwebWay(
        entry.name,
        entry.url,
        entry.timeout_s,
        username=entry.username,
        password_file=entry.password_file,
        token_file=entry.token_file,
        ca_file=entry.ca_file,
    )
    return ObjectDestination(
        entry.name,
        way,
        journal,
        entry.objects,
        only_positive=entry.send == "positive",
        reject_replaced=entry.reject_replaced,
    )


def _webhook(config: Config, entry: WebhookSettings, journal: Objects) -> Destination:
    to = Webhook(entry.name, entry.url, entry.secret_file, entry.ca_file, entry.timeout_s)
    sequence = Sequence(entry.name, journal, only_positive=entry.send == "positive")
    return WebhookDestination(entry.name, config.node.name, to, sequence)


def _hl7(config: Config, entry: Hl7Settings, journal: Objects) -> Destination:
    receiver = Receiver(
        entry.name,
        entry.host,
        entry.port,
        entry.timeout_s,
        tls=entry.tls,
        ca_file=entry.ca_file,
        certificate_file=entry.certificate_file,
        key_file=entry.key_file,
    )
    header = Header(
        entry.sending_application,
        entry.sending_facility,
        entry.receiving_application,
        entry.receiving_facility,
        entry.processing_id,
    )
    sequence = Sequence(entry.name, journal, only_positive=entry.send == "positive")
    return Hl7Destination(receiver, header, Template(entry.template), sequence, config.node.name)


def _results_server(config: Config) -> Destination:
    settings = config.destination.django
    return DjangoDestination(
        config.django_url, config.token_file, settings.timeout_s, settings.ca_file
    )


def archive_destination(config: Config) -> ArchiveDestination:
    """Return the archive as a destination, which gives back what it was brought.

    Raises
    ------
    ConfigError
        The settings name a bucket and a folder.
    """
    kinds = [frozenset(entry.objects) for entry in config.object_destinations]
    originals = config.destination.archive.originals
    return ArchiveDestination(archive(config), originals=originals, kinds=kinds)


def archive(config: Config) -> Archive:
    """Return the archive that the settings name: a bucket or a folder.

    Raises
    ------
    ConfigError
        They name both.
    """
    settings = config.destination.archive
    if settings.bucket and settings.folder is not None:
        raise ConfigError("destination.archive: set bucket or folder, not both")
    if settings.bucket:
        from worker.destinations.bucket import BucketArchive  # noqa: PLC0415 - a second to import

        return BucketArchive(
            settings.bucket, settings.prefix, settings.credentials_file, settings.timeout_s
        )
    return FolderArchive(config.archive_dir)
