"""Tables of the results server.

``Report`` and ``RenderedImage`` hold what the nodes posted and never change.
``Study`` is the worklist: a summary of the latest revision, derived from the
reports in the transaction that stores them.
"""

from __future__ import annotations

import hashlib

from django.conf import settings
from django.db import models

__all__ = [
    "Bulletin",
    "ClientToken",
    "LoginAttempts",
    "LoginLink",
    "ModelVersion",
    "Node",
    "Note",
    "Order",
    "Outcome",
    "PacsDelivery",
    "Phase",
    "ReadMark",
    "TESTS",
    "RenderedImage",
    "Report",
    "Scope",
    "Study",
    "StudyView",
    "Verdict",
    "Vote",
    "study_key",
]


TESTS = "2.25.334140781245611686096192605257474960064."
"""How the UID of a study begins that a node has sent to itself (``limen.selftest``)."""


def study_key(study_uid: str) -> str:
    """Return the key of a study in addresses of pages: opaque, and the same for ever."""
    return hashlib.sha256(study_uid.encode()).hexdigest()[:32]


class Outcome(models.TextChoices):
    """What the node says of a study."""

    POSITIVE = "positive", "Positive"
    UNDETERMINED = "undetermined", "Undetermined"
    PARTIAL = "partial", "Partial"
    NOT_ANALYSED = "not_analysed", "Not analysed"
    NEGATIVE = "negative", "Negative"


class Phase(models.TextChoices):
    """Which half of the work a document reports."""

    PREDICTION = "prediction", "Predicted"
    EXPLANATION = "explanation", "Explained"


class Verdict(models.TextChoices):
    """What a reader thinks of a result."""

    AGREE = "agree", "Agree"
    DISAGREE = "disagree", "Disagree"
    UNSURE = "unsure", "Unsure"


class Node(models.Model):
    """A node that may post results. Its token is kept as a digest only."""

    name = models.CharField(max_length=64, unique=True)
    token_sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)


class Bulletin(models.Model):
    """How a receiver stands, as it told last: one row for each host.

    Attributes
    ----------
    alarms
        What is not well: kind, what it is about, text.
    awaited
        Studies that came and have no result that people can read (web/results/bulletins.py).
    awaited_total
        How many there are; ``awaited`` holds the newest of them.
    operations
        How the node stands (``web.results.operations``); empty where it is too old to tell.
    digest
        Of all that, so that a page knows whether it changed.
    """

    node = models.ForeignKey(Node, on_delete=models.CASCADE)
    host = models.CharField(max_length=255)
    alarms = models.JSONField()
    awaited = models.JSONField()
    awaited_total = models.PositiveIntegerField()
    operations = models.JSONField(default=dict)
    digest = models.CharField(max_length=64)
    told_at = models.DateTimeField()

    class Meta:
        """What is told takes the place of what was told."""

        constraints = [models.UniqueConstraint(fields=["node", "host"], name="bulletin_host")]


class Order(models.Model):
    """What somebody asked a receiver for, why, and what became of it; kept as the record of that.

    Attributes
    ----------
    done
        Whether it was done; None while the receiver has not answered.
    text
        What it says became of it.
    """

    class Action(models.TextChoices):
        """What may be asked for."""

        RETRY = "retry", "Retry"
        DISCARD = "discard", "Discard"

    node = models.ForeignKey(Node, on_delete=models.CASCADE)
    host = models.CharField(max_length=255)
    action = models.CharField(max_length=16, choices=Action)
    key = models.CharField(max_length=200)
    reason = models.TextField()
    who = models.CharField(max_length=150)
    asked_at = models.DateTimeField(db_index=True)
    done_at = models.DateTimeField(null=True)
    done = models.BooleanField(null=True)
    text = models.TextField(blank=True)

    class Meta:
        """Of the same work one thing is asked for at a time."""

        constraints = [
            models.UniqueConstraint(
                fields=["node", "host", "key"],
                condition=models.Q(done_at=None),
                name="order_one_at_a_time",
            )
        ]


class Scope(models.TextChoices):
    """What a token of a client may do; a node's token may post, and nothing else."""

    READ = "read", "read outcomes, results and images, with names"
    MASKED = "masked", "read outcomes and results without names, free text and images"
    METRICS = "metrics", "read the metrics"


class ClientToken(models.Model):
    """A token of a client that reads. It is kept as a digest only.

    Attributes
    ----------
    used_at
        When it was last good for a request, to the minute.
    """

    name = models.CharField(max_length=64, unique=True)
    token_sha256 = models.CharField(max_length=64, unique=True)
    scope = models.CharField(max_length=16, choices=Scope)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    used_at = models.DateTimeField(null=True)


