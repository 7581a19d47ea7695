"""Which packages are missing, and an installation that starts nothing."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tools import debian
from tools.progress import Progress

STATUS = """\
Package: make
Status: install ok installed
Architecture: amd64
Description: words: with a colon
 Status: this indented line is no field

Package: frr
Status: deinstall ok config-files
Conffiles:
 /etc/frr/daemons 0

Package: bird2
Status: install ok half-configured
"""


def a_status(tmp_path: Path, text: str = STATUS) -> Path:
    path = tmp_path / "status"
    path.write_text(text)
    return path


def test_only_fully_installed_packages_count() -> None:
    assert debian.installed(STATUS) == {"make"}


def test_missing_packages_are_named_with_their_reason_before_anything_happens(tmp_path: Path) -> None:
    log, seen = io.StringIO(), []
    debian.ensure(
        {"make": "builds", "frr": "the routers"},
        (),
        Progress(log),
        status_file=a_status(tmp_path),
        policy_file=tmp_path / "policy-rc.d",
        run=lambda command: seen.append((command, log.getvalue())),
        is_root=True,
    )
    assert [command[:2] for command, _ in seen] == [["apt-get", "update"], ["apt-get", "install"]]
    assert seen[1][0][-1] == "frr"
    assert "frr: the routers" in seen[0][1]
    assert "make" not in log.getvalue()


def test_nothing_is_run_when_nothing_is_missing(tmp_path: Path) -> None:
    def refuse(command: list[str]) -> None:
        raise AssertionError(command)

    done = debian.ensure(
        {"make": ""}, (), Progress(io.StringIO()), status_file=a_status(tmp_path), run=refuse, is_root=False
    )
    assert done == ()


def test_without_root_the_error_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(debian.PackageError, match="apt-get install frr bird2"):
        debian.ensure(
            {"frr": "a", "bird2": "b"}, (), Progress(io.StringIO()), status_file=a_status(tmp_path), is_root=False
        )


def test_a_machine_without_dpkg_is_told_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(debian.PackageError, match="Debian 12"):
        debian.missing(["make"], tmp_path / "absent")


def test_services_may_not_start_during_the_installation_only(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with debian.no_service_starts(policy):
        assert "exit 101" in policy.read_text()
        assert policy.stat().st_mode & 0o111
    assert not policy.exists()


def test_a_failed_installation_puts_the_machines_own_policy_back(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("the machine's own")
    with pytest.raises(debian.PackageError), debian.no_service_starts(policy):
        raise debian.PackageError("apt-get failed")
    assert policy.read_text() == "the machine's own"


def test_the_policy_survives_a_run_that_was_killed(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("the machine's own")
    killed = debian.no_service_starts(policy)
    killed.__enter__()  # and never left
    with debian.no_service_starts(policy):
        pass
    assert policy.read_text() == "the machine's own"


@pytest.mark.parametrize(("has_systemd", "disabled"), [(True, [["frr.service"]]), (False, [])])
def test_services_that_come_along_stay_off_and_those_that_ran_before_are_left_alone(
    tmp_path: Path, has_systemd: bool, disabled: list[list[str]]
) -> None:
    units, commands = tmp_path / "units", []
    units.mkdir()
    (units / "bird.service").touch()

    def install(command: list[str]) -> None:
        commands.append(command)
        (units / "frr.service").touch()

    debian.ensure(
        {"frr": ""},
        ("bird.service", "frr.service", "absent.service"),
        Progress(io.StringIO()),
        status_file=a_status(tmp_path),
        policy_file=tmp_path / "policy-rc.d",
        run=install,
        is_root=True,
        has_systemd=has_systemd,
        unit_folders=[units],
    )
    assert [command[3:] for command in commands if command[:2] == ["systemctl", "disable"]] == disabled
