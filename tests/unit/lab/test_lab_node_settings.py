"""What a machine finds at boot."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import node_settings, topology

GOLDEN = Path(__file__).parent / "golden"


def test_the_set_up_of_a_node_is_the_golden_one() -> None:
    assert node_settings.setup_script(topology.node("edge1")) == (GOLDEN / "edge1-setup.sh").read_text()


@pytest.mark.parametrize("node", topology.NODES, ids=lambda node: node.name)
def test_a_shell_can_read_the_set_up(node: topology.Node) -> None:
    shell = shutil.which("dash") or "sh"
    script = node_settings.setup_script(node)
    assert subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize("node", topology.NODES, ids=lambda node: node.name)
def test_a_node_routes_to_the_pods_of_every_other_node_and_not_to_its_own(node: topology.Node) -> None:
    lines = node_settings.setup_script(node).splitlines()
    routes = {line for line in lines if " via " in line and "default" not in line}
    others = [other for other in topology.NODES if other is not node]
    assert routes == {
        *(f"ip route replace {o.pod_network} via {o.address}" for o in others),
        *(f"ip -6 route replace {o.pod_network6} via {o.address6}" for o in others),
    }


def test_the_default_route_has_both_tors() -> None:
    for node in topology.NODES:
        script = node_settings.setup_script(node)
        assert "ip route replace default nexthop via 198.18.0.2 nexthop via 198.18.0.3" in script
        assert "ip -6 route replace default nexthop via 2001:db8:0:1::2 nexthop via 2001:db8:0:1::3" in script


def test_pods_get_addresses_of_their_node() -> None:
    for node in topology.NODES:
        ranges = node_settings.pod_network(node)["plugins"][0]["ipam"]["ranges"]
        assert ranges == [[{"subnet": str(node.pod_network)}], [{"subnet": str(node.pod_network6)}]]


def test_the_kubelet_lets_nobody_in_without_the_api_server() -> None:
    configuration = node_settings.kubelet_configuration()
    assert configuration["authentication"]["anonymous"] == {"enabled": False}
    assert configuration["authorization"]["mode"] == "Webhook"


def test_kube_proxy_is_in_iptables_mode() -> None:
    for node in topology.NODES:
        assert node_settings.kube_proxy_configuration(node)["mode"] == "iptables"


def test_secrets_are_passed_on_as_they_are(tmp_path: Path) -> None:
    secret = tmp_path / "kubelet.key"
    secret.write_text("key material\n")
    files = node_settings.files(topology.node("worker2"), {"kubelet.key": secret})
    assert files["kubelet.key"] == "key material\n"
    assert json.loads(files["kubelet.yaml"])["kind"] == "KubeletConfiguration"
    assert files["environment"] == "NODE_NAME=worker2\nNODE_ADDRESS=198.18.0.22,2001:db8:0:1::22\n"
