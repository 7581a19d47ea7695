"""The demo apps' programs, taken out of their manifests and run on the loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.app import load

ROOT = Path(__file__).resolve().parents[3]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def _running(app: str, tmp_path: Path, linger_seconds: float = 0.3) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The app's process and its port, once it listens."""
    (source,) = (m["data"][f"{app}.py"] for m in load(ROOT / "apps" / app) if m["kind"] == "ConfigMap")
    program = tmp_path / f"{app}.py"
    program.write_text(source)
    port = _free_port()
    environment = {
        **os.environ,
        "PORT": str(port),
        "POD_NAME": "pod-1",
        "NODE_NAME": "node-1",
        "LINGER_SECONDS": str(linger_seconds),
    }
    process = subprocess.Popen([sys.executable, "-u", str(program)], env=environment)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "the app does not listen"
                time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.wait()


def test_web_shows_the_address_that_it_sees(tmp_path: Path) -> None:
    with (
        _running("web", tmp_path) as (_, port),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer,
    ):
        assert answer.read() == b"127.0.0.1\n"
        assert (answer.headers["X-Pod"], answer.headers["X-Node"]) == ("pod-1", "node-1")


def test_web_answers_for_a_while_after_sigterm_and_then_ends(tmp_path: Path) -> None:
    with _running("web", tmp_path, linger_seconds=1.5) as (process, port):
        process.send_signal(signal.SIGTERM)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            assert answer.status == 200
        assert process.wait(timeout=20) == 0


def test_echo_says_pod_client_and_node_on_connect_and_for_every_line(tmp_path: Path) -> None:
    with (
        _running("echo", tmp_path) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
    ):
        lines = connection.makefile("rwb")
        assert lines.readline() == b"pod-1 127.0.0.1 node-1\n"
        lines.write(b"anything\n")
        lines.flush()
        assert lines.readline() == b"pod-1 127.0.0.1 node-1\n"


@pytest.mark.parametrize("count", [0, 1, 65536, 1_048_577])
def test_echo_sends_and_takes_as_many_bytes_as_asked(tmp_path: Path, count: int) -> None:
    with (
        _running("echo", tmp_path) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        lines = connection.makefile("rwb")
        lines.readline()
        lines.write(f"get {count}\n".encode())
        lines.flush()
        assert lines.read(count) == bytes(count)
        lines.write(f"put {count}\n".encode() + b"x" * count)
        lines.flush()
        assert lines.readline() == f"put {count}\n".encode()


def test_echo_answers_datagrams(tmp_path: Path) -> None:
    with _running("echo", tmp_path) as (_, port), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(b"x", ("127.0.0.1", port))
        assert client.recv(100) == b"pod-1 127.0.0.1 node-1\n"


def test_echo_stays_after_sigterm_until_its_last_connection_has_ended(tmp_path: Path) -> None:
    with _running("echo", tmp_path) as (process, port):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        lines = connection.makefile("rwb")
        lines.readline()
        process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        lines.write(b"still there?\n")
        lines.flush()
        assert lines.readline() == b"pod-1 127.0.0.1 node-1\n"
        lines.close()
        connection.close()
        assert process.wait(timeout=20) == 0


def test_echo_survives_hostile_lines(tmp_path: Path) -> None:
    with _running("echo", tmp_path) as (process, port):
        for hostile in (b"\xff\xfe\n", b"get -1\n", b"get 1e9\n", b"x" * 200_000 + b"\n", b"put 5\nab"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(hostile)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            assert connection.recv(100) == b"pod-1 127.0.0.1 node-1\n"
        assert process.poll() is None
