"""Store a result: document and images in one transaction, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db import IntegrityError, transaction
from django.utils import timezone

from web.results import media, pictures, raster, reading, summary, versions
from web.results.document import Document, Fault, InvalidDocument
from web.results.models import TESTS, Node, Phase, RenderedImage, Report, Study, Vote, study_key

__all__ = ["Receipt", "ingest"]

_TESTS_KEPT = timedelta(days=7)
_TESTS_AT_ONCE = 100


class Receipt(Enum):
    """What became of a posted result."""

    CREATED = 201
    REPEATED = 200
    CONFLICT = 409


@dataclass(frozen=True, slots=True)
class _Part:
    """One image of the body, checked."""

    file: UploadedFile
    sha256: str
    raster: raster.Raster


def ingest(node: Node, document: Document, files: Mapping[str, UploadedFile]) -> Receipt:
    """Store a result; the same result again changes nothing.

    Raises
    ------
    InvalidDocument
        The images are not the ones that the document names, or are no images.
    """
    parts = _check_parts(document, files)
    digest = _digest(document, parts)
    known = _known(document)
    if known is not None:
        return Receipt.REPEATED if known == digest else Receipt.CONFLICT
    for part in parts.values():
        media.store(part.sha256, part.file.chunks())
    try:
        with transaction.atomic():
            _write(node, document, digest, parts)
            # Once more: the same bytes may have been dropped as old between the two.
            for part in parts.values():
                if not media.is_there(part.sha256):
                    media.store(part.sha256, part.file.chunks())
    except IntegrityError:
        # Another request stored this key since we looked.
        known = _known(document)
        if known is None:
            raise
        return Receipt.REPEATED if known == digest else Receipt.CONFLICT
    if document.key[0].startswith(TESTS):
        _forget_tests()
    pictures.drop_old()
    return Receipt.CREATED


def _forget_tests() -> None:
    """Delete what nodes sent to themselves long ago; its images are those of the next one too."""
    oldest = timezone.now() - _TESTS_KEPT
    with transaction.atomic():
        old = Study.objects.shown(tests=True).filter(created_at__lt=oldest)
        keys = list(old.select_for_update().values_list("pk", flat=True)[:_TESTS_AT_ONCE])
        for rows in (Report.objects, Vote.objects):
            rows.filter(study__in=keys).delete()
        Study.objects.filter(pk__in=keys).delete()


def _check_parts(document: Document, files: Mapping[str, UploadedFile]) -> dict[str, _Part]:
    named = document.file_names()
    faults = [
        Fault(path, "names a file that is not among the parts")
        for name, path in named.items()
        if name not in files
    ]
    unnamed = sum(1 for name in files if name not in named)
    if unnamed:
        faults.append(Fault("$.images", f"leaves {unnamed} parts of the body unnamed"))
    parts: dict[str, _Part] = {}
    for name, path in named.items():
        if name not in files:
            continue
        file = files[name]
        try:
            shape = raster.inspect(file.file, file.size or 0, settings.RESULT_MAX_PIXELS)
        except raster.NotAnImage as exc:
            faults.append(Fault(path, str(exc)))
            continue
        parts[name] = _Part(file, media.digest(file.chunks()), shape)
    if faults:
        raise InvalidDocument(faults)
    return parts


def _digest(document: Document, parts: Mapping[str, _Part]) -> str:
    lines = [document.sha256, *(f"{name} {parts[name].sha256}" for name in sorted(parts))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _known(document: Document) -> str | None:
    study_uid, revision, phase = document.key
    return (
        Report.objects.filter(study__study_uid=study_uid, revision=revision, phase=phase)
        .values_list("digest", flat=True)
        .first()
    )


def _write(node: Node, document: Document, digest: str, parts: Mapping[str, _Part]) -> None:
    study_uid, revision, phase = document.key
    row = summary.row(document.tree)
    study, created = Study.objects.select_for_update().get_or_create(
        study_uid=study_uid,
        defaults={"key": study_key(study_uid), "is_test": study_uid.startswith(TESTS), **row},
    )
    report = Report.objects.create(
        study=study,
        revision=revision,
        phase=phase,
        outcome=document.tree["outcome"],
        document=document.canonical,
        digest=digest,
        node=node,
    )
    if not study.is_test and report.phase == Phase.PREDICTION:
        versions.seen(document.tree["model"])
    RenderedImage.objects.bulk_create(
        RenderedImage(
            report=report,
            sop_uid=image["sop_uid"],
            frame=image["frame"],
            copy=image.get("copy", 1),
            kind=kind,
            sha256=parts[image[kind]].sha256,
            media_type=parts[image[kind]].raster.media_type,
            columns=parts[image[kind]].raster.columns,
            rows=parts[image[kind]].raster.rows,
        )
        for image in document.images
        for kind in RenderedImage.Kind.values
        if image.get(kind) is not None
    )
    if not created:
        # Phases and revisions may arrive in any order; the row shows the latest word.
        latest = summary.row(summary.document(summary.leading(study)))
        Study.objects.filter(pk=study.pk).update(**latest)
        if (latest["revision"], latest["phase"]) != (study.revision, study.phase):
            reading.outdate(study)
