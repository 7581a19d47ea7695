"""The echo app's protocol: it greets each connection, and answers each line or datagram, with who answered whom."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address

QUESTION = b"x\n"
"""What a client sends to be answered; the app answers any line it does not know as a command."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of the echo app: the pod, the client's address as the pod saw it, and the pod's node."""

    pod: str
    client: str
    node: str


def family_of(address: str) -> socket.AddressFamily:
    """The socket family that reaches an address."""
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


def parse(line: bytes) -> Answer:
    """An answer from `POD CLIENT NODE`.

    Raises ValueError that shows the line when it is anything else.
    """
    words = line.decode(errors="replace").split()
    if len(words) != 3:
        raise ValueError(
            f"{line[:80]!r} is not an answer of the echo app (POD CLIENT NODE): is another app behind this address?"
        )
    return Answer(*words)
