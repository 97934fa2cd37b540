"""Filters that show what DICOM and the result document write."""

from __future__ import annotations

from datetime import datetime

from django import template

from web.results import masking, names
from web.results.models import Outcome, Phase

register = template.Library()

register.filter("person_name", names.person_name)
register.filter("dicom_date", names.shown_date)
register.filter("dicom_time", names.shown_time)
register.filter("without_patients", masking.reason)

_SHAPES = {
    Outcome.POSITIVE: "positive",
    Outcome.UNDETERMINED: "undetermined",
    Outcome.PARTIAL: "partial",
    Outcome.NOT_ANALYSED: "not-analysed",
    Outcome.NEGATIVE: "negative",
}


@register.filter
def percent(value: float | None) -> str:
    """Show a probability with one decimal: 0.8731 is 87.3 %."""
    return "" if value is None else f"{100 * value:.1f} %"


@register.filter
def millilitres(value: float | None) -> str:
    """Show a volume: tenths of a millilitre below ten of them."""
    if value is None:
        return ""
    return f"{value:.1f} ml" if value < 10 else f"{value:.0f} ml"


@register.filter
def seconds(value: float | None) -> str:
    """Show a duration: tenths of a second below a minute, minutes below an hour."""
    if value is None:
        return "unknown"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@register.filter
def millimetres(value: float | None) -> str:
    """Show a position along the slice normal."""
    return "unknown" if value is None else f"{value:.1f} mm"


@register.filter
def outcome_name(value: str) -> str:
    """Name an outcome."""
    return Outcome(value).label


@register.filter
def phase_name(value: str) -> str:
    """Name how far the work is."""
    return Phase(value).label


@register.filter
def shape(value: str) -> str:
    """Return the style of an outcome: its colour and its shape."""
    return _SHAPES[Outcome(value)]


@register.filter
def instant(value: datetime | None) -> str:
    """Return a time for ``<time datetime>``."""
    return "" if value is None else value.strftime("%Y-%m-%dT%H:%M:%SZ")


@register.filter
def utc(value: datetime | None) -> str:
    """Show a time where no script turns it into local time."""
    return "" if value is None else value.strftime("%Y-%m-%d %H:%M UTC")


@register.filter
def parsed(value: str | None) -> datetime | None:
    """Read a time of a result document."""
    return datetime.fromisoformat(value) if value else None
