"""POST /api/v1/results: what is kept, what is refused, and that nothing is kept by half."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from limen.result import Outcome, Phase, json_schema
from tests.web import samples

pytestmark = pytest.mark.django_db


def tree_of(document) -> dict:
    return json.loads(document.to_json())


def test_the_servers_schema_is_the_one_of_the_dataclasses():
    from web.results import document

    kept = Path(document.__file__).with_name("result.schema.json")
    assert json.loads(kept.read_text()) == json_schema()


def test_a_result_is_created_once_and_repeated_after_that(post):
    from web.results.models import RenderedImage, Report

    document = samples.result()
    first, second = post(document), post(document)
    assert (first.status_code, first.json()["status"]) == (201, "created")
    assert (second.status_code, second.json()["status"]) == (200, "repeated")
    assert second.json()["page"] == first.json()["page"]
    assert (Report.objects.count(), RenderedImage.objects.count()) == (1, 3)


def test_the_order_of_keys_and_the_spaces_do_not_make_another_body(post):
    document = samples.result()
    bodies = samples.files(document)
    tree = tree_of(document)
    backwards = json.dumps(dict(reversed(tree.items())), indent=3).encode()
    assert post(document).status_code == 201
    assert post(backwards, bodies).status_code == 200


def test_another_document_or_another_image_under_the_same_key_is_a_conflict(post):
    document = samples.result()
    bodies = samples.files(document)
    assert post(document).status_code == 201
    assert post(samples.renamed(document, accession="other"), bodies).status_code == 409
    changed = {**bodies, "slice-0001.jls": samples.png(samples.head(5, 9))}
    assert post(document, changed).status_code == 409
    assert post(document).status_code == 200


def test_a_document_of_the_schema_before_is_taken(post, browser):
    tree = tree_of(samples.result()) | {"schema": 2}
    del tree["model"]["windows"]
    for image in tree["images"]:
        del image["unit"]
    answer = post(json.dumps(tree).encode(), samples.files(samples.result()))
    assert answer.status_code == 201, answer.content
    assert "Positive" in browser.get("/").content.decode()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda t: t["study"].pop("study_uid"), "$.study"),
        (lambda t: t["study"].update(study_uid="1.2.3\n"), "$.study.study_uid"),
        (lambda t: t["study"].update(study_uid="../etc"), "$.study.study_uid"),
        (lambda t: t.update(revision=0), "$.revision"),
        (lambda t: t.update(revision=2**40), "$.revision"),
        (lambda t: t.update(schema=4), "$.schema"),
        (lambda t: t.update(outcome="fine"), "$.outcome"),
        (lambda t: t.update(extra=1), "$"),
        (lambda t: t["model"].update(sha256="abc"), "$.model.sha256"),
        (lambda t: t["finding"].update(probability=1.5), "$.finding.probability"),
        (lambda t: t["timings"].update(received="2026-13-45T99:00:00Z"), "$.timings.received"),
        (lambda t: t["images"][1].update(original="../x.png"), "$.images[1].original"),
        (lambda t: t["images"][1].update(original="other.png"), "$.images[1].original"),
        (lambda t: t["images"].append(t["images"][0]), "$.images[3]"),
        (lambda t: t["images"][2].update(original=None), "$.images"),
    ],
)
def test_an_invalid_document_is_refused_with_the_path_of_its_fault(post, change, path):
    from web.results.models import Study

    document = samples.result()
    tree = tree_of(document)
    change(tree)
    answer = post(json.dumps(tree).encode(), samples.files(document))
    assert answer.status_code == 422, answer.content
    assert path in [fault["path"] for fault in answer.json()["errors"]]
    assert not Study.objects.exists()


def test_every_fault_is_named_at_once_and_no_value_is_repeated(post):
    tree = tree_of(samples.result(patient_name="Secret^Name"))
    tree["study"]["patient_name"] = ["Secret^Name"]
    tree["finding"]["probability"] = 7.25
    answer = post(json.dumps(tree).encode(), {})
    assert len(answer.json()["errors"]) == 2
    assert b"Secret" not in answer.content
    assert b"7.25" not in answer.content


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"study": NaN}',
        b"9" * 10_000,
        b'"\\ud800"',
    ],
)
def test_a_body_that_is_no_document_is_refused(post, body):
    assert post(body, {}).status_code == 422


def test_text_and_numbers_that_nothing_can_hold_are_refused(post):
    document = samples.result()
    plain = document.to_json()
    half = plain.replace(b"Doe^Jane^Q.", b"Doe\\ud800")
    endless = plain.replace(b"-35.0", b"1e999")
    assert half != plain != endless
    for body in (half, endless):
        assert post(body, samples.files(document)).status_code == 422


def test_images_that_are_missing_or_unnamed_are_refused(post):
    document = samples.result()
    bodies = samples.files(document)
    short = {k: v for k, v in bodies.items() if k != "slice-0002.jls"}
    missing = post(document, short)
    assert missing.status_code == 422
    assert missing.json()["errors"] == [
        {"path": "$.images[1].original", "message": "names a file that is not among the parts"}
    ]
    assert post(document, {**bodies, "more.png": bodies["slice-0001.jls"]}).status_code == 422
    assert post(document).status_code == 201


GOOD = samples.png(samples.head(0, 3))
JPEG = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffc0000b080010001001011100ffda000801010000003f00ffd9"
)
JLS = samples.jls(samples.hounsfield(0, 3))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"GIF89a" + bytes(40), b"<svg onload=alert(1)>", GOOD[:-5], GOOD[:20],
        GOOD[:8] + b"\0\0\0\x0cIHDR" + GOOD[16:], b"\xff\xd8\xff\xd9", JPEG[:-2],
        samples.png(samples.head(0, 3)).replace(b"\0\0\0\x10\0\0\0\x10", b"\0\0\xff\xff" * 2),
        JLS[:-2], JLS.replace(bytes([16, 0, 16, 0, 16, 1]), bytes([16, 255, 255, 255, 255, 1])),
    ],
)  # fmt: skip
def test_a_part_that_is_no_whole_png_jpeg_or_jpeg_ls_is_refused(post, body):
    document = samples.result()
    answer = post(document, {**samples.files(document), "slice-0003.jls": body})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "$.images[2].original"


@pytest.mark.parametrize(
    ("body", "kind"),
    [(JPEG, "image/jpeg"), (GOOD, "image/png"), (JLS, "image/jls")],
)
def test_a_picture_is_served_as_what_it_is(post, browser, body, kind):
    document = samples.result(slices=1, positive=())
    assert post(document, {"slice-0001.jls": body}).status_code == 201
    image = document.images[0]
    answer = browser.get(
        f"/api/v1/studies/{document.study.study_uid}/images/{image.sop_uid}/original"
    )
    assert answer.headers["Content-Type"] == kind
    assert b"".join(answer.streaming_content) == body


def test_a_token_is_needed_and_must_be_right(post):
    document = samples.result()
    for headers in ({"x-none": "1"}, {"authorization": "Bearer wrong"}):
        answer = post(document, **headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert post(document, authorization="Bearer").status_code == 401
    assert post(document, authorization="Bearer a b").status_code == 401
    assert post(document, authorization="Basic YTpi").status_code == 401


def test_a_body_that_is_too_large_is_refused_before_it_is_read(post, settings):
    settings.RESULT_MAX_BODY_BYTES = 1000
    assert post(samples.result()).status_code == 413


def test_a_document_that_is_too_large_is_refused(post, settings):
    settings.RESULT_MAX_DOCUMENT_BYTES = 100
    assert post(samples.result()).status_code == 422


def test_too_many_parts_are_refused(post, settings):
    settings.DATA_UPLOAD_MAX_NUMBER_FILES = 2
    assert post(samples.result()).status_code == 413


def test_the_result_part_may_be_a_plain_field(token, client):
    document = samples.result(outcome=Outcome.NOT_ANALYSED, slices=0, positive=(), reason="none")
    answer = client.post(
        "/api/v1/results",
        {"result": document.to_json().decode()},
        headers={"authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 201, answer.content


def test_a_failure_half_way_leaves_nothing_and_the_next_try_succeeds(post, monkeypatch):
    from django.db import OperationalError

    from web.results.models import RenderedImage, Report, Study

    def fail(*_: object, **__: object) -> None:
        raise OperationalError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(RenderedImage.objects, "bulk_create", fail)
        answer = post(samples.result())
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "30"
    assert not Study.objects.exists()
    assert not Report.objects.exists()
    assert post(samples.result()).status_code == 201


def test_nothing_refers_to_an_image_that_could_not_be_written(post, monkeypatch):
    from web.results import media
    from web.results.models import Study

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(media.os, "fsync", fail)
        assert post(samples.result()).status_code == 503
    assert not Study.objects.exists()


def test_files_are_on_disk_before_the_row_and_no_part_file_stays(post, settings):
    assert post(samples.result()).status_code == 201
    kept = [p for p in Path(settings.MEDIA_STORE).rglob("*") if p.is_file()]
    assert len(kept) == 3
    assert all(len(p.name) == 64 and not p.name.startswith(".") for p in kept)


def test_an_explanation_may_come_before_its_prediction(post, browser):
    from web.results.models import Study

    prediction, explanation = samples.pair()
    assert post(explanation).status_code == 201
    assert Study.objects.get().phase == Phase.EXPLANATION
    assert post(prediction).status_code == 201
    row = Study.objects.get()
    assert row.phase == Phase.EXPLANATION
    assert row.explained_at is not None
    assert b"data-waiting" not in browser.get(f"/studies/{row.key}/").content


def test_an_explanation_that_brings_only_overlays_is_shown_over_the_predictions_slices(
    post, browser
):
    from web.results.models import Study

    prediction, explanation = samples.pair()
    bare = replace(
        explanation,
        images=[replace(i, original=None) for i in explanation.images if i.explanation],
    )
    assert post(bare).status_code == 201
    assert post(prediction).status_code == 201
    page = browser.get(f"/studies/{Study.objects.get().key}/")
    slices = page.context["slices"]
    assert [bool(s["original"]) for s in slices] == [True, True, True]
    assert [bool(s["overlay"]) for s in slices] == [False, True, False]


def test_contents_that_share_a_sop_instance_uid_are_shown_with_pictures_of_their_own(post, browser):
    from web.results.models import Study

    document = samples.result()
    again = replace(document.images[1], index=3, copy=2, original="slice-0002-copy2.jls")
    twice = replace(document, images=[*document.images, again])
    assert post(twice).status_code == 201
    page = browser.get(f"/studies/{Study.objects.get().key}/")
    slices = page.context["slices"]
    assert len(slices) == 4
    assert len({s["original"] for s in slices}) == 4


def test_an_older_revision_never_hides_a_later_one(post):
    from web.results.models import Study

    late = samples.result(revision=2, positive=())
    assert post(late).status_code == 201
    assert post(samples.result(revision=1, positive=(1,))).status_code == 201
    assert post(samples.result(revision=1, phase=Phase.EXPLANATION)).status_code == 201
    row = Study.objects.get()
    assert (row.revision, row.outcome, row.phase) == (2, "negative", "prediction")


def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(post):
    body = json.loads(samples.result().to_json())
    for changed in (
        {**body, "reason": "\ud800"},
        {**body, "\ud800": 1},
        {**body, "study": {**body["study"], "\udc00": "x"}},
        {**body, "outcome": "\ud800"},
    ):
        answer = post(json.dumps(changed).encode(), samples.files(samples.result()))
        assert answer.status_code == 422


def test_a_name_with_a_nul_is_kept_as_sent_and_shown_without_it(post):
    from web.results.models import Report, Study

    assert post(samples.result(patient_name="Do\x00e^Jane")).status_code == 201
    assert Study.objects.get().patient_name == "Doe^Jane"
    assert b"Do\\u0000e" in bytes(Report.objects.get().document)


def test_what_a_crash_left_behind_is_deleted_after_a_day(post, settings, tmp_path):
    from web.results import media

    settings.FILE_UPLOAD_TEMP_DIR = str(tmp_path / "incoming")
    incoming = Path(settings.FILE_UPLOAD_TEMP_DIR)
    incoming.mkdir()
    assert post(samples.result()).status_code == 201
    kept = next(p for p in Path(settings.MEDIA_STORE).rglob("*") if p.is_file())
    old = [incoming / "x.upload", kept.with_name(".0123.part")]
    for path in (*old, incoming / "y.upload"):
        path.write_bytes(b"half")
    for path in (*old, kept):
        os.utime(path, (0, 0))
    media.sweep()
    assert not any(path.exists() for path in old)
    assert kept.exists()
    assert (incoming / "y.upload").exists()


def test_the_migrations_make_the_tables_that_the_models_describe():
    from django.core.management import call_command

    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


@pytest.mark.django_db(transaction=True)
def test_studies_that_were_there_before_keep_their_order_beside_undetermined_ones(post):
    from django.core.management import call_command

    from web.results.models import Study

    assert post(samples.result(1, positive=(2,), probability=0.7)).status_code == 201
    assert post(samples.result(2, positive=(), outcome=Outcome.PARTIAL)).status_code == 201
    assert post(samples.result(3, positive=())).status_code == 201
    now = list(Study.objects.order_by("urgency").values_list("outcome", "urgency"))
    call_command("migrate", "results", "0002", verbosity=0)
    call_command("migrate", "results", verbosity=0)
    assert list(Study.objects.order_by("urgency").values_list("outcome", "urgency")) == now
