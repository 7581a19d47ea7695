"""The command as people and programs call it: over real HTTP on loopback, with typer's runner."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from typer.testing import CliRunner, Result

from lbnode.command import view
from lbnode.command.app import app
from tests.unit.lbnode.command.rack import (
    EDGES,
    VIP,
    Cluster,
    Server,
    edge_page,
    edge_status,
    kubeconfig,
    nodes,
    worker_status,
)

ROOT = Path(__file__).resolve().parents[4]


class Rack:
    """A cluster that is served, and the command to ask it with."""

    def __init__(self, cluster: Cluster, config: Path) -> None:
        self.cluster = cluster
        self.config = config

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--kubeconfig", str(self.config)])

    def json(self, *arguments: str, code: int = 0) -> Any:
        done = self.run(*arguments, "--json")
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    opened = Server()
    yield opened
    opened.close()


@pytest.fixture
def rack(server: Server, tmp_path: Path) -> Rack:
    cluster = Cluster()
    return Rack(cluster, kubeconfig(tmp_path, server.serve(cluster)))


def test_a_rack_in_which_all_is_well_says_so_with_code_0(rack: Rack) -> None:
    said = rack.json("status")
    assert said["vips"] == [
        {
            "vip": VIP,
            "service": "default/web",
            "sharing": [],
            "announced_by": ["edge1", "edge2"],
            "withheld": [],
            "silent": [],
            "destinations": {"worker1": True, "worker2": True, "worker3": True},
        }
    ]
    assert {(a["role"], a["state"], a["through"]) for a in said["agents"]} == {
        ("edge", "serves", "node"),
        ("worker", "ready", "node"),
        ("controller", "leads", "node"),
    }
    assert said["notes"] == []


def test_piped_it_is_plain_lines_with_aligned_columns_and_no_frame(rack: Rack) -> None:
    done = rack.run("status")
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "Addresses",
        "VIP           SERVICE      ANNOUNCED BY  WHY NOT ELSEWHERE  WORKERS",
        "203.0.113.10  default/web  edge1, edge2  -                  worker1, worker2, worker3",
    ]
    assert "\x1b" not in done.stdout
    assert not set("│┃─━") & set(done.stdout)


def test_on_a_terminal_there_are_tables(rack: Rack) -> None:
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    environment.pop("NO_COLOR", None)
    here, there = pty.openpty()
    command = [sys.executable, "-m", "lbnode.command", "status", "--kubeconfig", str(rack.config)]
    with subprocess.Popen(command, stdout=there, stderr=subprocess.DEVNULL, env=environment, cwd=ROOT) as running:
        os.close(there)
        shown = b""
        while True:
            try:
                part = os.read(here, 65536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            shown += part
        assert running.wait(20) == 0
    os.close(here)
    text = shown.decode()
    assert "┃" in text
    assert VIP in text
    assert "\x1b[32m" in text, "what is well is green"


def test_where_nodes_cannot_be_reached_agents_are_asked_through_the_api_server(rack: Rack) -> None:
    rack.cluster.direct = False
    said = rack.json("status")
    assert {a["through"] for a in said["agents"]} == {"API server"}
    assert any(f"/pods/samegate-edge-edge1:{rack.cluster.port}/proxy/v1/status" in path for path in rack.cluster.asked)


def test_somebody_elses_agent_at_a_nodes_address_is_not_taken_for_it(rack: Rack) -> None:
    """On an operator's own network the address may belong to another cluster's node."""
    real = rack.cluster.page

    def confused(who: str, path: str) -> tuple[int, str, bytes]:
        return real("edge2" if who == "edge1" and path == "/v1/status" else who, path)

    rack.cluster.page = confused  # type: ignore[method-assign]
    edge1 = next(a for a in rack.json("status", code=1)["agents"] if a["node"] == "edge1")
    assert "answers edge edge2, not the edge agent of edge1" in edge1["state"]


def test_a_node_without_an_agent_is_told_and_the_others_are_shown(rack: Rack) -> None:
    del rack.cluster.statuses["edge2"]
    done = rack.run("status")
    assert done.exit_code == 1
    assert "edge2: does not answer" in done.stdout
    assert "203.0.113.10  default/web  edge1 " in done.stdout


def test_an_agent_that_stands_still_costs_its_own_answer_only(rack: Rack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process still has its connections accepted by the kernel."""
    monkeypatch.setattr(view, "DIRECT_TIMEOUT", httpx2.Timeout(0.3))
    monkeypatch.setattr("lbnode.kube.client.REQUEST_TIMEOUT_SECONDS", 0.5)
    real, released = rack.cluster.page, threading.Event()

    def stopped(who: str, path: str) -> tuple[int, str, bytes]:
        if who == "edge1":
            released.wait(10)
        return real(who, path)

    rack.cluster.page = stopped  # type: ignore[method-assign]
    try:
        states = {a["node"]: a["state"] for a in rack.json("status", code=1)["agents"] if a["role"] == "edge"}
    finally:
        released.set()
    assert states["edge2"] == "serves"
    assert states["edge1"].endswith("/v1/status: no answer in time; through the API server: no answer in time")


