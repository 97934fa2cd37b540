"""Pages that readers work with: the worklist and the study."""

from __future__ import annotations

import hashlib

from django.core.exceptions import PermissionDenied
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import quote_etag
from django.views.decorators.http import require_POST, require_safe

from web.results import (
    bulletins,
    chart,
    filters,
    findings,
    media,
    notes,
    pacs,
    reading,
    revision,
    roles,
    trail,
    versions,
    viewer,
)
from web.results import feedback as votes
from web.results import worklist as worklists
from web.results.errors import error_page
from web.results.models import Note, RenderedImage, Study, StudyView, Verdict

__all__ = ["feedback", "image", "note", "state", "study", "worklist"]

NO_PATIENTS = "Your account is shown results without the patients."
_for_readers = roles.needs(lambda role: role.sees_patients, NO_PATIENTS)
# In place of a verdict: the vote is taken back.
WITHDRAW = "withdraw"

# Set by the page's own script when it asks for the rows alone.
POLL_HEADER = "X-Limen-Poll"
IMMUTABLE = "private, max-age=31536000, immutable"


@require_safe
def worklist(request: HttpRequest) -> HttpResponse:
    """Show the studies, most urgent first."""
    try:
        chosen = filters.Filter.read(request.GET)
    except filters.UnknownFilter as exc:
        return error_page(request, 400, "This list cannot be shown", str(exc))
    reader = request.user
    if (chosen.q or chosen.date) and not roles.of(reader).sees_patients:
        raise PermissionDenied(NO_PATIENTS)
    if POLL_HEADER in request.headers:
        return _rows(request, chosen)
    counts = worklists.counts(reader)
    page = worklists.page(chosen, reader, counts)
    context = {
        "page": page,
        "filter": chosen,
        "counts": counts,
        "outcomes": [
            (value, name, n, chosen.address(outcome=value)) for value, name, n in counts.choices
        ],
        "all_address": chosen.address(outcome=""),
        "unread_address": chosen.address(unread="" if chosen.unread else "1"),
        "mine_address": chosen.address(mine="" if chosen.mine else "1"),
        "next_address": chosen.address(after=page.next) if page.next else "",
        "first_address": chosen.address() if chosen.after else "",
        "kept": chosen.others("modality", "state", "received", "date", "q"),
        "modalities": counts.modalities,
        "states": filters.STATES.items(),
        "within": filters.WITHIN,
        "board": bulletins.board(),
        "etag": _etag(request),
    }
    trail.viewed(request, None, StudyView.What.LIST)
    return render(request, "results/worklist.html", context)


def _rows(request: HttpRequest, chosen: filters.Filter) -> HttpResponse:
    etag = _etag(request)
    if request.headers.get("If-None-Match") == etag:
        response = HttpResponse(status=304)
    else:
        counts = worklists.counts(request.user)
        context = {
            "page": worklists.page(chosen, request.user, counts),
            "counts": counts,
            "filter": chosen,
            "board": bulletins.board(),
        }
        response = render(request, "results/_poll.html", context)
    response.headers["ETag"] = etag
    return response


def _etag(request: HttpRequest) -> str:
    stamps = (worklists.stamp(request.user), bulletins.stamp())
    text = f"{request.user.pk} {request.get_full_path()} {stamps}"
    return quote_etag(hashlib.sha256(text.encode()).hexdigest()[:32])


@require_safe
def study(request: HttpRequest, key: str) -> HttpResponse:
    """Show one study: its slices, what was found, why, and what readers think."""
    row = get_object_or_404(Study, key=key)
    numbers = _revision_numbers(row)
    asked = request.GET.get("revision", "")
    number = _number(asked)
    if asked and number not in numbers:
        raise Http404
    masked = not roles.of(request.user).sees_patients
    shown = revision.read(row, number or row.revision, masked=masked)
    if shown is None:
        raise Http404
    cast = list(row.votes.select_related("reader"))
    current = [vote for vote in cast if vote.current and vote.revision == shown.number]
    written = list(row.notes.select_related("reader").order_by("saved_at"))
    mine = next((vote for vote in current if vote.reader_id == request.user.pk), None)
    own = next((note for note in written if note.reader_id == request.user.pk), None)
    context = {
        "study": row,
        "shown": shown,
        "tree": shown.tree,
        "is_latest": shown.number == row.revision,
        "awaits_more": bulletins.awaits_more(row),
        "revisions": numbers,
        "version_before": versions.before(row, shown.number, shown.tree["model"]),
        "chart": chart.draw(shown.slices, shown.threshold),
        "findings": findings.lines(shown),
        "slices": [] if masked else viewer.slices(shown),
        "first": None if masked else viewer.first(shown),
        "windows": viewer.windows(shown),
        "placements": pacs.placements(row.study_uid, shown.number),
        "viewer_address": "" if masked else pacs.viewer_address(row.study_uid),
        "remarkable": shown.remarkable,
        "votes": current,
        "history": [vote for vote in cast if vote not in current],
        "mine": mine,
        "nothing_said": votes.nothing_said(row),
        "verdicts": Verdict.choices,
        "note": own or Note(version=0),
        "other_notes": [note for note in written if note.text and note is not own],
        "note_length": notes.LENGTH,
    }
    trail.viewed(request, row, StudyView.What.PAGE)
    if shown.number == row.revision:
        reading.mark(row, request.user)
    return render(request, "results/study.html", context)


