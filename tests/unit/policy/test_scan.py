"""The scan finds secrets however they are written, and never repeats them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.scan import SHORTEST_CHARACTERS, forms, leaks, leaves

KEY = 'correct "horse" battery'
SECRETS = {"bgpKeys.tor": KEY}
GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def found(text: str, secrets: dict[str, str] | None = None) -> list[str]:
    return [str(leak) for leak in leaks("state", text, secrets if secrets is not None else SECRETS)]


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        json.dumps({"key": KEY}),
        json.dumps({"object": json.dumps({"key": KEY})}),
        f"https://example.com/?key={quote(KEY, safe='')}",
        *(base64.b64encode(b"x" * before + KEY.encode() + b"yz").decode() for before in range(3)),
    ],
)
def test_a_known_secret_is_found_in_every_form_and_not_repeated(written: str) -> None:
    said = found(f"first line\n{written}\n")
    assert said == ["state:2: the secret bgpKeys.tor in clear text"]


@given(st.text(min_size=SHORTEST_CHARACTERS * 2), st.binary(), st.binary())
def test_base64_is_found_at_whatever_offset(secret: str, before: bytes, after: bytes) -> None:
    text = base64.b64encode(before + secret.encode() + after).decode()
    assert any(form in text for form in forms(secret))


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a private key", "-----BEGIN RSA PRIVATE KEY-----"),
        ("a private key", base64.b64encode(b"-----BEGIN PRIVATE KEY-----\nMII").decode()),
        ("an AWS access key", "key AKIAIOSFODNN7EXAMPLE end"),
        ("a JSON web token", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9.c2lnbmF0dXJlIG9m"),
        ("a bootstrap token", "kubeadm join --token abcdef.0123456789abcdef"),
        ("a BGP key", " neighbor SAMEGATE-EDGES password hunter2"),
        ("a BGP key", '  password "hunter2";'),
        ("a BGP key", 'set protocols bgp group X authentication-key "hunter2"'),
        ("a BGP key", json.dumps({"frr.conf": "router bgp 1\n neighbor E password hunter2\n"})),
    ],
)
def test_what_looks_like_a_secret_is_found_though_nobody_named_it(what: str, text: str) -> None:
    assert found(text, {}) == [f"state:1: {what} in clear text"]


def test_a_certificate_an_encrypted_value_and_a_reference_are_no_secrets() -> None:
    for text in (
        "-----BEGIN CERTIFICATE-----",
        base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMII").decode(),
        '{"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:abc=="}',
        " neighbor SAMEGATE-EDGES password ${bgpKeys.tor}",
    ):
        assert found(text) == []


@pytest.mark.parametrize("path", sorted(p for p in GOLDEN.rglob("*") if p.is_file()), ids=lambda p: p.name)
def test_nothing_that_we_generate_looks_like_a_secret(path: Path) -> None:
    assert found(path.read_text(), {}) == []


def test_a_secret_too_short_to_look_for_is_not_found_by_chance() -> None:
    assert found("abc abc abc", {"short": "abc"}) == []


def test_every_text_of_a_structured_secret_is_looked_for() -> None:
    structured = {"tor": "first", "deep": ["second", {"x": "third"}], "number": 5}
    assert dict(leaves("bgpKeys", structured)) == {
        "bgpKeys.tor": "first",
        "bgpKeys.deep.0": "second",
        "bgpKeys.deep.1.x": "third",
    }


def test_the_credentials_of_a_kubeconfig_are_looked_for_by_themselves() -> None:
    kubeconfig = "kind: Config\nusers: [{name: admin, user: {token: token-of-the-admin}}]\nclusters: []\n"
    assert dict(leaves("kubeconfig", kubeconfig)) == {
        "kubeconfig": kubeconfig,
        "kubeconfig.users.0.user.token": "token-of-the-admin",
    }