# Whom it asks


def test_without_a_kubeconfig_it_says_which_file_it_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    done = CliRunner().invoke(app, ["status"])
    assert done.exit_code == 2
    assert f"{tmp_path}/nowhere: there is no such file" in done.stderr
    assert "--kubeconfig" in done.stderr


def test_an_unknown_context_is_told_with_the_known_ones(rack: Rack) -> None:
    done = rack.run("status", "--context", "prod")
    assert done.exit_code == 2
    assert "context prod" in done.stderr
    assert "There are: rack" in done.stderr


def test_of_several_kubeconfigs_the_one_that_knows_the_context_is_taken(
    rack: Rack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = kubeconfig(tmp_path, "http://127.0.0.1:9", "other")
    other.write_text(other.read_text().replace("name: rack", "name: elsewhere").replace("current-context: rack", ""))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/missing:{other}:{rack.config}")
    assert CliRunner().invoke(app, ["routes", "--context", "rack"]).exit_code == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read"),
        ("- a list", "cannot be read"),
        ("clusters: []\ncontexts: []\n", "no current context"),
        (
            "clusters: []\ncontexts: [{name: a, context: {cluster: b, user: c}}]\ncurrent-context: a\n",
            "no cluster or user 'b'",
        ),
        (
            "clusters: [{name: b, cluster: {server: 'http://127.0.0.1:9'}}]\ncontexts: [{name: a, context: {cluster: b}}]\ncurrent-context: a\n",
            "names no user",
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    done = CliRunner().invoke(app, ["status", "--kubeconfig", str(path)])
    assert done.exit_code == 2
    assert told in done.stderr
    assert "Traceback" not in done.output


def test_a_cluster_that_does_not_answer_is_told_with_its_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    done = CliRunner().invoke(app, ["status", "--kubeconfig", str(kubeconfig(tmp_path, address))])
    assert done.exit_code == 2
    assert f"the API server {address} does not answer" in done.stderr


def with_plugin(rack: Rack, script: str, version: str = "v1") -> Path:
    """The rack's kubeconfig with a credential plugin in the place of the token."""
    config = yaml.safe_load(rack.config.read_text())
    run = {"apiVersion": f"client.authentication.k8s.io/{version}", "command": "sh", "args": ["-c", script]}
    config["users"][0]["user"] = {"exec": run}
    rack.config.write_text(yaml.safe_dump(config))
    return rack.config


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_credential_plugin_is_asked_in_its_version_and_its_token_is_used(rack: Rack, version: str) -> None:
    wanted = "$(echo $KUBERNETES_EXEC_INFO | grep -o 'k8s.io/[a-z0-9]*')"
    with_plugin(rack, f'echo "{{\\"status\\": {{\\"token\\": \\"{wanted}\\"}}}}"', version)
    assert rack.run("routes").exit_code == 0
    assert set(rack.cluster.authorizations) == {f"Bearer k8s.io/{version}"}


@pytest.mark.parametrize("script", ["exit 3", "echo babble", "echo '{}'", "echo '[]'"])
def test_a_credential_plugin_that_fails_or_babbles_is_told(rack: Rack, script: str) -> None:
    with_plugin(rack, script)
    done = rack.run("status")
    assert done.exit_code == 2
    assert "its credentials cannot be had" in done.stderr


def test_a_credential_plugin_that_is_not_there_is_told_with_its_name(rack: Rack) -> None:
    config = yaml.safe_load(rack.config.read_text())
    config["users"][0]["user"] = {
        "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin"}
    }
    rack.config.write_text(yaml.safe_dump(config))
    done = rack.run("status")
    assert done.exit_code == 2
    assert "its credentials cannot be had" in done.stderr
    assert "no-such-plugin" in done.stderr


@pytest.mark.parametrize("server", ["not a url", "ftp://127.0.0.1", "http://[", "http://127.0.0.1:999999"])
def test_a_server_that_is_no_address_is_told(tmp_path: Path, server: str) -> None:
    done = CliRunner().invoke(app, ["status", "--kubeconfig", str(kubeconfig(tmp_path, server))])
    assert done.exit_code == 2
    assert f"its server {server!r} is no URL" in done.stderr


def test_a_cluster_without_samegate_asks_for_the_context(rack: Rack) -> None:
    done = rack.run("status", "--namespace", "elsewhere")
    assert done.exit_code == 2
    assert "samegate is not installed there: no ConfigMap elsewhere/samegate-settings" in done.stderr
    assert "--context" in done.stderr


@pytest.mark.parametrize(
    ("forbidden", "right"),
    [
        ("/configmaps/", "get configmaps in namespace samegate-system"),
        ("/api/v1/nodes", "list nodes in the whole cluster"),
        ("/services", "list services in the whole cluster"),
        ("/endpointslices", "list endpointslices.discovery.k8s.io in the whole cluster"),
    ],
)
def test_a_right_that_is_missing_is_named(rack: Rack, forbidden: str, right: str) -> None:
    rack.cluster.forbidden = {forbidden}
    done = rack.run("status")
    assert done.exit_code == 2
    assert f"lacks the right to {right}. " in done.stderr


def test_all_missing_rights_are_named_at_once(rack: Rack) -> None:
    rack.cluster.forbidden = {"/api/", "/apis/"}
    done = rack.run("doctor")
    assert "list nodes in the whole cluster; list services in the whole cluster; list endpointslices" in done.stderr


def test_without_the_right_to_list_pods_agents_are_asked_directly_and_it_is_said(rack: Rack) -> None:
    rack.cluster.forbidden = {"samegate-system/pods"}
    said = rack.json("status")
    assert {a["role"] for a in said["agents"]} == {"edge", "worker"}
    assert any("list pods in namespace samegate-system" in note for note in said["notes"])


def test_without_the_right_to_the_proxy_the_silence_names_it(rack: Rack) -> None:
    rack.cluster.direct, rack.cluster.forbidden = False, {"/proxy/"}
    said = rack.json("status", code=1)
    assert all("get pods/proxy in namespace samegate-system" in a["state"] for a in said["agents"])


# Versions


def test_an_older_agent_without_the_newer_fields_is_shown_and_what_it_does_not_tell_is_said(rack: Rack) -> None:
    for field in ("version", "settings_error"):
        del rack.cluster.statuses["edge1"][field]
    rack.cluster.pages["edge1"] = None
    said = rack.json("status")
    assert said["vips"][0]["announced_by"] == ["edge1", "edge2"]
    (note,) = said["notes"]
    assert "edge agent on edge1 (version unknown) is older than this command" in note
    assert "settings_error, version, the page /v1/node" in note


def test_a_newer_agent_with_unknown_fields_is_read_and_its_version_said(rack: Rack) -> None:
    rack.cluster.statuses["edge1"] |= {"version": "9.0.0", "colour": {"of": "new"}}
    said = rack.json("status")
    assert said["vips"][0]["announced_by"] == ["edge1", "edge2"]
    assert ["has version 9.0.0" in note for note in said["notes"]] == [True]


def test_settings_of_a_newer_installation_do_not_stop_an_older_command(rack: Rack) -> None:
    pool = {"name": "public", "cidrs": ["203.0.113.0/24"], "unheardOf": 3}
    rack.cluster.settings_changes = {"pools": [pool], "yetToCome": True, "forwarding": "teleport"}
    said = rack.json("status")
    (note,) = said["notes"]
    for name in ("pools.0.unheardOf", "yetToCome", "forwarding"):
        assert name in note


@pytest.mark.parametrize(("text", "told"), [("{", "not JSON"), ("{}", "pools"), ("[1]", "settings")])
def test_settings_that_say_too_little_are_told(rack: Rack, text: str, told: str) -> None:
    rack.cluster.settings_text = text
    done = rack.run("status")
    assert done.exit_code == 2
    assert told in done.stderr


@pytest.mark.parametrize("page", [{"role": "edge", "node": "edge1", "vips": "none"}, {"role": 3}, {}, [1, 2]])
def test_a_page_that_cannot_be_read_makes_that_agent_silent_and_no_other(rack: Rack, page: Any) -> None:
    rack.cluster.statuses["edge1"] = page
    states = {a["node"]: a["state"] for a in rack.json("status", code=1)["agents"] if a["role"] == "edge"}
    assert states["edge2"] == "serves"
    assert states["edge1"].startswith("does not answer: ")


# Arguments


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("why", "somewhere"), "neither an address nor NAMESPACE/NAME"),
        (("why", "203.0.113.99"), f"There are: {VIP}"),
        (("why", "198.51.100.1"), "no pool holds it (203.0.113.0/24)"),
        (("why", "shop/none"), "Those of samegate: default/web"),
        (("explain", "198.18.8.2", f"{VIP}:80"), "not ADDRESS:PORT"),
        (("explain", "198.18.8.2:0", f"{VIP}:80"), "not ADDRESS:PORT"),
        (("explain", "[2001:db8::1]:4", f"{VIP}:80"), "one is IPv4, the other IPv6"),
        (("explain", "198.18.8.2:4", f"{VIP}:81"), "It has: 80/tcp"),
        (("explain", "198.18.8.2:4", f"{VIP}:80", "--protocol", "dccp"), "Write one of tcp, udp, sctp"),
        (("explain", "198.18.8.2:4", "203.0.113.99:80"), f"There are: {VIP}"),
        (("drain", "edge9"), "Edge nodes and workers: edge1, edge2, worker1, worker2, worker3"),
    ],
)
def test_an_argument_that_names_nothing_is_told_with_the_way_out(
    rack: Rack, arguments: tuple[str, ...], told: str
) -> None:
    done = rack.run(*arguments)
    assert done.exit_code == 2
    assert told in done.stderr
    assert rack.cluster.patches == []


