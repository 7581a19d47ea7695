"""Which taps hand over packets as from a wire, and that it holds after a boot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lab import offloads, processes, topology
from lab.machines import Machine

EDGE1, EDGE2 = topology.EDGES
WORKER = topology.WORKERS[0]


class Taps:
    """The taps of a rack: as the machines' drivers set them at boot, until somebody says otherwise."""

    def __init__(self) -> None:
        self.on = {node.tap: True for node in topology.NODES}

    def ask(self, verb: str, taps: Sequence[str]) -> dict[str, dict[str, bool]]:
        if verb != "show":
            self.on |= dict.fromkeys(taps, verb == "on")
        return {tap: dict.fromkeys(offloads.FLAGS, self.on[tap]) for tap in taps}


@pytest.fixture
def taps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Taps:
    found = Taps()
    monkeypatch.setattr(offloads, "DECLARED", tmp_path / "wire-packets.json")
    monkeypatch.setattr(offloads, "_ask", found.ask)
    return found


def test_nothing_is_asked_while_nothing_is_declared(taps: Taps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloads, "_ask", None)
    offloads.declare(())
    offloads.keep(*topology.NODES)
    assert offloads.trouble() is None


def test_declared_nodes_get_packets_as_from_a_wire_and_others_do_not(taps: Taps) -> None:
    offloads.declare(topology.EDGES)
    assert offloads.trouble() is None
    assert {tap for tap, on in taps.on.items() if not on} == {"tap-edge1", "tap-edge2"}


def test_a_tap_that_a_boot_has_set_is_trouble_until_the_machine_is_ready(
    taps: Taps, monkeypatch: pytest.MonkeyPatch
) -> None:
    offloads.declare(topology.EDGES)
    taps.on[EDGE2.tap] = True
    assert "tap-edge2" in str(offloads.trouble())
    assert "tcp-segmentation-offload" in str(offloads.trouble())
    monkeypatch.setattr(processes, "pid_of", lambda _: 1)
    monkeypatch.setattr(Machine, "reachable", lambda _: True)
    Machine(WORKER.name).wait_ready()
    assert taps.on[WORKER.tap], "nobody declared it"
    Machine(EDGE2.name).wait_ready()
    assert offloads.trouble() is None


def test_what_is_no_longer_declared_is_as_machines_ask_for_it(taps: Taps) -> None:
    offloads.declare(topology.EDGES)
    offloads.declare([EDGE1])
    assert {tap for tap, on in taps.on.items() if not on} == {"tap-edge1"}
    offloads.declare(())
    offloads.keep(EDGE1)
    assert all(taps.on.values())
