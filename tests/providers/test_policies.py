"""The policy pack in the real engine over the cloud stacks as they are shipped, with simulated providers."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

import tools
from policy.check import check
from tests.providers.preview import configuration
from tests.providers.run import ROOT, Stack

pytestmark = pytest.mark.root


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    try:
        tools.locate("pulumi")
    except tools.ToolMissing as error:
        pytest.skip(str(error))
    return Stack(tmp_path / "stack", ROOT).prepare()


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_a_shipped_stack_keeps_every_rule_and_one_change_breaks_the_rule_about_it(stack: Stack, name: str) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = stack.pulumi(*arguments)
        return subprocess.CompletedProcess(arguments, done.returncode, done.said, "")

    shipped: dict[str, Any] = configuration(name)
    stack.configure(shipped)
    kept = check(run, "test")
    assert kept.passed, kept.preview[-6000:]
    assert kept.leaks == ()
    assert not stack.world.objects
    shipped["samegate:platform"]["protect"] = False
    stack.configure(shipped)
    broken = check(run, "test")
    assert not broken.passed
    assert "state-protected" in broken.preview
