"""One bulk transfer over one connection, timed, with the segment size that the two ends agreed on."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import Literal

from lab.traffic.answer import family_of


@dataclass(frozen=True, slots=True)
class Transfer:
    """`transferred_bytes` in `seconds`; `error` is one word when it did not complete, and `mss_bytes` what the client may send."""

    direction: Literal["get", "put"]
    wanted_bytes: int
    transferred_bytes: int
    seconds: float
    mss_bytes: int
    error: str | None
    answered: str

    @property
    def complete(self) -> bool:
        return self.error is None and self.transferred_bytes == self.wanted_bytes


def _line(sock: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        part = sock.recv(1)
        if not part:
            raise EOFError
        received += part
    return received


def transfer(
    target: tuple[str, int],
    direction: Literal["get", "put"],
    wanted_bytes: int,
    source: str | None,
    timeout_seconds: float,
    wait: float = 0,
) -> Transfer:
    """`get N` reads N bytes from the echo app, `put N` sends them and waits until it confirms.

    `wait` seconds pass between the connection and the transfer, for a fault to be put in the way. No bytes for `timeout_seconds` ends it.
    """
    done, error, answered, mss_bytes = 0, None, "", 0
    began = time.monotonic()
    with socket.socket(family_of(target[0]), socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_seconds)
        try:
            if source:
                sock.bind((source, 0))
            sock.connect(target)
            answered = _line(sock).decode().strip()
            time.sleep(wait)
            began = time.monotonic()
            deadline = began + timeout_seconds
            sock.sendall(f"{direction} {wanted_bytes}\n".encode())
            if direction == "get":
                while done < wanted_bytes:
                    sock.settimeout(max(0.001, deadline - time.monotonic()))
                    part = sock.recv(min(65536, wanted_bytes - done))
                    if not part:
                        raise EOFError
                    done += len(part)
            else:
                sock.sendall(b"y" * wanted_bytes)
                _line(sock)
                done = wanted_bytes
        except TimeoutError:
            error = "timeout"
        except (OSError, EOFError) as failure:
            error = type(failure).__name__
        seconds = time.monotonic() - began
        mss_bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    return Transfer(direction, wanted_bytes, done, round(seconds, 3), mss_bytes, error, answered)