class StudyView(models.Model):
    """Somebody was shown a study, or a list of studies.

    Attributes
    ----------
    study_key
        Which; empty for a list. Nothing else of the patient is here.
    who
        Name of the account or of the token.
    """

    class By(models.TextChoices):
        """What ``who`` names."""

        ACCOUNT = "account"
        TOKEN = "token"  # noqa: S105 - a word

    class What(models.TextChoices):
        """What was shown."""

        LIST = "list"
        PAGE = "page"
        RESULT = "result"
        IMAGES = "images"

    study_key = models.CharField(max_length=32, blank=True, db_index=True)
    who = models.CharField(max_length=150)
    by = models.CharField(max_length=8, choices=By)
    what = models.CharField(max_length=8, choices=What)
    at = models.DateTimeField(db_index=True)


class StudyQuerySet(models.QuerySet["Study"]):
    """Studies, and which of them are shown."""

    def shown(self, *, tests: bool = False) -> StudyQuerySet:
        """Return those of patients; or those that nodes have sent to themselves."""
        return self.filter(is_test=tests)


class Study(models.Model):
    """One row of the worklist: the latest revision of a study.

    Attributes
    ----------
    is_test
        Whether a node has sent it to itself.
    urgency
        Rank on the worklist, lowest first (``web.results.summary.urgency``).
    search
        What the search box looks in: accession, patient id and name (``web.results.names``).
    changed_at
        When anything that the worklist shows last changed.
    """

    key = models.CharField(max_length=32, unique=True)
    study_uid = models.CharField(max_length=64, unique=True)
    is_test = models.BooleanField(default=False)
    revision = models.PositiveIntegerField()
    phase = models.CharField(max_length=16, choices=Phase)
    outcome = models.CharField(max_length=16, choices=Outcome)
    reason = models.TextField(blank=True)
    urgency = models.PositiveSmallIntegerField()
    label = models.TextField(blank=True)
    probability = models.FloatField(null=True)
    positive_slices = models.PositiveIntegerField(null=True)
    analysed_slices = models.PositiveIntegerField(null=True)
    slices = models.PositiveIntegerField(null=True)
    patient_name = models.TextField(blank=True)
    patient_id = models.TextField(blank=True)
    accession = models.TextField(blank=True)
    modality = models.CharField(max_length=16, blank=True)
    description = models.TextField(blank=True)
    study_date = models.CharField(max_length=8, blank=True)
    study_time = models.CharField(max_length=16, blank=True)
    search = models.TextField(blank=True)
    received_at = models.DateTimeField()
    complete_at = models.DateTimeField()
    predicted_at = models.DateTimeField(null=True)
    explained_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(db_index=True)

    objects = StudyQuerySet.as_manager()

    class Meta:
        """Indexes of the worklist."""

        indexes = [
            models.Index(
                fields=["urgency", "received_at", "id"],
                condition=models.Q(is_test=False),
                name="worklist_order",
            ),
            models.Index(
                fields=["outcome", "urgency", "received_at", "id"],
                condition=models.Q(is_test=False),
                name="worklist_outcome",
            ),
            models.Index(
                fields=["modality", "phase", "outcome", "urgency"],
                condition=models.Q(is_test=False),
                name="worklist_kinds",
            ),
            models.Index(
                fields=["changed_at"], condition=models.Q(is_test=False), name="worklist_changed"
            ),
            models.Index(
                fields=["study_date"], condition=models.Q(is_test=False), name="worklist_date"
            ),
            models.Index(fields=["-received_at", "-id"], name="study_newest"),
        ]


class ReadMark(models.Model):
    """A reader has opened a study.

    Attributes
    ----------
    current
        Whether what was read is still the latest word: a new revision, or its explanation, makes
        the study unread again, and the mark remains as history.
    urgency, received_at
        Of the study, so that what somebody has read is found in the order of the worklist.
    """

    reader = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="marks")
    current = models.BooleanField()
    urgency = models.PositiveSmallIntegerField()
    received_at = models.DateTimeField()
    at = models.DateTimeField()

    class Meta:
        """One mark of each reader on a study; what is read, in the order of the worklist."""

        constraints = [models.UniqueConstraint(fields=["reader", "study"], name="read_mark_key")]
        indexes = [
            models.Index(
                fields=["reader", "urgency", "-received_at", "-study"],
                condition=models.Q(current=True),
                name="read_mark_order",
            ),
            models.Index(fields=["reader", "-at"], name="read_mark_latest"),
        ]


class PacsDelivery(models.Model):
    """How the results of one phase of a study revision stand in one PACS, as its node told last.

    It may be told before the result itself has arrived here, and of a study that never does.

    Attributes
    ----------
    objects_told
        Kind, state and reason of each DICOM object.
    """

    study_uid = models.CharField(max_length=64)
    revision = models.PositiveIntegerField()
    phase = models.CharField(max_length=16, choices=Phase)
    destination = models.CharField(max_length=40)
    state = models.CharField(max_length=16)
    reason = models.TextField(blank=True)
    objects_told = models.JSONField()
    told_at = models.DateTimeField(auto_now=True)

    class Meta:
        """One row for each delivery."""

        constraints = [
            models.UniqueConstraint(
                fields=["study_uid", "revision", "phase", "destination"], name="pacs_delivery_key"
            )
        ]


