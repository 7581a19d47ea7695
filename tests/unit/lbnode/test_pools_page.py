"""docs/pools.md shows settings that the agent takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lbnode.pools import Pool
from lbnode.settings import parse
from tests.unit.lbnode.kube_objects import SETTINGS

PAGE = (Path(__file__).parents[3] / "docs" / "pools.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
#: A line of a pool by itself.
KEYS = [yaml.safe_load(line) for block in BLOCKS if block.startswith("    ") for line in block.splitlines()]


def test_the_pools_are_accepted() -> None:
    [block] = [b for b in BLOCKS if b.startswith("pools:")]
    found = parse(SETTINGS | yaml.safe_load(block)).pools
    assert [p.name for p in found] == ["public", "payments", "reserved"]


@pytest.mark.parametrize("keys", KEYS)
def test_each_key_of_a_pool_is_accepted(keys: dict[str, Any]) -> None:
    assert len(KEYS) == 5
    cidrs = ["203.0.113.0/24", "2001:db8:113::/64"]
    assert Pool.model_validate({"name": "p", "cidrs": cidrs} | keys)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"samegate\.dev/[-a-z]+", PAGE))))
def test_each_annotation_is_one_that_the_agent_reads(name: str) -> None:
    code = "".join(p.read_text() for p in (Path(__file__).parents[3] / "lbnode").glob("*.py"))
    assert f'"{name}"' in code
