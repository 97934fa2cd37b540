"""The status values that the receiver answers with, one table (PS3.7 C, PS3.4 Table B.2-1, J.3).

The Error Comment (0000,0902) says what happened in at most 64 characters.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CANNOT_UNDERSTAND",
    "CLASS_CONFLICT",
    "FAILURE_REASONS",
    "INVALID_ARGUMENT",
    "MISMATCH",
    "NO_SUCH_ACTION",
    "NO_SUCH_CLASS",
    "NO_SUCH_EVENT",
    "NO_SUCH_INSTANCE",
    "OUT_OF_RESOURCES",
    "PROCESSING_FAILURE",
    "STATUSES",
    "SUCCESS",
    "UNRECOGNISED_OPERATION",
]

SUCCESS, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
UNRECOGNISED_OPERATION = 0x0211
PROCESSING_FAILURE, NO_SUCH_INSTANCE, INVALID_ARGUMENT = 0x0110, 0x0112, 0x0115
NO_SUCH_EVENT, NO_SUCH_CLASS, NO_SUCH_ACTION = 0x0113, 0x0118, 0x0123
CLASS_CONFLICT = 0x0119

_STORE, _ECHO, _ACTION, _REPORT = "C-STORE", "C-ECHO", "N-ACTION", "N-EVENT-REPORT"

STATUSES: Final = (
    (SUCCESS, (_ECHO,), "answered"),
    (SUCCESS, (_STORE,), "kept: the bytes and the name of the instance are on the disk"),
    (SUCCESS, (_ACTION, _REPORT), "the request, or the report, is kept"),
    (OUT_OF_RESOURCES, (_STORE,), "no space, the disk failed, or the journal is not keeping up"),
    (MISMATCH, (_STORE,), "the data set is not the SOP class or instance that the command names"),
    (CANNOT_UNDERSTAND, (_STORE,), "the data set, or the command, cannot be understood"),
    (PROCESSING_FAILURE, (_ACTION, _REPORT), "what is asked, or told, cannot be kept now"),
    (NO_SUCH_INSTANCE, (_ACTION, _REPORT), "not the well-known instance of storage commitment"),
    (NO_SUCH_EVENT, (_REPORT,), "neither event type 1 nor 2"),
    (
        INVALID_ARGUMENT,
        (_ACTION, _REPORT),
        "its data set cannot be understood or is too long, or nobody asked for it",
    ),
    (NO_SUCH_CLASS, (_ACTION, _REPORT), "not the SOP class of storage commitment"),
    (NO_SUCH_ACTION, (_ACTION,), "not action type 1"),
    (UNRECOGNISED_OPERATION, ("any other",), "an operation that is not served"),
)
"""Status, the services that answer it, and when."""

FAILURE_REASONS: Final = (
    (PROCESSING_FAILURE, "the instance is known, and cannot be read from the disk now"),
    (NO_SUCH_INSTANCE, "the instance is not known, or no longer kept"),
    (CLASS_CONFLICT, "the instance is known under another SOP class"),
)
"""Failure reasons of storage commitment (PS3.3 C.14.1.1)."""
