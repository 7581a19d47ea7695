"""The rules' type tokens and properties against the providers' own SDKs, where these are installed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from policy_world import kept

from policy.model import ResourceRule
from policy.registry import RULES
from policy.rules import addresses, estate

_STATEFUL = next(rule.parameters["types"] for rule in RULES if rule.name == "state-protected")
TOKENS = sorted(
    {
        token
        for tokens in (
            addresses.NETWORKS,
            estate.TAGGED,
            _STATEFUL,
            (addresses.ROUTE_SERVER, addresses.CONNECT, addresses.CLOUD_ROUTER),
            *(rule.types for rule in RULES if isinstance(rule, ResourceRule)),
        )
        for token in tokens
        if not token.startswith("kubernetes:")
    }
)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _source(token: str) -> str:
    """The SDK's module of a resource type; skips where the SDK is not installed."""
    provider, module, name = token.split(":")
    spec = importlib.util.find_spec(f"pulumi_{provider}")
    if spec is None or spec.origin is None:
        pytest.skip(f"pulumi_{provider} is not installed")
    return Path(spec.origin).parent.joinpath(module.split("/")[0], f"{_snake(name)}.py").read_text()


@pytest.mark.parametrize("token", TOKENS)
def test_a_type_is_the_providers(token: str) -> None:
    assert f"'{token}'" in _source(token)


CLOUD = sorted(n for n, r in kept()["resources"].items() if not r["type"].startswith("kubernetes:"))


@pytest.mark.parametrize("name", CLOUD)
def test_a_property_of_the_stack_that_keeps_every_rule_is_the_providers(name: str) -> None:
    resource = kept()["resources"][name]
    source = _source(resource["type"])
    for key in resource["properties"]:
        assert f'pulumi.getter(name="{key}")' in source or f"def {key}(self" in source, key
