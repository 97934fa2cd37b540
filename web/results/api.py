"""The API: nodes post results; scripts and sessions read them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, TooManyFieldsSent, TooManyFilesSent
from django.core.files.uploadedfile import UploadedFile
from django.db import OperationalError
from django.db.models import QuerySet
from django.http import Http404, HttpResponse, UnreadablePostError
from django.shortcuts import get_object_or_404
from django.urls import reverse
from drf_spectacular.utils import (
    OpenApiParameter,
    OpenApiResponse,
    OpenApiTypes,
    extend_schema,
)
from rest_framework import exceptions, serializers
from rest_framework.decorators import api_view, parser_classes, permission_classes
from rest_framework.parsers import FormParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from web.results import asked, filters, masking, metrics, notes, operations, pacs, summary, trail
from web.results import feedback as votes
from web.results.bulletins import BulletinSerializer, tell
from web.results.document import Document, Fault, InvalidDocument, read
from web.results.ingest import Receipt, ingest
from web.results.models import Outcome, RenderedImage, Study, StudyView, Verdict, Vote
from web.results.pacs import PacsDeliverySerializer
from web.results.pages import image_response
from web.results.parsers import BoundedJSONParser
from web.results.tokens import IsNode, IsReader, MayReadNames, MayReadOutcomes, is_masked

__all__ = [
    "bulletins",
    "deliveries",
    "feedback",
    "image",
    "results",
    "studies",
    "study",
]

LOG = logging.getLogger(__name__)
RESULT_PART = "result"
REVALIDATE = "private, no-cache"
_FILTERS = ("outcome", "modality", "tests", "q")
_SWITCH = ("0", "1")
_MODALITY_LENGTH = 16
_PAGE, _LARGEST_PAGE = 50, 500


def _number(most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 1, "maximum": most}


def _text(most: int) -> dict[str, Any]:
    # No control characters.
    return {"type": "string", "minLength": 1, "maxLength": most, "pattern": r"^[^\u0000-\u001f]*$"}


class StudySerializer(serializers.ModelSerializer):
    """The latest revision of a study, in one line."""

    page = serializers.SerializerMethodField()

    class Meta:
        """Everything the worklist shows."""

        model = Study
        fields = (
            "study_uid", "key", "page", "revision", "phase", "outcome", "reason", "label",
            "probability", "positive_slices", "analysed_slices", "slices", "patient_name",
            "patient_id", "accession", "modality", "description", "study_date", "study_time",
            "received_at", "complete_at", "predicted_at", "explained_at", "changed_at",
        )  # fmt: skip

    def get_page(self, study: Study) -> str:
        """Address of the page that shows the study."""
        return settings.PUBLIC_URL + reverse("study", args=[study.key])


class VoteSerializer(serializers.ModelSerializer):
    """A vote of a reader."""

    reader = serializers.CharField(source="reader.username", read_only=True)

    class Meta:
        """A vote, and whether it still counts."""

        model = Vote
        fields = ("reader", "revision", "verdict", "note", "current", "created_at")
        read_only_fields = ("current", "created_at")


class VoteInputSerializer(serializers.Serializer):
    """What a reader sends."""

    verdict = serializers.ChoiceField(choices=Verdict.choices)
    note = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=notes.LENGTH,
        help_text="Takes the place of the reader's note.",
    )
    revision = serializers.IntegerField(required=False, min_value=1, max_value=2**31 - 1)


class StudyPageSerializer(serializers.Serializer):
    """A page of studies, or of what changed."""

    count = serializers.IntegerField(required=False, help_text="Of all pages; not of changes.")
    next = serializers.URLField(
        allow_null=True,
        help_text="What follows. Of changes it is always there: what has yet to change follows.",
    )
    previous = serializers.URLField(required=False, allow_null=True)
    more = serializers.BooleanField(
        required=False, help_text="Of changes only: whether more are there already."
    )
    results = StudySerializer(many=True)


class StudyDetailSerializer(StudySerializer):
    """A study with its documents and votes."""

    revisions = serializers.ListField(child=serializers.IntegerField())
    documents = serializers.DictField(help_text="Result documents of the revision, by phase.")
    feedback = VoteSerializer(many=True)

    class Meta(StudySerializer.Meta):
        """The summary, and what it is derived from."""

        fields = (*StudySerializer.Meta.fields, "revisions", "documents", "feedback")


class ReceiptSerializer(serializers.Serializer):
    """What became of a posted result."""

    status = serializers.ChoiceField(choices=[r.name.lower() for r in Receipt])
    study_uid = serializers.CharField()
    revision = serializers.IntegerField()
    phase = serializers.CharField()
    page = serializers.CharField(help_text="Address of the page that shows the study.")


class FaultSerializer(serializers.Serializer):
    """One fault of a document."""

    path = serializers.CharField(help_text="JSON path of what is wrong.")
    message = serializers.CharField()


class FaultsSerializer(serializers.Serializer):
    """Why a result was not taken."""

    errors = FaultSerializer(many=True)


@extend_schema(
    summary="Post a result",
    description="One part named `result` with the result document (JSON), and one part for each "
    "image that it names; the name of the part is the file name in the document.",
    request={"multipart/form-data": {
        "type": "object",
        "properties": {RESULT_PART: {"type": "string", "description": "The document, JSON."}},
        "additionalProperties": {"type": "string", "format": "binary"},
        "required": [RESULT_PART],
    }},
    responses={
        201: ReceiptSerializer, 200: ReceiptSerializer, 409: ReceiptSerializer,
        408: OpenApiTypes.OBJECT, 422: FaultsSerializer, 503: OpenApiTypes.OBJECT,
    },
)  # fmt: skip
@api_view(["POST"])
@parser_classes([MultiPartParser])
@permission_classes([IsNode])
def results(request: Request) -> Response:
    """Store a result document and its images, or nothing of them."""
    response = _store(request)
    metrics.RESULTS.labels(str(response.status_code)).inc()
    return response


def _store(request: Request) -> Response:
    try:
        document, images = _parts(request.data, request.FILES)
        receipt = ingest(request.user.node, document, images)
    except InvalidDocument as exc:
        faults = [{"path": f.path, "message": f.message} for f in exc.faults]
        return Response({"errors": faults}, status=422)
    except (RequestDataTooBig, TooManyFilesSent, TooManyFieldsSent) as exc:
        return Response({"detail": f"too large: {type(exc).__name__}"}, status=413)
    except UnreadablePostError:
        # Nothing is wrong with the document: the node comes again.
        return Response({"detail": "the body ended early, or came too slowly"}, status=408)
    except (OperationalError, OSError) as exc:
        # No room, or the database is away: the node keeps the result and comes again.
        LOG.exception("result.not_stored", extra={"id": getattr(request, "error_id", None)})
        detail = f"cannot store now: {type(exc).__name__}"
        return Response({"detail": detail}, status=503, headers={"Retry-After": "30"})
    return _receipt(document, receipt)


def _parts(fields: Any, files: Any) -> tuple[Document, Mapping[str, UploadedFile]]:
    images = {name: files[name] for name in files if name != RESULT_PART}
    faults = [
        Fault("$.images", "has a file that the body brings twice")
        for name in files
        if len(files.getlist(name)) > 1
    ]
    texts = [name for name in fields if name not in files and name != RESULT_PART]
    if texts:
        faults.append(Fault("$.images", f"{len(texts)} parts have no file name"))
    if RESULT_PART in files:
        part = files[RESULT_PART]
        if part.size > settings.RESULT_MAX_DOCUMENT_BYTES:
            faults.append(Fault("$", f"has over {settings.RESULT_MAX_DOCUMENT_BYTES} bytes"))
        body = b"" if faults else part.read()
    else:
        body = fields.get(RESULT_PART, "").encode("utf-8", "surrogatepass")
        if not body:
            faults.append(Fault("$", f"the part {RESULT_PART} is missing"))
    if faults:
        raise InvalidDocument(faults)
    return read(body), images


def _receipt(document: Document, receipt: Receipt) -> Response:
    study_uid, revision, phase = document.key
    key = Study.objects.values_list("key", flat=True).get(study_uid=study_uid)
    return Response(
        {
            "status": receipt.name.lower(),
            "study_uid": study_uid,
            "revision": revision,
            "phase": phase,
            "page": settings.PUBLIC_URL + reverse("study", args=[key]),
        },
        status=receipt.value,
    )


@extend_schema(
    summary="Tell how a delivery to a PACS stands",
    description="In place of what was told of the same delivery before.",
    request=PacsDeliverySerializer,
    responses={200: PacsDeliverySerializer, 422: OpenApiTypes.OBJECT, 503: OpenApiTypes.OBJECT},
)
@api_view(["POST"])
@parser_classes([BoundedJSONParser])
@permission_classes([IsNode])
def deliveries(request: Request) -> Response:
    """Keep what a node says of one of its deliveries."""
    given = PacsDeliverySerializer(data=request.data)
    if not given.is_valid():
        return Response({"errors": given.errors}, status=422)
    try:
        pacs.tell(given.validated_data)
    except OperationalError as exc:
        detail = f"cannot store now: {type(exc).__name__}"
        return Response({"detail": detail}, status=503, headers={"Retry-After": "30"})
    return Response(given.data)


@extend_schema(
    summary="Tell which studies have no result yet, and what is not well",
    description="In place of what the same host told before. The answer holds `orders`: what "
    "somebody asked for of dead work.",
    request=BulletinSerializer,
    responses={200: operations.ReplySerializer, 422: OpenApiTypes.OBJECT, 503: OpenApiTypes.OBJECT},
)
@api_view(["POST"])
@parser_classes([BoundedJSONParser])
@permission_classes([IsNode])
def bulletins(request: Request) -> Response:
    """Keep what a receiver tells of itself."""
    given = BulletinSerializer(data=request.data)
    if not given.is_valid():
        return Response({"errors": given.errors}, status=422)
    try:
        node, host = request.user.node, given.data["host"]
        tell(node, given.data)
        operations.answered(node, host, given.data.get("answers", []))
        orders = operations.waiting(node, host)
    except OperationalError as exc:
        detail = f"cannot store now: {type(exc).__name__}"
        return Response({"detail": detail}, status=503, headers={"Retry-After": "30"})
    return Response(operations.ReplySerializer({"status": "ok", "orders": orders}).data)


@extend_schema(
    operation_id="api_v1_studies_list",
    summary="List studies, newest first; or those that changed, in the order in which they did",
    description="An unknown name or value is refused with 400. Who asks with `changed_since` "
    "follows `next` for ever: it misses no change, and has a study again that changed again. A "
    "change is told five seconds later.",
    parameters=[
        OpenApiParameter("outcome", str, enum=Outcome.values),
        OpenApiParameter("modality", _text(_MODALITY_LENGTH), description="As DICOM has it."),
        OpenApiParameter(
            "tests", str, enum=_SWITCH, description="1: studies that nodes sent to themselves."
        ),
        OpenApiParameter(
            "q", _text(asked.TEXT_LENGTH), description="Words of accession, patient id or name."
        ),
        OpenApiParameter(
            "changed_since", OpenApiTypes.DATETIME, description="RFC 3339, with a zone."
        ),
        OpenApiParameter(
            "cursor",
            {"type": "string", "pattern": asked.CURSOR},
            description="Of `next`; goes on alone, without changed_since.",
        ),
        OpenApiParameter("page", _number(asked.MOST), description="Not with changes."),
        OpenApiParameter("page_size", _number(_LARGEST_PAGE), default=_PAGE),
    ],
    responses={
        200: StudyPageSerializer,
        404: OpenApiResponse(OpenApiTypes.OBJECT, "There is no such page."),
    },
)
@api_view(["GET", "HEAD"])
@permission_classes([MayReadOutcomes])
def studies(request: Request) -> Response:
    """Return a page of studies."""
    asked.known(request, *_FILTERS, "changed_since", "cursor", "page", "page_size")
    if is_masked(request) and request.query_params.get("q"):
        raise exceptions.PermissionDenied(
            "this token has the scope masked, or this account sees no patients; "
            "who may not read names may not search them"
        )
    tests = asked.one_of(request, "tests", _SWITCH) == "1"
    exact = {
        "outcome": asked.one_of(request, "outcome", Outcome.values),
        "modality": asked.text(request, "modality", _MODALITY_LENGTH),
    }
    rows = Study.objects.shown(tests=tests).filter(filters.search(asked.text(request, "q")))
    rows = rows.filter(**{name: value for name, value in exact.items() if value})
    size = asked.number(request, "page_size", _PAGE, _LARGEST_PAGE)
    place = asked.Changes.asked(request)
    trail.viewed(request, None, StudyView.What.LIST)
    if place is not None:
        found, more, after = place.page(rows, size)
        shown = _shown(request, found)
        following = _address(request, cursor=str(after))
        return Response({"next": following, "more": more, "results": shown})
    return _numbered(request, rows, asked.number(request, "page", 1), size)


def _numbered(request: Request, rows: QuerySet[Study], number: int, size: int) -> Response:
    """Return a page by its number, the newest first."""
    count = rows.count()
    last = max(1, -(-count // size))
    if number > last:
        raise exceptions.NotFound(f"there is no page {number}; the last is {last}")
    found = rows.order_by("-received_at", "-id")[(number - 1) * size : number * size]
    return Response({
        "count": count,
        "next": _address(request, page=number + 1) if number < last else None,
        "previous": _address(request, page=number - 1) if number > 1 else None,
        "results": _shown(request, found),
    })  # fmt: skip


def _shown(request: Request, found: Iterable[Study]) -> list[dict[str, Any]]:
    rows = StudySerializer(found, many=True).data
    return [masking.row(one) for one in rows] if is_masked(request) else list(rows)


def _address(request: Request, **place: str | int) -> str:
    """Return the address of another place in what is asked for: the same filters."""
    words = {k: v for k, v in request.query_params.items() if k in (*_FILTERS, "page_size")}
    return f"{settings.PUBLIC_URL}{reverse('api-studies')}?{urlencode({**words, **place})}"


@extend_schema(
    summary="Read a study",
    parameters=[
        OpenApiParameter("revision", _number(asked.MOST), description="The latest, unless given.")
    ],
    responses=StudyDetailSerializer,
)
@api_view(["GET", "HEAD"])
@permission_classes([MayReadOutcomes])
def study(request: Request, uid: str) -> Response:
    """Return a study with the result documents of one revision."""
    asked.known(request, "revision")
    row = get_object_or_404(Study, study_uid=uid)
    number = asked.number(request, "revision", row.revision)
    reports = list(row.reports.filter(revision=number))
    if not reports:
        raise Http404
    every = row.reports.order_by("-revision").values_list("revision", flat=True).distinct()
    feedback_rows = row.votes.filter(revision=number).select_related("reader")
    trail.viewed(request, row, StudyView.What.RESULT)
    shown = {
        **StudySerializer(row).data,
        "revisions": list(every),
        "documents": {r.phase: summary.document(r) for r in reports},
        "feedback": VoteSerializer(feedback_rows, many=True).data,
    }
    return Response(masking.detail(shown) if is_masked(request) else shown)


@extend_schema(
    summary="Read a rendered slice or an overlay",
    description="Where the `unit` of a slice (`original`) in the document is HU, it is 16-bit "
    "grey, HU + 1024, in lossless JPEG-LS (ITU-T T.87; a PNG from older nodes); else a picture of "
    "8 bits. An overlay (`explanation`) is an RGBA PNG.",
    parameters=[
        OpenApiParameter("frame", _number(asked.MOST), default=1),
        OpenApiParameter(
            "copy",
            _number(asked.MOST),
            description="Which content of the SOP Instance UID.",
            default=1,
        ),
    ],
    responses={
        (200, kind): OpenApiTypes.BINARY for kind in ("image/jls", "image/png", "image/jpeg")
    },
)
@api_view(["GET", "HEAD"])
@permission_classes([MayReadNames])
def image(request: Request, uid: str, sop_uid: str, kind: str) -> HttpResponse:
    """Return an image of the latest revision."""
    asked.known(request, "frame", "copy")
    row = get_object_or_404(Study, study_uid=uid)
    rows = RenderedImage.objects.filter(
        report__study=row,
        report__revision=row.revision,
        sop_uid=sop_uid,
        frame=asked.number(request, "frame", 1),
        copy=asked.number(request, "copy", 1),
        kind=kind,
    )
    trail.viewed(request, row, StudyView.What.IMAGES)
    # "explanation" sorts before "prediction": the later phase speaks.
    return image_response(rows.order_by("report__phase").first(), REVALIDATE)


@extend_schema(summary="Vote on a result", request=VoteInputSerializer,
               responses={201: VoteSerializer, 409: OpenApiTypes.OBJECT,
                          422: OpenApiTypes.OBJECT})  # fmt: skip
@api_view(["POST"])
@parser_classes([BoundedJSONParser, FormParser])
@permission_classes([IsReader])
def feedback(request: Request, uid: str) -> Response:
    """Record what the reader thinks of the latest revision; another is refused (409)."""
    row = get_object_or_404(Study, study_uid=uid)
    given = VoteInputSerializer(data=request.data)
    if not given.is_valid():
        return Response({"errors": given.errors}, status=422)
    wanted = given.validated_data
    number = wanted.get("revision", row.revision)
    try:
        new = votes.vote(row, number, request.user, wanted["verdict"], wanted.get("note"))
    except votes.OldRevision as exc:
        return Response({"errors": {"revision": [str(exc)]}}, status=409)
    except ValueError as exc:
        return Response({"errors": {"revision": [str(exc)]}}, status=422)
    return Response(VoteSerializer(new).data, status=201)