class Report(models.Model):
    """One result document, as it came: a study, a revision, a phase.

    Attributes
    ----------
    document
        The document as canonical JSON (UTF-8, sorted keys).
    digest
        SHA-256 over the document and its images: the same body has the same digest.
    dropped_at
        When its images were dropped because they were old (web/results/pictures.py).
    """

    study = models.ForeignKey(Study, on_delete=models.PROTECT, related_name="reports")
    revision = models.PositiveIntegerField()
    phase = models.CharField(max_length=16, choices=Phase)
    outcome = models.CharField(max_length=16, choices=Outcome)
    document = models.BinaryField()
    digest = models.CharField(max_length=64)
    node = models.ForeignKey(Node, on_delete=models.PROTECT)
    posted_at = models.DateTimeField(auto_now_add=True)
    dropped_at = models.DateTimeField(null=True)

    class Meta:
        """One document for each key; those with images by their age."""

        constraints = [
            models.UniqueConstraint(fields=["study", "revision", "phase"], name="report_key")
        ]
        indexes = [
            models.Index(
                fields=["posted_at"],
                condition=models.Q(dropped_at__isnull=True),
                name="report_with_images",
            )
        ]


class ModelVersion(models.Model):
    """A version of a model that results came from, and what its bundle said of it last.

    Attributes
    ----------
    results
        Predictions that came from it, of studies of patients.
    """

    name = models.TextField()
    version = models.TextField()
    sha256 = models.CharField(max_length=64)
    labels = models.JSONField(default=list)
    threshold = models.FloatField(null=True)
    intended_use = models.TextField(blank=True)
    training_data = models.TextField(blank=True)
    licence = models.TextField(blank=True)
    results = models.PositiveIntegerField(default=0)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        """One row of each: versions may share their weights, and differ in a threshold."""

        constraints = [
            models.UniqueConstraint(fields=["sha256", "version"], name="model_version_once")
        ]


class RenderedImage(models.Model):
    """One rendered slice or overlay; the bytes are in the media store, under their SHA-256."""

    class Kind(models.TextChoices):
        """What the image shows."""

        ORIGINAL = "original", "Slice"
        EXPLANATION = "explanation", "Overlay"

    report = models.ForeignKey(Report, on_delete=models.CASCADE, related_name="images")
    sop_uid = models.CharField(max_length=64)
    frame = models.PositiveIntegerField()
    # Which content of the SOP Instance UID: senders use one twice.
    copy = models.PositiveIntegerField(default=1)
    kind = models.CharField(max_length=16, choices=Kind)
    sha256 = models.CharField(max_length=64, db_index=True)
    media_type = models.CharField(max_length=16)
    columns = models.PositiveIntegerField()
    rows = models.PositiveIntegerField()

    class Meta:
        """One image of each kind for each frame of each content."""

        constraints = [
            models.UniqueConstraint(
                fields=["report", "sop_uid", "frame", "copy", "kind"], name="rendered_image_key"
            )
        ]


class Vote(models.Model):
    """What a reader thinks of a result. A later vote of the same reader keeps the earlier one.

    Attributes
    ----------
    note
        The note of the reader, as it was then.
    withdrawn_at
        When the reader took it back; None where a later vote took its place, or it counts.
    """

    study = models.ForeignKey(Study, on_delete=models.PROTECT, related_name="votes")
    revision = models.PositiveIntegerField()
    reader = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT)
    verdict = models.CharField(max_length=16, choices=Verdict)
    note = models.TextField(blank=True)
    current = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    withdrawn_at = models.DateTimeField(null=True)

    class Meta:
        """One vote of each reader counts for a revision; the others are history."""

        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["study", "revision", "reader"],
                condition=models.Q(current=True),
                name="vote_one_per_reader",
            )
        ]


class Note(models.Model):
    """What a reader writes about a study, whatever its revision; saved as it is typed.

    Attributes
    ----------
    version
        Goes up by one with each change, so that two windows do not overwrite each other.
    """

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="notes")
    reader = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT)
    text = models.TextField(blank=True)
    version = models.PositiveIntegerField()
    saved_at = models.DateTimeField()

    class Meta:
        """One note of each reader on a study."""

        constraints = [models.UniqueConstraint(fields=["study", "reader"], name="note_key")]


class LoginLink(models.Model):
    """A one-time login link. Its token is kept as a digest only."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    token_sha256 = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)


class LoginAttempts(models.Model):
    """Tries to log in to one account since it was last entered."""

    account_sha256 = models.CharField(max_length=64, unique=True)
    attempts = models.PositiveIntegerField(default=0)
    since = models.DateTimeField()
