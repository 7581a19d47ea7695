"""What else runs on the node: refusals name the way out; listeners are read from the kernel's own table."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from lbnode.roles.surroundings import (
    Surroundings,
    edge_refusal,
    kube_proxy_has_endpoints,
    listens_on,
    proxy_mode,
    worker_refusal,
)


@pytest.mark.parametrize("mode", ["iptables", "nftables", None])
def test_an_edge_node_serves_beside_kube_proxy_in_any_mode_but_ipvs(mode: str | None) -> None:
    assert edge_refusal(mode, frozenset({"lo", "eth0"})) is None


@pytest.mark.parametrize(("mode", "devices"), [("ipvs", set()), ("iptables", {"kube-ipvs0"}), (None, {"kube-ipvs0"})])
def test_kube_proxy_in_ipvs_mode_is_refused_on_an_edge_node_also_by_its_device_alone(
    mode: str | None, devices: set[str]
) -> None:
    refusal = edge_refusal(mode, frozenset(devices))
    assert refusal is not None
    assert "iptables or nftables mode" in refusal[1]


def test_an_ebpf_service_proxy_is_refused_on_a_worker() -> None:
    refusal = worker_refusal(None, frozenset({"lo", "cilium_host"}))
    assert refusal is not None
    assert refusal[0] == "EbpfServiceProxy"
    assert "kube-proxy" in refusal[1]


def test_cilium_beside_kube_proxy_is_fine() -> None:
    assert worker_refusal("iptables", frozenset({"lo", "cilium_host"})) is None


def test_a_listener_is_found_in_the_kernels_table_and_a_client_is_not_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        table = Path("/proc/net/tcp").read_text()
        assert listens_on(server.getsockname()[1], table)
        assert not listens_on(client.getsockname()[1], table)


def answering(reply: bytes) -> tuple[bool | None, str | None]:
    async def go() -> tuple[bool | None, str | None]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await kube_proxy_has_endpoints(port), await proxy_mode(port=port)

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\niptables", (True, "iptables")),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n{}", (False, None)),
        (b"nonsense", (None, None)),
        (b"", (None, None)),
    ],
    ids=["ready", "none", "nonsense", "hangs up"],
)
def test_kube_proxys_answers_are_read(reply: bytes, expected: tuple[bool | None, str | None]) -> None:
    assert answering(reply) == expected


def test_a_kube_proxy_that_is_not_there_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert asyncio.run(kube_proxy_has_endpoints(port)) is None


def test_a_change_of_the_refusal_wakes_the_role_once(tmp_path: Path) -> None:
    woken: list[int] = []
    (tmp_path / "lo").mkdir()
    surroundings = Surroundings(edge_refusal, lambda: woken.append(1), tmp_path, ())
    asyncio.run(surroundings.look())
    assert (surroundings.refusal, woken) == (None, [])
    (tmp_path / "kube-ipvs0").mkdir()
    asyncio.run(surroundings.look())
    asyncio.run(surroundings.look())
    assert surroundings.refusal is not None
    assert woken == [1]


def test_what_was_found_last_is_told_to_people(tmp_path: Path) -> None:
    for name in ("lo", "kube-ipvs0", "cilium_host", "eth0"):
        (tmp_path / name).mkdir()
    table = tmp_path / "tcp"
    table.write_text("  sl  local_address rem_address   st\n   0: 00000000:00B3 00000000:0000 0A 0\n")
    surroundings = Surroundings(edge_refusal, lambda: None, tmp_path, (table,))
    assert surroundings.facts() == {"proxy_mode": None, "proxy_devices": [], "other_speaker": False}
    asyncio.run(surroundings.look())
    found = surroundings.facts()
    assert found["proxy_devices"] == ["kube-ipvs0", "cilium_host"]
    assert found["other_speaker"] is True
