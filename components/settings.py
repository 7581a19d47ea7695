"""A stack's configuration: typed, validated once, before any resource is registered.

Outside it is the `config` of `stacks/Pulumi.<stack>.yaml`: one key per field of :class:`StackSettings`, each with the prefix
`samegate:`. The agent's own share is :class:`lbnode.settings.AgentSettings`, the class that the agent reads it with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from components.aws.settings import Aws
from components.clouds import KINDS, OWN_NETWORK_KEYS, check, completed, node_names
from components.gcp.settings import Gcp
from lbnode.errors import ConfigError
from lbnode.settings import AgentSettings, config_error

PREFIX = "samegate"
SECRET_KEYS = ("bgpKeys", "kubeconfig")
"""Configuration that only ever exists as a Pulumi secret; never part of :class:`StackSettings`."""

_DIGEST = re.compile(r"^[^@\s]+@sha256:[0-9a-f]{64}$")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


def _by_digest(image: str) -> str:
    if not _DIGEST.match(image):
        raise ValueError(
            "an image is named by digest, because a tag can change under a running stack. "
            "Push it and write NAME@sha256:DIGEST (`python -m image build` prints the digest)"
        )
    return image


class Router(_Settings):
    """A router of yours whose configuration is generated: the stack output `routers`, and `python -m components.routers`.

    ``peers`` names the entries of `agent.bgp.peers` that are this router: one, or one for each IP version of its sessions. ``edge_cidrs`` is where
    edge nodes connect from; left out, the node networks that hold the router's address. ``maximum_paths`` is the width of ECMP, at least the
    number of edge nodes. ``maximum_prefixes`` ends a session that announces more (RFC 4486 section 4); left out, as many as the pools have routes.
    ``maximum_edge_nodes`` is how many may connect, where a platform wants to know; at least the number of edge nodes.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$", max_length=63)
    platform: Literal["frr", "bird", "vyos", "nx-os", "ios-xe", "junos", "eos", "sonic"]
    peers: tuple[str, ...] = Field(min_length=1, max_length=2)
    edge_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    maximum_paths: int = Field(default=8, ge=1, le=64, strict=True)
    maximum_prefixes: int | None = Field(default=None, ge=1, le=65536, strict=True)
    maximum_edge_nodes: int = Field(default=16, ge=1, le=256, strict=True)


class OnPrem(_Settings):
    """An existing cluster, its nodes labelled by their role, with routers of your own.

    ``kubeconfig_file`` is relative to the project; without it the secret `samegate:kubeconfig` holds the text. ``edge_nodes`` names the
    labelled edge nodes; it is what ``nodes`` of peers and pools may refer to and what the stack exports. ``routers`` are those whose
    configuration is to be generated; it changes nothing on them.
    """

    kind: Literal["onprem"] = "onprem"
    kubeconfig_file: str | None = Field(default=None, min_length=1)
    context: str | None = Field(default=None, min_length=1)
    edge_nodes: tuple[str, ...] = Field(min_length=1)
    routers: tuple[Router, ...] = ()

    @field_validator("edge_nodes")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"edge node {name!r} is named twice: names are unique in a cluster. Remove one")
        return names

    @model_validator(mode="after")
    def _routers_fit(self) -> OnPrem:
        for what, values in (
            ("name", [r.name for r in self.routers]),
            ("peer", [peer for r in self.routers for peer in r.peers]),
        ):
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"routers have the {what} {value!r} twice: a peer is one router. Remove one")
        for router in self.routers:
            if router.maximum_paths < len(self.edge_nodes):
                raise ValueError(
                    f"maximumPaths {router.maximum_paths} of router {router.name} is less than the {len(self.edge_nodes)} edge nodes: some would never get "
                    f"a packet. Set at least {len(self.edge_nodes)}"
                )
            if router.maximum_edge_nodes < len(self.edge_nodes):
                raise ValueError(
                    f"maximumEdgeNodes {router.maximum_edge_nodes} of router {router.name} is less than the {len(self.edge_nodes)} edge nodes: the last to "
                    f"come would be refused. Set at least {len(self.edge_nodes)}"
                )
        return self


class App(_Settings):
    """A folder of plain manifests. ``images`` replaces image names in them, as `images` of kustomize does; by digest.

    The name `samegate` is replaced by the stack's image unless it is given here.
    """

    path: str = Field(min_length=1)
    images: dict[str, str] = {}

    @field_validator("images")
    @classmethod
    def _digests(cls, images: dict[str, str]) -> dict[str, str]:
        for image in images.values():
            _by_digest(image)
        return images


class StackSettings(_Settings):
    """Everything a stack says, but for its secrets."""

    platform: OnPrem | Aws | Gcp = Field(discriminator="kind")
    image: str
    agent: AgentSettings
    apps: tuple[App, ...] = ()

    @field_validator("image")
    @classmethod
    def _image(cls, image: str) -> str:
        return _by_digest(image)

    @model_validator(mode="after")
    def _consistent(self) -> StackSettings:
        known = set(self.edge_node_names)
        named = [(f"peer {p.name}", p.nodes) for p in self.agent.bgp.peers]
        for who, nodes in (*named, *((f"pool {p.name}", p.nodes) for p in self.agent.pools)):
            for node in nodes:
                if node not in known:
                    raise ValueError(
                        f"{who} names the edge node {node!r}, which the platform does not have ({', '.join(sorted(known))}). "
                        "Correct the one or the other"
                    )
        paths = [app.path for app in self.apps]
        for path in paths:
            if paths.count(path) > 1:
                raise ValueError(f"app {path!r} is listed twice: its objects would be created twice. Remove one")
        return self

    @property
    def edge_node_names(self) -> tuple[str, ...]:
        """The edge nodes as peers and pools name them."""
        return self.platform.edge_nodes if isinstance(self.platform, OnPrem) else node_names(self.platform)

    @property
    def bgp_key_names(self) -> tuple[str, ...]:
        """The keys that the BGP Secret must have, sorted."""
        return tuple(sorted({peer.password_key for peer in self.agent.bgp.peers if peer.password_key is not None}))


