"""limen.instance: what one process tells another of an instance arrives as it was."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from limen.instance import NewInstance
from tests.support.samples import new_instance


@pytest.mark.parametrize("is_result", [False, True])
def test_an_instance_is_the_same_behind_a_pipe(is_result: bool) -> None:
    instance = replace(new_instance(), is_result=is_result)
    assert NewInstance.of(json.loads(json.dumps(instance.row()))) == instance
