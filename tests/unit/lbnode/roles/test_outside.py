"""What an edge node's agent learns of the pods that come after its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from lightkube import AsyncClient
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import Cluster as KubeCluster
from lightkube.config.models import User

from lbnode.errors import ConfigError
from lbnode.roles.loop import SettingsFile
from lbnode.roles.outside import Cluster, dataplane_of
from tests.unit.lbnode.roles.world import SETTINGS

XDP = [{"name": "DATA_PLANE", "value": "xdp"}]
LATER = [{"name": "DATA_PLANE", "value": "of the future"}]


def daemon_set(variables: list[dict[str, Any]]) -> dict[str, Any]:
    """As the API server has it: BIRD beside the agent, and variables whose values are not plain."""
    node_name = {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    containers = [{"name": "other", "env": XDP}, {"name": "agent", "env": [node_name, *variables]}]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "samegate-edge", "namespace": "samegate-system"},
        "spec": {
            "selector": {"matchLabels": {"app": "edge"}},
            "template": {"metadata": {"labels": {"app": "edge"}}, "spec": {"containers": containers}},
        },
    }


def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: httpx2.Response | None, own: str = "") -> Cluster:
    def server(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/apis/apps/v1/namespaces/samegate-system/daemonsets/samegate-edge"
        if answer is None:
            raise httpx2.ConnectError("refused")
        return answer

    config = KubeConfig.from_one(cluster=KubeCluster(server="http://api.example"), user=User(token="t"))
    monkeypatch.setattr(
        "lbnode.roles.outside.client", lambda: AsyncClient(config=config, transport=httpx2.MockTransport(server))
    )
    for name, value in (("NODE_NAME", "edge1"), ("NODE_ADDRESS", "198.18.0.11"), ("DAEMONSET_NAME", "samegate-edge")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATA_PLANE", own)
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    return Cluster(SettingsFile(path))


@pytest.mark.parametrize(
    ("own", "variables", "changes"),
    [("", [], False), ("", XDP, True), ("xdp", XDP, False), ("xdp", [], True), ("", LATER, True)],
    ids=["ipvs stays", "ipvs to xdp", "xdp stays", "xdp to ipvs", "to one of a later image"],
)
def test_the_daemonset_says_whether_the_next_pod_has_another_data_plane(
    own: str, variables: list[dict[str, Any]], changes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = agent(tmp_path, monkeypatch, httpx2.Response(200, json=daemon_set(variables)), own)
    assert asyncio.run(outside.changes_dataplane()) is changes


@pytest.mark.parametrize(
    "answer", [None, httpx2.Response(503, text="no"), httpx2.Response(404, text="{}")], ids=["silent", "503", "gone"]
)
def test_an_api_server_that_does_not_say_changes_nothing(
    answer: httpx2.Response | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for own in ("", "xdp"):
        assert asyncio.run(agent(tmp_path, monkeypatch, answer, own).changes_dataplane()) is False


def test_a_pod_whose_environment_says_nothing_is_one_for_ipvs() -> None:
    assert (dataplane_of({}), dataplane_of({"DATA_PLANE": "xdp"})) == ("ipvs", "xdp")


def test_a_data_plane_that_nobody_knows_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"DATA_PLANE=ebpf: is neither ipvs nor xdp\. Set it as the manifest does"):
        dataplane_of({"DATA_PLANE": "ebpf"})
