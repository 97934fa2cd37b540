"""Bone and lung kernels are known by their names."""

from __future__ import annotations

import pytest

from worker.study.kernels import is_sharp_kernel


@pytest.mark.parametrize("name", ["BONE", "BONEPLUS", "H60S", "HR68H\\3", "J70H", "FC30", "EDGE"])
def test_sharp_kernels(name: str) -> None:
    assert is_sharp_kernel(name)


@pytest.mark.parametrize("name", ["", "STD+", "STANDARD", "SOFT", "H31S", "J40S", "FC26", "UB"])
def test_soft_kernels(name: str) -> None:
    assert not is_sharp_kernel(name)
