"""What a node is, read from made-up files and from this kernel."""

from __future__ import annotations

import gzip
from ipaddress import ip_address
from pathlib import Path

from lbnode.observe.machine import Machine, mh_table_index, path_mtu_bytes

LOOPBACK = ip_address("127.0.0.1")


def machine(tmp_path: Path, at_work: dict[str, bool]) -> Machine:
    proc, sysctls = tmp_path / "proc", tmp_path / "sys"
    (sysctls / "ipv4/vs").mkdir(parents=True)
    (sysctls / "netfilter").mkdir()
    proc.mkdir()
    (proc / "modules").write_text("ip_vs 192512 2 ip_vs_mh, Live 0x0\nipip 20480 0 - Live 0x0\n")
    (sysctls / "ipv4/vs/sloppy_tcp").write_text("1\n")
    (sysctls / "ipv4/ping_group_range").write_text("0\t65535\n")
    (sysctls / "netfilter/nf_conntrack_count").write_text("12\n")
    (sysctls / "netfilter/nf_conntrack_max").write_text("1000\n")
    names = ("net.ipv4.vs.sloppy_tcp", "net.ipv4.ping_group_range", "net.ipv4.vs.missing")
    return Machine(lambda: at_work, names, lambda: [LOOPBACK], sysctls, proc)


def test_a_module_is_loaded_or_seen_at_work_or_absent(tmp_path: Path) -> None:
    facts = machine(tmp_path, {"ip_vs": False, "ip_vs_mh": True, "nf_tables": False}).facts()
    assert facts["modules"] == {"ip_vs": "loaded", "ip_vs_mh": "built in", "nf_tables": "absent"}


def test_sysctls_that_exist_are_told_with_single_spaces_and_others_left_out(tmp_path: Path) -> None:
    facts = machine(tmp_path, {}).facts()
    assert facts["sysctls"] == {"net.ipv4.vs.sloppy_tcp": "1", "net.ipv4.ping_group_range": "0 65535"}
    assert facts["conntrack"] == {"count": 12, "max": 1000}


def test_a_node_without_any_of_the_files_still_tells_the_rest(tmp_path: Path) -> None:
    facts = Machine(lambda: {"ip_vs": False}, ("net.ipv4.ip_forward",), list, tmp_path, tmp_path).facts()
    assert (facts["modules"], facts["sysctls"], facts["conntrack"]) == ({"ip_vs": "absent"}, {}, None)
    assert facts["kernel_release"]


def test_the_path_mtu_of_loopback_is_its_devices_or_the_largest_packet() -> None:
    """IPv4's length field has 16 bits (RFC 791), and the device is wider than that."""
    device = int(Path("/sys/class/net/lo/mtu").read_text())
    assert path_mtu_bytes(LOOPBACK) == min(device, 65535)


def test_a_peer_that_no_device_leads_to_has_no_mtu() -> None:
    assert path_mtu_bytes(ip_address("fe80::1")) is None, "a link-local address without a zone names no device"


def test_the_table_index_is_read_from_a_kernel_that_shows_its_configuration(tmp_path: Path) -> None:
    shown, silent, broken = (tmp_path / name for name in ("shown", "silent", "broken"))
    for folder in (shown, silent, broken):
        folder.mkdir()
    (shown / "config.gz").write_bytes(gzip.compress(b"CONFIG_IP_VS=m\nCONFIG_IP_VS_MH_TAB_INDEX=14\n"))
    (broken / "config.gz").write_bytes(b"not gzip")
    assert mh_table_index(shown) == 14
    assert mh_table_index(silent) is None
    assert mh_table_index(broken) is None
