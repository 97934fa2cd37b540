"""A small made-up template: nilearn is not needed to test the generator."""

from __future__ import annotations

import numpy as np
import pytest

from models.ich.template import ORIGIN_MM, PAD, Template

SHAPE = tuple(n + sum(p) for n, p in zip((197, 233, 189), PAD, strict=True))


@pytest.fixture(scope="session")
def ball() -> Template:
    """Return an ellipsoid brain with a ventricle in it."""
    x, y, z = ((np.arange(n, dtype=np.float32) + o) for n, o in zip(SHAPE, ORIGIN_MM, strict=True))
    x, y, z = x[:, None, None], y[None, :, None] + 18, z[None, None, :]
    table = (1 - np.sqrt((x / 66) ** 2 + (y / 86) ** 2 + (z / 75) ** 2)) * 70
    ventricle = (np.sqrt(((np.abs(x) - 12) / 7) ** 2 + (y / 30) ** 2 + (z / 14) ** 2) - 1) * 8
    white = np.clip((table - 5) / 6, 0, 1).astype(np.float32)
    grey = np.clip(table / 2, 0, 1).astype(np.float32) * (1 - white)
    outline = np.broadcast_to(
        (1 - np.sqrt((x / 66) ** 2 + (y / 86) ** 2 + (np.maximum(z, 0) / 75) ** 2)) * 70, SHAPE
    )
    full = [np.ascontiguousarray(v, np.float32) for v in (table, ventricle, outline)]
    return Template(grey, white, *full)