def parse(raw: Mapping[str, Any], *, bgp_keys: Iterable[str] = ()) -> StackSettings:
    """Settings from plain JSON values, keyed as in the stack file without the prefix. ``bgp_keys`` are the names of the BGP keys there are.

    Raises:
        ConfigError: a value breaks a rule; the message names value, rule and way out.
    """
    for name in SECRET_KEYS:
        if name in raw:
            raise ConfigError(
                f"{PREFIX}:{name}",
                "a secret never stands among the settings",
                f"Use: pulumi config set --secret {PREFIX}:{name}",
            )
    platform = _platform(raw.get("platform"))
    values = {**raw, "platform": platform} if platform is not None else dict(raw)
    if isinstance(platform, Aws | Gcp):
        values["agent"] = completed(platform, raw.get("agent"), f"{PREFIX}.agent")
    try:
        settings = StackSettings.model_validate(values)
    except ValidationError as error:
        raise config_error(error, PREFIX) from None
    if isinstance(platform, Aws | Gcp):
        check(platform, settings.agent)
    given = set(bgp_keys)
    for name in settings.bgp_key_names:
        if name not in given:
            raise ConfigError(
                f"passwordKey {name!r}",
                "a peer names a BGP key that is not set",
                f"Set it: pulumi config set --secret --path '{PREFIX}:bgpKeys.{name}'",
            )
    for name in sorted(given - set(settings.bgp_key_names)):
        raise ConfigError(
            f"{PREFIX}:bgpKeys.{name}",
            "no peer names this BGP key in its passwordKey, so its session would have none",
            f"Name it, or remove it: pulumi config rm --path '{PREFIX}:bgpKeys.{name}'",
        )
    return settings


def _platform(raw: Any) -> OnPrem | Aws | Gcp | None:
    """The platform by itself, since the agent's share of a cloud follows from it; None where there is none to read."""
    if not isinstance(raw, Mapping):
        return None
    kinds: dict[str, type[OnPrem] | type[Aws] | type[Gcp]] = {"onprem": OnPrem, **KINDS}
    kind = raw.get("kind", "onprem")
    if kind not in kinds:
        raise ConfigError(f"{PREFIX}.platform.kind = {kind!r}", "no such platform", f"Use one of {', '.join(kinds)}")
    try:
        return kinds[kind].model_validate(dict(raw))
    except ValidationError as error:
        raise config_error(error, f"{PREFIX}.platform") from None


def _cloud_definitions(definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The agent's settings without what follows from a cloud's platform."""
    agent, bgp, network = (definitions[name] for name in ("AgentSettings", "Bgp", "Network"))

    def without(definition: Mapping[str, Any], *names: str) -> dict[str, Any]:
        return {
            **definition,
            "properties": {k: v for k, v in definition["properties"].items() if k not in names},
            "required": [k for k in definition.get("required", ()) if k not in names],
        }

    own = without(network, *(k for k in network["properties"] if k not in OWN_NETWORK_KEYS))
    cloud = without(agent)
    cloud["required"] = [k for k in cloud["required"] if k != "network"]
    cloud["properties"] |= {"bgp": {"$ref": "#/$defs/CloudBgp"}, "network": {"$ref": "#/$defs/CloudNetwork"}}
    return {"CloudAgentSettings": cloud, "CloudBgp": without(bgp, "peers"), "CloudNetwork": own}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a stack file, for editors (`# yaml-language-server: $schema=schema.json`)."""
    schema = StackSettings.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs")
    definitions |= _cloud_definitions(definitions)
    secret = {
        "anyOf": [
            {"type": "string"},
            {"type": "object", "properties": {"secure": {"type": "string"}}, "required": ["secure"]},
        ]
    }
    keys = {f"{PREFIX}:{name}": value for name, value in schema["properties"].items()}
    keys[f"{PREFIX}:bgpKeys"] = {
        "type": "object",
        "additionalProperties": secret,
        "description": "TCP MD5 keys by the name that passwordKey uses.",
    }
    keys[f"{PREFIX}:kubeconfig"] = {
        **secret,
        "description": "The text of a kubeconfig, where platform.kubeconfigFile is not set.",
    }
    agent = f"{PREFIX}:agent"
    keys[agent] = {"type": "object"}
    of_cloud = {
        "properties": {f"{PREFIX}:platform": {"properties": {"kind": {"enum": list(KINDS)}}, "required": ["kind"]}}
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A samegate stack",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "properties": keys,
                "required": [f"{PREFIX}:platform", agent],
                "if": of_cloud,
                "then": {"properties": {agent: {"$ref": "#/$defs/CloudAgentSettings"}}},
                "else": {"properties": {agent: {"$ref": "#/$defs/AgentSettings"}}},
            },
            "encryptionsalt": {"type": "string"},
            "secretsprovider": {"type": "string"},
            "encryptedkey": {"type": "string"},
        },
        "required": ["config"],
        "$defs": definitions,
    }