def _revision_numbers(row: Study) -> list[int]:
    return list(row.reports.order_by("-revision").values_list("revision", flat=True).distinct())


@require_safe
@_for_readers
def image(request: HttpRequest, key: str, sha256: str) -> HttpResponse:
    """Return a rendered image of a study; its address changes with its bytes."""
    row = get_object_or_404(Study, key=key)
    found = RenderedImage.objects.filter(report__study=row, sha256=sha256).first()
    if found is not None:
        trail.viewed(request, row, StudyView.What.IMAGES)
    return image_response(found, IMMUTABLE)


def image_response(row: RenderedImage | None, cache: str) -> FileResponse:
    """Return the file of an image, as what it is and nothing else."""
    if row is None:
        raise Http404
    try:
        stream = media.open_image(row.sha256)
    except FileNotFoundError as exc:
        raise Http404 from exc
    response = FileResponse(stream, content_type=row.media_type)
    response.headers["Cache-Control"] = cache
    response.headers["ETag"] = quote_etag(row.sha256)
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response


@require_safe
def state(request: HttpRequest, key: str) -> HttpResponse:
    """Tell an open page, every few seconds, which is the latest word of its study."""
    row = get_object_or_404(Study, key=key)
    told = {
        "revision": row.revision,
        "phase": row.phase,
        "awaits_more": bulletins.awaits_more(row),
    }
    etag = quote_etag(f"{row.revision}-{row.phase}-{told['awaits_more']:d}")
    if request.headers.get("If-None-Match") == etag:
        return HttpResponse(status=304, headers={"ETag": etag})
    return JsonResponse(told, headers={"ETag": etag})


@require_POST
@_for_readers
def feedback(request: HttpRequest, key: str) -> HttpResponse:
    """Record a vote or take it back; answer JSON to the page's script, else the page again."""
    row = get_object_or_404(Study, key=key)
    number = _number(request.POST.get("revision", "")) or 0
    verdict = request.POST.get("verdict", "")
    try:
        if verdict == WITHDRAW:
            votes.withdraw(row, number, request.user)
            verdict = ""
        else:
            votes.vote(row, number, request.user, verdict, request.POST.get("note"))
    except votes.OldRevision as exc:
        return _not_taken(request, str(exc), 409)
    except ValueError as exc:
        return _not_taken(request, str(exc), 422)
    if request.headers.get("Accept") == "application/json":
        return JsonResponse({"verdict": verdict})
    return redirect(f"{reverse('study', args=[key])}#feedback")


@require_POST
@_for_readers
def note(request: HttpRequest, key: str) -> HttpResponse:
    """Save the reader's note; 409, with the note as it is, where it was changed elsewhere."""
    row = get_object_or_404(Study, key=key)
    version = _number(request.POST.get("version", ""))
    if version is None:
        return JsonResponse({"detail": "the version of the note is missing"}, status=422)
    try:
        saved = notes.save(row, request.user, request.POST.get("note", ""), version)
    except notes.Conflict as exc:
        now = {"text": exc.note.text, "version": exc.note.version}
        return JsonResponse({"detail": str(exc), **now}, status=409)
    except ValueError as exc:
        return JsonResponse({"detail": str(exc)}, status=422)
    return JsonResponse({"version": saved.version})


def _not_taken(request: HttpRequest, why: str, status: int) -> HttpResponse:
    if request.headers.get("Accept") == "application/json":
        return JsonResponse({"detail": why}, status=status)
    return error_page(request, status, "The vote was not taken", f"{why[0].upper()}{why[1:]}")


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
