"""A stack's configuration: every mistake is told with value, rule and way out, before anything is registered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from stack_values import IMAGE, raw

from components.settings import json_schema, parse
from lbnode.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def _refused(values: dict[str, Any], *, keys: tuple[str, ...] = ("tor",)) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(values, bgp_keys=keys)
    return str(caught.value)


def test_a_valid_stack_is_read() -> None:
    settings = parse(raw(), bgp_keys=["tor"])
    assert settings.image == IMAGE
    assert settings.platform.edge_nodes == ("edge1", "edge2")
    assert settings.bgp_key_names == ("tor",)


@pytest.mark.parametrize(
    "image", ["samegate:latest", "samegate", "samegate@sha256:abc", "registry/x:1@md5:" + "0" * 64, ""]
)
def test_an_image_that_is_not_named_by_digest_is_refused(image: str) -> None:
    text = _refused(raw(image=image))
    assert "samegate.image" in text
    assert "named by digest" in text
    assert "python -m image build" in text


def test_an_app_image_that_is_not_named_by_digest_is_refused() -> None:
    text = _refused(raw(apps=[{"path": "apps/web", "images": {"web": "web:1"}}]))
    assert "apps.0.images" in text
    assert "named by digest" in text


def test_an_unknown_key_is_refused_by_its_name() -> None:
    text = _refused(raw(platfrom={}))
    assert "platfrom" in text
    assert "unknown settings key" in text


def test_an_unknown_key_of_the_agent_is_refused_with_its_path() -> None:
    values = raw()
    values["agent"]["bgp"]["holdTime"] = 9
    assert "samegate.agent.bgp.holdTime" in _refused(values)


def test_a_peer_of_an_unnamed_edge_node_is_refused() -> None:
    values = raw()
    values["agent"]["bgp"]["peers"][0]["nodes"] = ["edge9"]
    text = _refused(values)
    assert "edge9" in text
    assert "edge1, edge2" in text


def test_a_pool_on_an_unnamed_edge_node_is_refused() -> None:
    values = raw()
    values["agent"]["pools"][0]["nodes"] = ["edge9"]
    text = _refused(values)
    for words in ("pool public", "edge9", "edge1, edge2", "Correct"):
        assert words in text


def test_a_platform_without_edge_nodes_is_refused() -> None:
    assert "edgeNodes" in _refused(raw(platform={"kind": "onprem", "kubeconfigFile": "x", "edgeNodes": []}))


def test_an_edge_node_named_twice_is_refused() -> None:
    assert "'edge1' is named twice" in _refused(
        raw(platform={"kind": "onprem", "kubeconfigFile": "x", "edgeNodes": ["edge1", "edge1"]})
    )


def test_an_app_listed_twice_is_refused() -> None:
    assert "listed twice" in _refused(raw(apps=[{"path": "apps/web"}, {"path": "apps/web"}]))


def test_a_bgp_key_that_is_not_set_is_told_with_the_command_that_sets_it() -> None:
    text = _refused(raw(), keys=())
    assert "'tor'" in text
    assert "pulumi config set --secret --path 'samegate:bgpKeys.tor'" in text


def test_a_bgp_key_that_no_peer_uses_is_refused_since_its_session_would_have_none() -> None:
    assert "samegate:bgpKeys.spine" in _refused(raw(), keys=("tor", "spine"))


@pytest.mark.parametrize("name", ["bgpKeys", "kubeconfig"])
def test_a_secret_among_the_settings_is_refused_and_not_repeated(name: str) -> None:
    text = _refused(raw(**{name: "hunter2"}))
    assert f"--secret samegate:{name}" in text
    assert "hunter2" not in text


def test_the_committed_schema_is_the_current_one() -> None:
    committed = json.loads((ROOT / "stacks/schema.json").read_text())
    assert committed == json.loads(json.dumps(json_schema())), "run: python -m components.schema > stacks/schema.json"


@pytest.mark.parametrize("stack", sorted(p.name for p in (ROOT / "stacks").glob("Pulumi.*.yaml")))
def test_every_committed_stack_is_valid_and_refers_to_the_schema(stack: str) -> None:
    text = (ROOT / "stacks" / stack).read_text()
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    config = yaml.safe_load(text)["config"]
    assert all(key.startswith("samegate:") for key in config)
    values = {key.removeprefix("samegate:"): value for key, value in config.items()}
    # The lab's image is what `python -m lab deploy` has just pushed.
    settings = parse({"image": IMAGE, **values})
    for app in settings.apps:
        assert list((ROOT / app.path).glob("*.yaml")), app.path
