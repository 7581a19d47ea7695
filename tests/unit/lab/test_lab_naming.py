"""Several labs side by side: names that never meet on the host, and refusals that say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import __main__ as command_line
from lab import lock, naming, rack, topology

CHECKOUT = Path("/srv/samegate")
GOOD = st.one_of(st.just(""), st.from_regex(r"[a-z][a-z0-9]{0,7}", fullmatch=True))


@given(first=GOOD, second=GOOD)
def test_two_labs_of_a_checkout_share_no_namespace_and_neither_folder_lies_in_the_other(
    first: str, second: str
) -> None:
    if first == second:
        return
    one, other = naming.names(first, CHECKOUT), naming.names(second, CHECKOUT)
    assert set(one.namespaces).isdisjoint(other.namespaces)
    assert not one.state.is_relative_to(other.state)
    assert not other.state.is_relative_to(one.state)


@given(first=GOOD, second=GOOD)
def test_no_lab_finds_the_files_of_another_by_the_beginning_of_their_paths(first: str, second: str) -> None:
    if first != second:
        one, other = naming.names(first, CHECKOUT), naming.names(second, CHECKOUT)
        assert not f"{other.state}/run/edge1.json".startswith(f"{one.state}/")


def test_the_lab_without_a_name_is_called_as_ever() -> None:
    found = naming.names("", CHECKOUT)
    assert found.state == CHECKOUT / ".lab"
    assert found.namespaces == ("sg-core", "sg-tor1", "sg-tor2", "sg-rack", "sg-control", "sg-client")


@pytest.mark.parametrize("name", ["Bird", "9b", "a-b", "a_b", "a b", "../x", "ninechars", "bä", "b\n"])
def test_a_name_that_could_collide_or_grow_too_long_is_refused_with_value_rule_and_way_out(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        naming.names(name, CHECKOUT)
    said = str(caught.value)
    assert repr(name) in said
    assert "up to 7 lower-case letters or digits" in said
    assert "Choose one like" in said


def test_a_folder_whose_sockets_would_not_fit_is_refused() -> None:
    assert naming.too_long(Path("/" + "x" * 64)) is None
    assert "move the checkout" in (naming.too_long(Path("/" + "x" * 65)) or "")


def test_the_longest_state_path_leaves_room_for_every_socket() -> None:
    # unix(7): sun_path has 108 bytes, the last of them 0. UML's control socket lies deepest of those with fixed names.
    deepest = max(len(f"/uml/{node.name}/mconsole") for node in topology.NODES)
    assert naming.LONGEST_STATE_PATH + max(deepest, 40) < 108


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["up"], (None, ["up"])),
        (["--name", "b", "up", "--json"], ("b", ["up", "--json"])),
        (["--name=b", "down"], ("b", ["down"])),
        (["exec", "edge1", "--", "x", "--name", "y"], (None, ["exec", "edge1", "--", "x", "--name", "y"])),
    ],
)
def test_the_name_stands_before_the_command(given: list[str], expected: tuple[str | None, list[str]]) -> None:
    assert naming.split(given) == expected


def test_a_bad_name_on_the_command_line_is_an_error_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("it started"))
    assert command_line.main(["--name", "A-B", "up"]) == 2
    assert "lab name 'A-B'" in capsys.readouterr().err
    assert command_line.main(["--name"]) == 2
    assert "before the command" in capsys.readouterr().err


def test_a_named_lab_is_commanded_by_a_process_that_carries_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def execve(program: str, argv: list[str], environment: dict[str, str]) -> None:
        started.append((argv[1:], environment))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", execve)
    with pytest.raises(SystemExit):
        command_line.main(["--name", "b", "status", "--json"])
    ((argv, environment),) = started
    assert argv == ["-m", "lab", "status", "--json"]
    assert environment["SAMEGATE_LAB"] == "b"


_SHOW = """
import json
from lab import control_plane, credentials, cluster, deploy, machines, processes, registry, routers, topology
from lab.report import run, bench
places = [processes.RECORDS, processes.LOGS, credentials.PKI, credentials.SSH, credentials.KUBECONFIGS, machines.DIRECTORY, machines.SOCKETS]
places += [registry.DIRECTORY, routers.DIRECTORY, control_plane.ETCD_DATA, cluster._ARCHIVES, cluster._APPLIED, deploy.DIRECTORY]
places += [deploy.IMAGE_ARCHIVE, run.REPORT, run.SAMPLES, bench._SOURCES_FILE]
ends = [end.namespace for link in topology.LINKS for end in (link.left, link.right)] + [r.namespace for r in topology.ROUTERS]
print(json.dumps({"places": [str(p.relative_to(topology.ROOT)) for p in places], "namespaces": sorted({*ends, *topology.NAMESPACES})}))
"""


def _as_loaded(name: str) -> dict[str, list[str]]:
    environment = {**os.environ, "SAMEGATE_LAB": name}
    done = subprocess.run(
        [sys.executable, "-c", _SHOW], cwd=topology.ROOT, env=environment, capture_output=True, text=True, check=True
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_what_labs_of_different_names_make_on_the_host_has_different_names() -> None:
    labs = {name: _as_loaded(name) for name in ("", "a", "ab")}
    for one, other in combinations(labs, 2):
        assert set(labs[one]["namespaces"]).isdisjoint(labs[other]["namespaces"])
        assert set(labs[one]["places"]).isdisjoint(labs[other]["places"])
    for name, folder in (("", ".lab/"), ("a", ".lab-a/"), ("ab", ".lab-ab/")):
        assert all(place.startswith(folder) for place in labs[name]["places"])


def test_a_bad_name_in_the_environment_ends_every_command_with_one_line() -> None:
    environment = {**os.environ, "SAMEGATE_LAB": "No"}
    done = subprocess.run(
        [sys.executable, "-m", "lab", "status"],
        cwd=topology.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.startswith("error: SAMEGATE_LAB: lab name 'No'")
    assert done.stderr.count("\n") == 1


def test_what_is_left_of_another_lab_is_no_leftover_of_this_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(topology, "STATE", tmp_path / ".lab")
    monkeypatch.setattr("lab.netns.existing", lambda: frozenset({"sg-b-core", "sg-core"}))
    other = tmp_path / ".lab-b" / "run"
    other.mkdir(parents=True)
    with subprocess.Popen(["sh", "-c", "read line", str(other)], stdin=subprocess.PIPE) as process:
        found = rack.leftovers()
        process.terminate()
    # This machine may have a lab up, whose namespaces are mounts.
    assert [item for item in found if not item.startswith("mount /run/netns/sg-")] == ["namespace sg-core"]


@pytest.mark.parametrize("name", ["", "b"])
def test_a_lab_that_is_being_changed_refuses_others_and_another_lab_does_not_care(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(topology, "ROOT", tmp_path)
    monkeypatch.setattr(topology, "NAME", name)
    monkeypatch.setattr(topology, "STATE", naming.names(name, tmp_path).state)
    with lock.held(alone=True):
        with pytest.raises(lock.Busy, match="wait for it"), lock.held(alone=False):
            pass
        with monkeypatch.context() as other:
            other.setattr(topology, "NAME", "c")
            other.setattr(topology, "STATE", naming.names("c", tmp_path).state)
            with lock.held(alone=True):
                pass
    with lock.held(alone=False), lock.held(alone=False), pytest.raises(lock.Busy), lock.held(alone=True):
        pass


def test_a_lock_on_a_folder_that_was_removed_meanwhile_is_taken_on_the_new_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(topology, "NAME", "b")
    monkeypatch.setattr(topology, "STATE", tmp_path / ".lab-b")
    with lock.held(alone=True):
        topology.STATE.rmdir()
        with lock.held(alone=True):
            with pytest.raises(lock.Busy), lock.held(alone=True):
                pass
            assert topology.STATE.is_dir()