# Drain


def draining(cluster: Cluster) -> Any:
    """The edge node's agent follows the annotation, as the real one does."""

    def follow(name: str, patch: Any) -> None:
        on = patch["metadata"]["annotations"]["samegate.dev/drain"] is not None
        line = {"announce": not on, "announced": not on, "reason": "Draining" if on else "Announced"}
        cluster.statuses[name] = edge_status(name, draining=on, vip=line)

    return follow


def test_drain_sets_the_annotation_and_waits_until_the_edge_node_announces_nothing(rack: Rack) -> None:
    rack.cluster.on_patch = draining(rack.cluster)
    said = rack.json("drain", "edge1", "--wait")
    assert said["done"] is True
    assert rack.cluster.patches == [
        ("/api/v1/nodes/edge1", {"metadata": {"annotations": {"samegate.dev/drain": "true"}}})
    ]


@pytest.mark.parametrize("undo", [("drain", "edge1", "--undo", "--wait"), ("undrain", "edge1", "--wait")])
def test_undrain_removes_it_and_waits_until_the_edge_node_serves_again(rack: Rack, undo: tuple[str, ...]) -> None:
    rack.cluster.on_patch = draining(rack.cluster)
    draining(rack.cluster)("edge1", {"metadata": {"annotations": {"samegate.dev/drain": "true"}}})
    assert rack.json(*undo)["done"] is True
    assert rack.cluster.patches == [
        ("/api/v1/nodes/edge1", {"metadata": {"annotations": {"samegate.dev/drain": None}}})
    ]


