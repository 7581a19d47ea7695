"""Sysctls under another base path, and the record of former values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lbnode.dataplane.sysctl import Record, Sysctls
from lbnode.errors import ConfigError

NAME = "net.ipv4.vs.sloppy_tcp"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "net/ipv4/vs").mkdir(parents=True)
    (tmp_path / "net/ipv4/vs/sloppy_tcp").write_text("0\n")
    (tmp_path / "net/ipv4/ping_group_range").write_text("1\t0\n")
    return tmp_path / "net"


def test_values_are_read_as_one_line_and_missing_ones_are_left_out(base: Path) -> None:
    values = Sysctls(base).read([NAME, "net.ipv4.ping_group_range", "net.ipv4.none"])
    assert values == {NAME: "0", "net.ipv4.ping_group_range": "1 0"}


def test_a_value_is_written_where_the_base_is(base: Path) -> None:
    Sysctls(base).write(NAME, "1")
    assert (base / "ipv4/vs/sloppy_tcp").read_text() == "1"


@pytest.mark.parametrize("name", ["kernel.panic", "netx.ipv4"])
def test_a_name_outside_net_is_refused(base: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="net"):
        Sysctls(base).write(name, "1")


def test_a_missing_sysctl_of_ipvs_names_its_module(tmp_path: Path) -> None:
    (tmp_path / "ipv4/vs").mkdir(parents=True)
    with pytest.raises(ConfigError, match="modprobe ip_vs"):
        # Opening for writing would create an ordinary file, which /proc never does.
        Sysctls(tmp_path / "nowhere").write(NAME, "1")


def test_the_first_value_stays_and_outlives_the_process(tmp_path: Path) -> None:
    Record(tmp_path / "state", "edge").keep(NAME, "0")
    later = Record(tmp_path / "state", "edge")
    later.keep(NAME, "1")
    assert later.values == {NAME: "0"}
    later.forget()
    assert Record(tmp_path / "state", "edge").values == {}


def test_one_name_is_forgotten_and_the_others_stay(tmp_path: Path) -> None:
    record = Record(tmp_path, "edge")
    record.keep(NAME, "0")
    record.keep("ipvs-timeouts", "900 120 300")
    record.drop("ipvs-timeouts")
    record.drop("never there")
    assert record.values == Record(tmp_path, "edge").values == {NAME: "0"}


def test_a_record_of_another_boot_or_in_pieces_counts_for_nothing(tmp_path: Path) -> None:
    file = tmp_path / "edge.json"
    for text in (json.dumps({"boot": "another", "before": {NAME: "0"}}), "{", "[]", '{"boot": 1}', ""):
        file.write_text(text)
        assert Record(tmp_path, "edge").values == {}
