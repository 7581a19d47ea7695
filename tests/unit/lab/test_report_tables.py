"""Which data plane the report finds on an edge node, what it reads of it, and how it spoils it for a control."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.report import live_flows
from lab.report.bench import Target
from lab.report.ipvs_tables import IpvsTables
from lab.report.live_flows import LEAVER, STAYER, losing_moved_flows, picking_otherwise
from lab.report.tables import tables_of
from lab.report.xdp_tables import XdpTables

ECHO = Target("echo", "203.0.113.7", 7000, "tcp")
ECHO6 = Target("echo", "2001:db8:203:113::7", 7000, "udp")


class FakeMachine:
    """Answers each command with what stands first under a part of it, and keeps the commands."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.commands: list[str] = []
        self.inputs: list[str | None] = []

    def run(
        self,
        command: str,
        timeout_seconds: float = 60.0,
        *,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - the name subprocess.run uses
    ) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        self.inputs.append(input)
        said = next((answer for part, answer in self.answers.items() if part in command), "")
        return subprocess.CompletedProcess(command, 0, said, "")


# As iproute2 6.1 prints them.
PLAIN = "2: vec0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc fq_codel state UNKNOWN mode DEFAULT group default qlen 1000\\    link/ether 02:53"
GENERIC = (
    PLAIN.replace("mtu 1500", "mtu 1500 xdpgeneric") + "\\    prog/xdp id 7 name samegate tag 0123456789abcdef jited"
)


def test_a_program_at_the_network_device_is_the_data_plane() -> None:
    machine: Any = FakeMachine(link=PLAIN)
    assert isinstance(tables_of(machine), IpvsTables)
    machine = FakeMachine(link=GENERIC)
    assert isinstance(tables_of(machine), XdpTables)


def xdp_machine() -> FakeMachine:
    workers = {ECHO.key: [["198.18.0.21", 1, 40], ["198.18.0.22", 0, 2]]}
    return FakeMachine(services=json.dumps(workers), rings=json.dumps({ECHO.key: "ab"}), clear="0.75\n")


def test_the_maps_are_read_by_the_agents_files_and_python() -> None:
    machine: Any = xdp_machine()
    tables = XdpTables(machine)
    assert tables.table() == {"t 203.0.113.7:7000": [("198.18.0.21", 1), ("198.18.0.22", 0)]}
    assert tables.connections(ECHO) == 42
    assert tables.connections(ECHO6) == 0, "it is not served"
    assert tables.picks() == {"t 203.0.113.7:7000": "ab"}
    for command in machine.commands:
        words = shlex.split(command)
        assert words[:4] == ["exec", "nsenter", "--mount", "--target"]
        assert words[-4:-1] == ["/usr/bin/python3", "-I", "-"]
    assert all("bpf_obj_get" in str(given) for given in machine.inputs)


def test_services_are_named_to_the_script_as_one_word_each() -> None:
    machine: Any = xdp_machine()
    XdpTables(machine).pick_otherwise(ECHO, ECHO6)
    assert shlex.split(machine.commands[0])[-3:] == ["turn", "t 203.0.113.7:7000", "u [2001:db8:203:113::7]:7000"]


def test_how_long_a_table_was_empty_is_what_the_node_says_and_nothing_means_all_the_time() -> None:
    machine: Any = xdp_machine()
    assert XdpTables(machine).seconds_cleared(ECHO, 10) == 0.75
    machine = FakeMachine()
    assert XdpTables(machine).seconds_cleared(ECHO, 10) is None


def test_ipvs_picks_otherwise_by_a_weight_for_tcp_and_in_turn_for_udp() -> None:
    machine: Any = FakeMachine()
    assert IpvsTables(machine).pick_otherwise(ECHO, ECHO6) == "another weight and round robin"
    assert machine.commands == [
        "ipvsadm -e -t 203.0.113.7:7000 -r 198.18.0.21 -i -w 9",
        "ipvsadm -E -u [2001:db8:203:113::7]:7000 -s rr",
    ]


class FakeTables:
    """An edge node that an agent mends as soon as it runs."""

    def __init__(self, rack: FakeRack, name: str) -> None:
        self.rack, self.name = rack, name

    @property
    def dataplane(self) -> str:
        return self.rack.dataplane

    def pick_otherwise(self, *targets: Target) -> str:
        assert self.name in self.rack.paused, "an agent that runs would mend it at once"
        self.rack.spoilt[self.name] = [target.key for target in targets]
        return "spoilt"

    def picks(self) -> dict[str, object]:
        if self.name not in self.rack.paused:
            self.rack.spoilt.pop(self.name, None)
        return {"spoilt": self.rack.spoilt.get(self.name)}


class FakeRack:
    def __init__(self, dataplane: str) -> None:
        self.dataplane = dataplane
        self.paused: set[str] = set()
        self.spoilt: dict[str, list[str]] = {}
        self.edges = {LEAVER.name, STAYER.name}

    def tables(self, edge: str) -> FakeTables:
        return FakeTables(self, edge)

    @contextmanager
    def paused_agents(self, *nodes: str) -> Iterator[None]:
        self.paused |= set(nodes)
        yield
        self.paused -= set(nodes)


def test_an_edge_node_picks_otherwise_only_while_its_agent_is_paused_and_is_mended_before_anything_goes_on() -> None:
    rack: Any = FakeRack("xdp")
    with picking_otherwise(rack, LEAVER, ECHO, ECHO6) as how:
        assert how == "spoilt"
        assert rack.spoilt == {LEAVER.name: [ECHO.key, ECHO6.key]}
    assert rack.spoilt == {}


def test_moved_flows_are_lost_by_a_sysctl_of_ipvs_and_by_another_choice_of_xdp(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[tuple[str, ...]] = []

    @contextmanager
    def sysctl_held(_: object, *asked: str) -> Iterator[None]:
        held.append(asked)
        yield

    monkeypatch.setattr(live_flows, "sysctl_held", sysctl_held)
    rack: Any = FakeRack("ipvs")
    with losing_moved_flows(rack, ECHO) as how:
        assert how == "sloppy_tcp=0"
        assert rack.spoilt == {}
    assert held == [("net.ipv4.vs.sloppy_tcp", "0", "edge1", "edge2")]
    rack = FakeRack("xdp")
    with losing_moved_flows(rack, ECHO) as how:
        assert how == "spoilt on one edge node"
        assert rack.spoilt == {STAYER.name: [ECHO.key]}
    assert len(held) == 1
