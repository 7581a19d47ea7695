"""Secrets in clear text, in any text: a state file, a plan, a log. Pure; a finding never repeats what it found."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import yaml

SHORTEST_CHARACTERS = 6
"""A shorter secret is in every long text by chance, and guessed anyway."""
_PRIVATE = (
    "-----BEGIN PRIVATE KEY",
    "-----BEGIN RSA PRIVATE KEY",
    "-----BEGIN EC PRIVATE KEY",
    "-----BEGIN OPENSSH PRIVATE KEY",
)


def _encoded(text: str) -> str:
    """The characters of its base64 that do not depend on what follows."""
    raw = text.encode()
    return base64.b64encode(raw[: len(raw) // 3 * 3]).decode()


#: What looks like a secret, whoever made it: what it is, to how it looks.
LOOKS: Mapping[str, re.Pattern[str]] = {
    "a private key": re.compile(
        "|".join(re.escape(form) for header in _PRIVATE for form in (header, _encoded(header)))
    ),
    # AWS, "Understanding unique ID prefixes" in the IAM user guide: AKIA for access keys, ASIA for temporary ones.
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    # Three parts of base64url, the first of which begins with `{"` (RFC 7519).
    "a JSON web token": re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
    # kubeadm's join token (Kubernetes: "Authenticating with Bootstrap Tokens").
    "a bootstrap token": re.compile(r"(?i)token\W{1,4}[a-z0-9]{6}\.[a-z0-9]{16}\b"),
    # A router's key that is no reference to one: as FRR, BIRD, VyOS, NX-OS, IOS-XE, EOS and Junos write it in a session.
    "a BGP key": re.compile(
        r"""(?:neighbor\ \S+\ password|peer-group\ \S+\ password|authentication-key|^\s*password)\ ["'\\]*(?!\$\{|["'\\\s])\S""",
        re.M,
    ),
}


@dataclass(frozen=True)
class Leak:
    """Where a secret stands: the text's name, the line (from 1), and what it is."""

    where: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.where}:{self.line}: {self.what} in clear text"


def leaks(where: str, text: str, secrets: Mapping[str, str]) -> Iterator[Leak]:
    """The secrets in a text: the known ones (name to value) in any of their usual forms, and what looks like one. One a line and kind."""
    wanted = {
        f"the secret {name}": re.compile("|".join(map(re.escape, sorted(forms(value)))))
        for name, value in secrets.items()
        if len(value) >= SHORTEST_CHARACTERS
    }
    for what, pattern in {**wanted, **LOOKS}.items():
        last = 0
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            if line != last:
                yield Leak(where, line, what)
            last = line


def forms(secret: str) -> frozenset[str]:
    """How a secret may stand in a text: as it is, within JSON (also within JSON in JSON), in a URL, and in base64 at each of its three offsets."""
    in_json = json.dumps(secret)[1:-1]
    found = {secret, in_json, json.dumps(in_json)[1:-1], quote(secret, safe="")}
    raw = secret.encode()
    for offset in range(3):
        # The first and last characters depend on the neighbours; those between are the secret's own.
        encoded = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
        inner = encoded[(offset * 8 + 5) // 6 : (offset + len(raw)) * 8 // 6]
        if len(inner) >= SHORTEST_CHARACTERS:
            found.add(inner)
    return frozenset(found)


#: What of a kubeconfig, or of any other file in YAML that is a secret as a whole, is a secret by itself.
_CREDENTIALS = ("token", "password", "client-key-data", "id-token", "refresh-token")


def leaves(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Every text in a value of JSON, with its path: what of a structured secret has to be looked for. Of a kubeconfig also its credentials."""
    if isinstance(value, str):
        yield name, value
        if "\n" in value:
            yield from _credentials(name, value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(f"{name}.{key}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(f"{name}.{number}", inner)


def _credentials(name: str, text: str) -> Iterator[tuple[str, str]]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:
        return
    if isinstance(document, Mapping | list):
        yield from ((path, leaf) for path, leaf in leaves(name, document) if path.rpartition(".")[2] in _CREDENTIALS)
