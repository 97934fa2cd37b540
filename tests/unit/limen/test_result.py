"""limen.result: the document, its bytes and its schema."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest

from limen.errors import Permanent
from limen.result import Explanation, Image, Outcome, Phase, Result, Series, Superpixel, json_schema
from tests.support.samples import SERIES_UID, result
from tests.support.services import REPOSITORY


def full() -> Result:
    superpixels = [Superpixel(0, 0.5, 12), Superpixel(1, -0.25, 4)]
    return result(
        Phase.EXPLANATION,
        series=[Series(SERIES_UID, "Kopf nativ, 5 mm", "CT", 1, True, "axial")],
        images=[
            Image(
                f"{SERIES_UID}.1", 1, 0, None, {"any": 0.9}, True, "", "a-1.png", "a-1-overlay.png"
            ),
            Image(f"{SERIES_UID}.2", 1, 1, 5.0, None, False, "cannot be decoded"),
        ],
        explanations=[
            Explanation(
                f"{SERIES_UID}.1",
                1,
                "any",
                "LIME, settled",
                "SLIC",
                "brain",
                96,
                0,
                0.9,
                0.1,
                0.7,
                0.9,
                False,
                "",
                superpixels,
            )
        ],
    )


def test_a_document_that_is_read_back_is_the_same() -> None:
    assert Result.from_json(full().to_json()) == full()


def test_the_same_document_gives_the_same_bytes() -> None:
    body = full().to_json()
    assert full().to_json() == body
    assert Result.from_json(body).to_json() == body
    assert "Müller^Jürgen".encode() in body


def test_a_document_satisfies_its_own_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(json.loads(full().to_json()), json_schema())


@pytest.mark.parametrize("copy", ["docs/result.schema.json", "web/results/result.schema.json"])
def test_the_published_schema_is_that_of_the_dataclasses(copy: str) -> None:
    assert json.loads((REPOSITORY / copy).read_text("utf-8")) == json_schema()


@pytest.mark.parametrize(
    "path", [(), ("study",), ("model",), ("finding",), ("timings",), ("provenance",), ("images", 0)]
)
def test_an_unknown_key_is_refused_at_every_level(path: tuple[str | int, ...]) -> None:
    tree = json.loads(full().to_json())
    where = tree
    for step in path:
        where = where[step]
    where["surplus"] = 1
    with pytest.raises(Permanent, match="surplus"):
        Result.from_json(json.dumps(tree).encode())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 4),
        ("revision", 0),
        ("phase", "guess"),
        ("outcome", ""),
        ("timings", {"received": "yesterday", "complete": "2026-01-02T03:04:05Z"}),
        ("study", {"study_uid": "../../etc/passwd"}),
    ],
)
def test_a_value_out_of_its_range_is_refused_with_its_path(key: str, value: object) -> None:
    tree = json.loads(full().to_json()) | {key: value}
    with pytest.raises(Permanent, match=key):
        Result.from_json(json.dumps(tree).encode())


def test_a_document_of_the_schema_before_is_read() -> None:
    tree = json.loads(full().to_json()) | {"schema": 2}
    del tree["model"]["windows"]
    for image in tree["images"]:
        del image["unit"]
    for explanation in tree["explanations"]:
        del explanation["without_strongest"]
    found = Result.from_json(json.dumps(tree).encode())
    assert found.model is not None
    assert (found.schema, found.model.windows, found.images[0].unit) == (2, [], "")
    assert found.explanations[0].without_strongest is None


@pytest.mark.parametrize(
    ("outcome", "slice_is_positive", "wanted"),
    [
        (Outcome.POSITIVE, False, True),
        (Outcome.UNDETERMINED, False, True),
        (Outcome.NEGATIVE, True, True),
        (Outcome.PARTIAL, True, True),
        (Outcome.PARTIAL, False, False),
        (Outcome.NEGATIVE, False, False),
    ],
)
def test_what_is_called_something_or_has_a_positive_slice_is_to_be_explained(
    outcome: Outcome, slice_is_positive: bool, wanted: bool
) -> None:
    images = [replace(full().images[0], positive=slice_is_positive)]
    assert replace(full(), outcome=outcome, images=images).wants_explanation is wanted


@pytest.mark.parametrize("name", ["../x.png", "/etc/passwd", ".hidden", "a/b.png", "", "x" * 101])
def test_a_file_name_that_is_a_path_is_refused(name: str) -> None:
    tree = json.loads(full().to_json())
    tree["images"][0]["original"] = name
    with pytest.raises(Permanent, match="original"):
        Result.from_json(json.dumps(tree).encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1.5", "-0.1"])
def test_a_probability_that_is_no_probability_is_refused_on_the_way_in(number: str) -> None:
    body = full().to_json().replace(b'"probability": 0.9', b'"probability": %s' % number.encode())
    with pytest.raises(Permanent, match="probability"):
        Result.from_json(body)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_know_never_leaves(number: float) -> None:
    document = full()
    assert document.finding is not None
    broken = replace(document, finding=replace(document.finding, probability=number))
    with pytest.raises(ValueError, match="JSON"):
        broken.to_json()


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff"])
def test_a_body_that_is_no_document_is_refused(body: bytes) -> None:
    with pytest.raises(Permanent, match="schema 2 or 3"):
        Result.from_json(body)


def test_a_refusal_names_paths_and_never_the_patient() -> None:
    tree = json.loads(full().to_json())
    tree["study"]["patient_name"] = {"secret": "Doe^Jane"}
    with pytest.raises(Permanent) as caught:
        Result.from_json(json.dumps(tree).encode())
    assert "study.patient_name" in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_file_names_come_once_and_in_the_order_of_the_document() -> None:
    assert full().file_names() == ["a-1.png", "a-1-overlay.png"]
    assert result(images=[]).file_names() == []
