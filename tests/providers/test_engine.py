"""A platform's whole life on the real engine with the stand-in providers; nothing is reached but this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tools
from tests.providers.run import ROOT, Done, Stack
from tests.providers.stacks import PLATFORMS

pytestmark = pytest.mark.root


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    try:
        tools.locate("pulumi")
    except tools.ToolMissing as error:
        pytest.skip(str(error))
    yield Stack(tmp_path / "stack", ROOT / "tests/providers/platform_program").prepare()


def _ok(done: Done) -> Done:
    assert done.returncode == 0, done.said[-4000:]
    return done


def _life(stack: Stack, platform: dict[str, Any]) -> None:
    stack.configure({"samegate:platform": platform})
    made = _ok(stack.up())
    assert made.changes.keys() == {"create"}
    assert len(stack.world.objects) > 30
    again = _ok(stack.up())
    assert again.changed == 0, again.steps
    _ok(stack.destroy())
    assert stack.world.objects == {}


def test_a_transit_gateway_stack_comes_stays_unchanged_and_goes_without_a_trace(stack: Stack) -> None:
    stack.configure({"samegate:platform": PLATFORMS["aws-transit-gateway"]})
    planned = _ok(stack.preview())
    assert stack.world.objects == {}, "a preview made something"
    assert planned.changes.keys() == {"create"}
    _life(stack, PLATFORMS["aws-transit-gateway"])
