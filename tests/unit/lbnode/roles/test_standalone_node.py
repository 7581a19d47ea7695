"""An edge node that runs by a file, in simulated time: what changes in the file comes about, and a bad file changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from lbnode.errors import ConfigError
from lbnode.observe import EdgeMetrics
from lbnode.roles.edge import Edge
from lbnode.roles.outside import StandaloneNode, standalone_name
from tests.unit.lbnode.roles.world import VIP, WORKERS, World
from tests.unit.lbnode.standalone_file import FILE, text_of, with_value

DNS = ip_address("203.0.113.53")
#: FILE has the names and addresses of the world's nodes.


class StandaloneWorld(World):
    """The world of an edge node whose outside is a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text(text_of(FILE))
        self.outside = StandaloneNode(path, "edge", "edge1")
        super().__init__()

    def start(self) -> Edge:
        self.edge = Edge(
            "edge1",
            lambda: self.outside.settings,
            self.outside.copy,
            self.kernel,
            lambda _settings, _addresses: self.speaker,
            EdgeMetrics("test"),
            lambda: self.now_seconds,
        )
        return self.edge

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.outside.poll()

    def after(self, seconds: float) -> set[str]:
        """The VIPs announced so long from now."""
        asyncio.run(self.run(seconds))
        return {str(a) for a in self.speaker.history[-1]} if self.speaker.history else set()


@pytest.fixture
def world(tmp_path: Path) -> StandaloneWorld:
    return StandaloneWorld(tmp_path / "standalone.yaml")


def test_the_files_vips_are_programmed_and_announced_once_workers_answer(world: StandaloneWorld) -> None:
    asyncio.run(world.edge.pass_once())
    assert {VIP, DNS} <= world.kernel.addresses
    assert world.speaker.history == []
    assert world.after(2) == {str(VIP), str(DNS)}
    assert {s.key.port for s in world.kernel.services.values()} == {80, 53}


def test_an_unchanged_file_writes_nothing_to_the_kernel(world: StandaloneWorld) -> None:
    world.after(2)
    writes = world.kernel.writes
    world.write(text_of(FILE))
    world.after(20)
    assert world.kernel.writes == writes


def test_a_service_that_leaves_the_file_is_withdrawn_first_and_forwarded_for_a_while(world: StandaloneWorld) -> None:
    world.after(2)
    world.write(text_of(with_value(FILE["services"][:1], "services")))
    assert world.after(1) == {str(VIP)}
    assert DNS in world.kernel.addresses, "routers need a moment"
    # drain.withdrawSeconds is 5 by default.
    assert world.after(6) == {str(VIP)}
    assert DNS not in world.kernel.addresses


def test_draining_in_the_file_withdraws_everything_and_goes_on_forwarding(world: StandaloneWorld) -> None:
    world.after(2)
    world.write(text_of(with_value(True, "edgeNodes", 0, "draining")))
    assert world.after(1) == set()
    assert {VIP, DNS} <= world.kernel.addresses
    world.write(text_of(FILE))
    assert world.after(1) == {str(VIP), str(DNS)}


def test_the_worker_that_the_file_drains_gets_nothing_new(world: StandaloneWorld) -> None:
    world.after(2)
    world.write(
        text_of(with_value([{"name": "worker1", "drained": True}, {"name": "worker2"}], "services", 0, "workers"))
    )
    assert world.after(1) == {str(VIP), str(DNS)}
    [web] = [s for s in world.kernel.services.values() if s.key.port == 80]
    assert {d.address: d.drained for d in web.destinations} == {WORKERS["worker1"]: True, WORKERS["worker2"]: False}


def cut(path: Path) -> None:
    text = path.read_text()
    path.write_text(text[: text.index("- name: dns")])


def unlisted(path: Path) -> None:
    path.write_text(text_of(with_value(FILE["edgeNodes"][1:], "edgeNodes")))


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARMS: list[tuple[Callable[[Path], object], str]] = [
    (cut, "half-written"),
    (lambda p: p.write_text(""), "half-written"),
    (lambda p: p.write_text("a: [\n...\n"), "neither YAML nor JSON"),
    (lambda p: p.write_text(text_of(with_value(["198.18.1.1"], "services", 0, "addresses"))), "in no pool"),
    (unlisted, "node edge1: is not among edgeNodes (edge2)"),
    (lambda p: p.write_bytes(b"\xff\xfe...\n"), "cannot be read"),
    (lambda p: p.unlink(), "cannot be read"),
    (make_directory, "cannot be read"),
]


@pytest.mark.parametrize(("harm", "words"), HARMS, ids=[w for _, w in HARMS])
def test_a_bad_file_leaves_the_last_good_one_in_force_and_a_good_one_ends_that(
    world: StandaloneWorld, harm: Callable[[Path], object], words: str
) -> None:
    assert world.after(2) == {str(VIP), str(DNS)}
    writes, changes = world.kernel.writes, len(world.speaker.history)
    harm(world.path)
    assert world.outside.poll()
    assert words in world.outside.settings_error
    world.after(20)
    assert (world.kernel.writes, len(world.speaker.history)) == (writes, changes)
    assert not world.outside.poll(), "the same refusal is told once"

    if world.path.is_dir():
        world.path.rmdir()
    world.path.write_text(text_of(FILE))
    assert world.outside.poll()
    assert world.outside.settings_error == ""
    world.after(2)
    assert (world.kernel.writes, len(world.speaker.history)) == (writes, changes)


def test_another_data_plane_in_the_file_is_taken_by_the_next_agent_and_not_by_this_one(world: StandaloneWorld) -> None:
    assert not asyncio.run(world.outside.changes_dataplane())
    settings = FILE["settings"] | {"dataplane": "xdp", "xdp": {"devices": ["eth0"]}}
    world.path.write_text(text_of(with_value(settings, "settings")))
    assert world.outside.poll()
    assert world.outside.settings.dataplane == "ipvs"
    assert "systemctl restart samegate-edge" in world.outside.settings_pending
    assert world.outside.settings_error == ""
    assert asyncio.run(world.outside.changes_dataplane())
    assert StandaloneNode(world.path, "edge", "edge1").settings.dataplane == "xdp"


def test_a_worker_takes_a_file_with_either_data_plane(tmp_path: Path) -> None:
    path = tmp_path / "standalone.yaml"
    path.write_text(text_of(FILE))
    outside = StandaloneNode(path, "worker", "worker1")
    settings = FILE["settings"] | {"dataplane": "xdp", "xdp": {"devices": ["eth0"]}}
    path.write_text(text_of(with_value(settings, "settings")))
    assert outside.poll()
    assert outside.settings_error == ""
    assert not asyncio.run(outside.changes_dataplane())


def test_at_the_start_a_bad_file_is_an_error_because_there_is_no_good_one(tmp_path: Path) -> None:
    path = tmp_path / "standalone.yaml"
    path.write_text("settings: {}\n")
    with pytest.raises(ConfigError, match="half-written"):
        StandaloneNode(path, "edge", "edge1")


def test_the_node_is_the_one_given_or_that_of_the_environment_or_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "from-environment")
    assert (standalone_name("given"), standalone_name(None)) == ("given", "from-environment")
    monkeypatch.delenv("NODE_NAME")
    assert standalone_name(None) == Path("/proc/sys/kernel/hostname").read_text().strip()
