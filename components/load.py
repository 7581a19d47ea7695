"""Reads the stack's configuration from the engine, once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.runtime.config import get_config

from components.settings import PREFIX, StackSettings, parse
from lbnode.errors import ConfigError


def load() -> tuple[StackSettings, pulumi.Output[Mapping[str, str]] | None, str | None]:
    """The settings, the BGP keys as a secret (None without any), and the secret kubeconfig (None without one).

    Raises:
        ConfigError: a value is no JSON, or breaks a rule.
    """
    config = pulumi.Config(PREFIX)
    raw = {name: value for name in ("platform", "agent", "apps") if (value := _object(name)) is not None}
    if (image := get_config(f"{PREFIX}:image")) is not None:
        raw["image"] = image
    # Names only: the values stay inside the Output.
    names = tuple(_object("bgpKeys") or {})
    settings = parse(raw, bgp_keys=names)
    return settings, config.get_secret_object("bgpKeys") if names else None, get_config(f"{PREFIX}:kubeconfig")


def _object(name: str) -> Any:
    text = get_config(f"{PREFIX}:{name}")
    if text is None:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise ConfigError(
            f"{PREFIX}:{name} = {text[:40]!r}",
            "not a structured value",
            "Write it as YAML below its key, see stacks/Pulumi.onprem.yaml",
        ) from None
