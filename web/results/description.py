"""The description of the API (OpenAPI): the refusals that every operation has in common."""

from __future__ import annotations

from typing import Any

__all__ = ["refusals"]

_OF_ALL = {
    400: "The address or the body cannot be understood; by name, what is wrong.",
    401: "Nobody is logged in, and no good token came along.",
    403: "Who asks may not; `detail` says who may.",
    429: "Too many wrong tokens came from this address; `Retry-After` says for how long to wait.",
}
_OF_ONE = {404: "There is none."}
_OF_BODIES = {
    413: "The body is too large.",
    415: "The body is of a type that is not read here.",
}
_SHAPE = {
    "type": "object",
    "description": "Why a request was refused, and an id that the log of the server repeats.",
    "properties": {"detail": {"type": "string"}, "id": {"type": "string"}},
    "additionalProperties": {"type": "array", "items": {"type": "string"}},
    "required": ["id"],
}


def refusals(result: dict[str, Any], **_: object) -> dict[str, Any]:
    """Add the refusals that no operation names, as a hook of drf-spectacular."""
    result["components"]["schemas"]["Refusal"] = _SHAPE
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    for path, operations in result["paths"].items():
        for operation in operations.values():
            texts = {
                **_OF_ALL,
                **(_OF_ONE if "{" in path else {}),
                **(_OF_BODIES if "requestBody" in operation else {}),
            }
            for status, text in texts.items():
                operation["responses"][str(status)] = {"description": text, "content": body}
    return result
