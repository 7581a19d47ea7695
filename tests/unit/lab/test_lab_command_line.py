"""`python -m lab` as a user types it, without a lab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from lab import __main__ as command_line
from lab import netns, processes, rack, status, topology
from lab.routers import Session
from lab.status import MachineStatus, ProgramStatus, Status


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(topology, "STATE", tmp_path / ".lab")
    return tmp_path / ".lab"


def whole() -> Status:
    return Status(
        machines=(MachineStatus("edge1", "edge", "198.18.0.11", 12, 400, "Ready"),),
        programs=(ProgramStatus("etcd", 13, None),),
        sessions=(Session("tor1", "198.18.0.11", 65010, "Established", "up", 2),),
        vips={"203.0.113.7": {"tor1": ("198.18.0.11", "198.18.0.12")}},
        bfd_downs=0,
    )


def test_a_command_for_a_place_that_does_not_exist_names_the_places(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["exec", "worker9", "true"]) == 2
    said = capsys.readouterr().err
    assert "'worker9'" in said
    assert "worker1, worker2" in said
    assert "tor1" in said


def test_logs_of_something_unknown_name_the_logs_there_are(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "logs").mkdir(parents=True)
    (state / "logs" / "etcd.log").write_text("started\n")
    assert command_line.main(["logs", "nothing"]) == 2
    assert "etcd" in capsys.readouterr().err


def test_logs_are_cut_to_the_lines_asked_for(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "logs").mkdir(parents=True)
    (state / "logs" / "etcd.log").write_text("".join(f"line {n}\n" for n in range(10)))
    assert command_line.main(["logs", "etcd", "--lines", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == ["line 7", "line 8", "line 9"]


def test_a_status_with_a_dead_program_is_not_whole() -> None:
    found = whole()
    assert found.whole
    dead = Status(found.machines, (ProgramStatus("etcd", None, "not running"),), found.sessions, {}, 0)
    assert not dead.whole


def test_a_status_with_a_node_that_is_not_ready_is_not_whole() -> None:
    found = whole()
    sick = (MachineStatus("edge1", "edge", "198.18.0.11", 12, 400, "NotReady"),)
    assert not Status(sick, found.programs, found.sessions, {}, 0).whole


def test_the_status_as_json_has_what_the_table_shows() -> None:
    document = json.loads(whole().to_json())
    assert document["whole"] is True
    assert document["vips"] == {"203.0.113.7": {"tor1": ["198.18.0.11", "198.18.0.12"]}}
    assert document["machines"][0]["node"] == "Ready"


def test_the_table_names_next_hops_by_their_machines() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(status.render(whole()))
    console.file.close()
    text = console.export_text()
    assert "edge1, edge2" in text
    assert "203.0.113.7" in text


def test_the_memory_of_a_process_is_what_the_kernel_says() -> None:
    import os

    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    measured = status.resident_mib(os.getpid())
    assert measured is not None
    assert abs(measured - kib / 1024) < 8


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert status.resident_mib(2**22 + 1) is None  # above the largest pid (proc(5), pid_max)


def test_down_keeps_the_engine_state_of_other_stacks(state: Path) -> None:
    stacks = state / "pulumi-state" / ".pulumi" / "stacks" / "samegate"
    stacks.mkdir(parents=True)
    (stacks / "lab.json").write_text("{}")
    assert rack._kept() == []
    (stacks / "onprem.json").write_text("{}")
    assert rack._kept() == [state / "pulumi-state", state / "pulumi-passphrase"]


def test_without_root_the_lab_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "needs root" in (rack.prerequisites() or "")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: None if name in ("skopeo", "linux.uml") else f"/usr/bin/{name}")
    said = rack.prerequisites() or ""
    assert "apt-get install skopeo user-mode-linux" in said


def test_a_failing_command_is_quoted_with_what_it_said() -> None:
    with pytest.raises(netns.CommandError, match=r"`sh -c .*` ended with code 3: out of paper") as caught:
        netns.run(None, ["sh", "-c", "echo out of paper >&2; exit 3"])
    assert caught.value.returncode == 3


def test_a_command_that_may_fail_gives_its_code() -> None:
    assert netns.run(None, ["sh", "-c", "exit 3"], check=False).returncode == 3


def test_everything_a_run_makes_lies_below_the_state_directory() -> None:
    from lab import cluster, control_plane, credentials, machines, registry, routers

    places = [processes.RECORDS, processes.LOGS, credentials.PKI, credentials.SSH, credentials.KUBECONFIGS]
    places += [machines.DIRECTORY, machines.SOCKETS, registry.DIRECTORY, routers.DIRECTORY, control_plane.ETCD_DATA]
    places += [cluster._ARCHIVES, cluster._APPLIED]
    assert [path for path in places if not path.is_relative_to(topology.ROOT / ".lab")] == []