def test_a_drain_that_nobody_follows_ends_with_the_timeout_and_says_what_is_left(rack: Rack) -> None:
    said = rack.json("drain", "edge1", "--wait", "--timeout", "0", code=1)
    assert said["done"] is False
    assert said["left"] == f"edge1 still announces {VIP}"


def test_a_worker_is_drained_when_no_edge_node_sends_it_new_connections(rack: Rack) -> None:
    said = rack.json("drain", "worker2", "--wait", "--timeout", "0", code=1)
    assert said["left"] == "edge1, edge2 still send new connections"
    rack.cluster.pages |= {n: edge_page(drained=("worker2",)) for n in EDGES}
    assert rack.json("drain", "worker2", "--wait")["done"] is True


def test_the_last_edge_node_that_announces_is_drained_by_force_only(rack: Rack) -> None:
    rack.cluster.statuses["edge2"] = edge_status(
        "edge2", vip={"announce": False, "announced": False, "reason": "NoHealthyWorker"}
    )
    done = rack.run("drain", "edge1")
    assert done.exit_code == 2
    assert f"no other edge node announces {VIP}" in done.stderr
    assert rack.cluster.patches == []
    assert rack.run("drain", "edge1", "--force").exit_code == 0


def test_the_right_to_drain_is_named(rack: Rack) -> None:
    rack.cluster.forbidden = {"/nodes/edge1"}
    done = rack.run("drain", "edge1")
    assert done.exit_code == 2
    assert "lacks the right to patch nodes in the whole cluster" in done.stderr


