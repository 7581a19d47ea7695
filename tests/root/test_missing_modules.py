"""A kernel that lacks a module: the error names it and how to load it, at each place that needs one. Tried on a real kernel without them."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from lab import throwaway

pytestmark = pytest.mark.root

_INSIDE = """
import json, subprocess, sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from lbnode.dataplane.edge import KernelEdge
from lbnode.dataplane.worker import KernelWorker
from lbnode.errors import ConfigError
from lbnode.model import Protocol, Tunnel, VirtualKey, VirtualService
from lbnode.packet_tables import EdgeFilter
from lbnode.operations import AddProbeDevice, AddService, EnsureTunnel, ReplaceFilter

POOLS = (ip_network("203.0.113.0/24"),)
NODE = ip_address("198.51.100.11")
WEB = VirtualService(VirtualKey(ip_address("203.0.113.7"), Protocol.TCP, 80))
Path("/proc/sys/kernel/modprobe").write_text("/bin/false")
said = {}

def attempt(name, act):
    try:
        act()
        said[name] = ["fine", ""]
    except Exception as error:
        said[name] = [type(error).__name__, str(error)]

def edge():
    return KernelEdge(POOLS, record_directory=Path("/run/record"))

attempt("read without ip_vs", lambda: edge().read())
subprocess.run(["/run/modprobe", "ip_vs"], check=True)
attempt("service without ip_vs_mh", lambda: edge().apply([AddService(WEB)]))
attempt("probe device without ipip", lambda: edge().apply([AddProbeDevice(4)]))
attempt("probe device without ip6_tunnel", lambda: edge().apply([AddProbeDevice(6)]))
worker = KernelWorker(POOLS, (ip_network("192.0.2.0/24"),), record_directory=Path("/run/record"))
attempt("tunnel without ipip", lambda: worker.apply([EnsureTunnel(Tunnel(NODE, ip_address("198.51.100.21")))]))
over_ipv6 = Tunnel(ip_address("2001:db8::11"), ip_address("2001:db8::21"))
attempt("tunnel without ip6_tunnel", lambda: worker.apply([EnsureTunnel(over_ipv6)]))
attempt("filter without its matches", lambda: edge().apply([ReplaceFilter(EdgeFilter(POOLS, frozenset()))]))
subprocess.run(["/run/modprobe", "ip_vs_mh", "ipip", "ip6_tunnel"], check=True)
attempt("service with ip_vs_mh", lambda: edge().apply([AddService(WEB)]))
attempt("probe device with ipip", lambda: edge().apply([AddProbeDevice(4)]))
attempt("probe device with ip6_tunnel", lambda: edge().apply([AddProbeDevice(6)]))
subprocess.run(["/run/modprobe", "iptable_raw", "xt_CT", "xt_tcpudp"], check=True)
said["limit without xt_hashlimit"] = edge().limits_syn()
subprocess.run(["/run/modprobe", "xt_hashlimit"], check=True)
said["limit with xt_hashlimit"] = edge().limits_syn()
Path("/mnt/said.json").write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """Kind and text of the error at each step, in a machine whose kernel loads nothing by itself."""
    for tool in (throwaway.KERNEL, "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian packages user-mode-linux, gcc)")
    with tempfile.TemporaryDirectory(prefix="sgc-") as exchange:
        result = throwaway.run(
            [sys.executable, "-c", _INSIDE],
            Path(exchange),
            cwd=Path(__file__).resolve().parents[2],
            timeout_seconds=240,
        )
        answer = Path(exchange) / "said.json"
        assert answer.exists(), f"{result.output}\n{result.console[-2000:]}"
        found: dict[str, Any] = json.loads(answer.read_text())
    return found


@pytest.mark.parametrize(
    ("step", "module"),
    [
        ("read without ip_vs", "ip_vs"),
        ("service without ip_vs_mh", "ip_vs_mh"),
        ("probe device without ipip", "ipip"),
        ("tunnel without ipip", "ipip"),
        ("probe device without ip6_tunnel", "ip6_tunnel"),
        ("tunnel without ip6_tunnel", "ip6_tunnel"),
    ],
)
def test_a_missing_module_is_named_with_how_to_load_it(said: dict[str, Any], step: str, module: str) -> None:
    kind, text = said[step]
    assert kind == "ConfigError", text
    assert f"modprobe {module}" in text
    assert "modules-load.d" in text


def test_a_filter_whose_modules_are_missing_says_so(said: dict[str, Any]) -> None:
    kind, text = said["filter without its matches"]
    assert kind == "ConfigError", text
    assert "iptables" in text or "nf_tables" in text


@pytest.mark.parametrize("step", ["service with ip_vs_mh", "probe device with ipip", "probe device with ip6_tunnel"])
def test_with_the_module_the_same_step_works(said: dict[str, Any], step: str) -> None:
    assert said[step] == ["fine", ""]


def test_a_limit_of_new_connections_is_tried_before_it_is_asked_for(said: dict[str, Any]) -> None:
    assert (said["limit without xt_hashlimit"], said["limit with xt_hashlimit"]) == (False, True)
