"""What a role is started with."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from lbnode.roles import start

NETWORKS = (ip_network("203.0.113.0/24"), ip_network("2001:db8:113::/64"))


@pytest.mark.parametrize(("families", "kept"), [(("ipv4",), NETWORKS[:1]), (("ipv4", "ipv6"), NETWORKS)])
def test_a_kernel_without_ipv6_is_given_no_ipv6_network(
    families: tuple[str, ...], kept: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for family in families:
        (tmp_path / family).mkdir()
    monkeypatch.setattr(start, "MOUNTED_SYSCTLS", tmp_path)
    assert start.networks_of_this_kernel(NETWORKS) == kept