def test_a_node_that_has_no_role_is_not_drained(rack: Rack) -> None:
    rack.cluster.objects["nodes"] = [*nodes(), {**nodes()[0], "metadata": {"name": "cp1", "labels": {}}}]
    done = rack.run("drain", "cp1")
    assert done.exit_code == 2
    assert "neither an edge node nor a worker" in done.stderr


# Bundle


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        files = {m.name.split("/", 1)[1]: tar.extractfile(m) for m in tar.getmembers()}
        return {name: file.read().decode() for name, file in files.items() if file is not None}


def test_a_bundle_holds_pages_objects_logs_and_answers_and_no_secret(rack: Rack, tmp_path: Path) -> None:
    service = rack.cluster.objects["services"][0]
    last_applied = {"kubectl.kubernetes.io/last-applied-configuration": '{"password": "hunter2-last"}'}
    service["metadata"]["annotations"] = {**last_applied, "example.com/api-token": "hunter2-annotation"}
    rack.cluster.statuses["edge1"]["last_error"] = "Authorization: Bearer hunter2hunter2"
    path = tmp_path / "support.tar.gz"
    said = rack.json("bundle", "--output", str(path))
    files = unpacked(path)
    assert sorted(files) == said["files"]
    assert {
        "answers/doctor.json",
        "objects/services.json",
        "agents/edge1-edge/node.json",
        "agents/edge1-edge/bird.log",
    } <= files.keys()
    assert json.loads(files["agents/edge1-edge/status.json"])["node"] == "edge1"
    assert '"event": "fine"' in files["agents/worker1-worker/agent.log"]
    assert [name for name, text in files.items() if "hunter2" in text] == []
    assert path.stat().st_mode & 0o077 == 0


def test_a_bundle_without_the_right_to_logs_is_made_and_says_what_it_lacks(rack: Rack, tmp_path: Path) -> None:
    rack.cluster.forbidden = {"/log"}
    path = tmp_path / "support.tar.gz"
    said = rack.json("bundle", "--output", str(path), code=1)
    assert all("get pods/log in namespace samegate-system" in what for what in said["lacking"])
    assert len(said["lacking"]) == 8, "two containers on each edge node, one on each worker, one controller"
    assert "lacking: agents/edge1-edge/bird.log" in unpacked(path)["MANIFEST.txt"]


def test_a_bundle_does_not_overwrite_a_file(rack: Rack, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_text("mine")
    done = rack.run("bundle", "--output", str(path))
    assert done.exit_code == 2
    assert "File exists" in done.stderr
    assert path.read_text() == "mine"


# Every verb


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("why", VIP),
        ("why", "default/web"),
        ("explain", "198.18.8.2:40000", f"{VIP}:80"),
        ("routes",),
        ("doctor",),
    ],
)
def test_every_verb_is_fine_on_a_rack_in_which_all_is_well(rack: Rack, arguments: tuple[str, ...]) -> None:
    done = rack.run(*arguments)
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert isinstance(rack.json(*arguments), dict)


def test_worker_trouble_reaches_doctor_over_http(rack: Rack) -> None:
    rack.cluster.statuses["worker1"] = worker_status(
        "worker1", warnings=["device tunl0 is up. Run `ip link set tunl0 down`"]
    )
    findings = rack.json("doctor", code=1)["findings"]
    assert [(f["where"], "tunl0" in f["what"]) for f in findings] == [("worker1", True)]
