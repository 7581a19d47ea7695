"""The units and the example of standalone mode, judged by systemd's own tools and by the agent's own reader."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lbnode.standalone import parse

UNITS = Path(__file__).parents[3] / "image" / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
#: `systemd-analyze security` counts from 0 (nothing exposed) to 10.
MOST_EXPOSURE = 2.5

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def setting(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda u: u.stem)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: Path, tmp_path: Path) -> None:
    # Programs are looked for on this machine, not below RootDirectory=, so each is put where it is found.
    [command] = setting(unit, "ExecStart")
    program = command.split()[0]
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(f"ExecStart={program}", "ExecStart=/bin/sh"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60, check=False
    )
    # A Wants= on a sibling that is not installed here is no finding of systemd's.
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_does_find_a_misspelt_setting(tmp_path: Path) -> None:
    """The control for the test above."""
    copy = tmp_path / "samegate-edge.service"
    copy.write_text((UNITS / copy.name).read_text().replace("NoNewPrivileges=", "NoNewPriviliges="))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60, check=False
    )
    assert "NoNewPriviliges" in done.stderr


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda u: u.stem)
def test_a_unit_exposes_little(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit], capture_output=True, text=True, timeout=60, check=False
    )
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) < MOST_EXPOSURE


@pytest.mark.parametrize("unit", SERVICES, ids=lambda u: u.stem)
def test_a_unit_has_no_more_privileges_than_the_pod(unit: Path) -> None:
    # docs/adr/0003-privileges.md
    assert setting(unit, "CapabilityBoundingSet") == ["CAP_NET_ADMIN"]
    assert setting(unit, "NoNewPrivileges") == ["yes"]
    assert setting(unit, "ProtectSystem") == ["strict"]
    assert setting(unit, "SystemCallFilter") == ["@system-service"]


def test_the_drop_in_for_xdp_adds_what_the_pod_gets_with_it_and_nothing_else() -> None:
    # docs/adr/0003-privileges.md. Lists of both kinds add up (systemd.exec).
    drop_in = UNITS / "samegate-edge.service.d" / "xdp.conf"
    assert setting(drop_in, "CapabilityBoundingSet") == ["CAP_BPF CAP_PERFMON"]
    assert setting(drop_in, "SystemCallFilter") == ["bpf"]
    assert setting(drop_in, "BindPaths") == setting(drop_in, "ReadWritePaths") == ["/sys/fs/bpf"]


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_edge_with_the_drop_in_for_xdp(tmp_path: Path) -> None:
    unit = UNITS / "samegate-edge.service"
    [command] = setting(unit, "ExecStart")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(f"ExecStart={command.split()[0]}", "ExecStart=/bin/sh"))
    shutil.copytree(UNITS / f"{unit.name}.d", tmp_path / f"{unit.name}.d")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_bird_and_agent_share_one_directory_that_outlives_both() -> None:
    for name in ("samegate-edge", "samegate-bird"):
        unit = UNITS / f"{name}.service"
        assert (setting(unit, "RuntimeDirectory"), setting(unit, "RuntimeDirectoryPreserve")) == (["samegate"], ["yes"])


def test_the_example_file_is_good_and_the_units_read_it() -> None:
    file = parse((UNITS / "standalone.yaml").read_text(), "standalone.yaml")
    assert [s.name for s in file.services] == ["web", "dns"]
    for name in ("samegate-edge", "samegate-worker"):
        assert setting(UNITS / f"{name}.service", "ExecStart")[0].endswith("--standalone /etc/samegate/standalone.yaml")
