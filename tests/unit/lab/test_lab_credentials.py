"""Throw-away credentials, checked with openssl, which did not write this code."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import credentials, topology

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None or shutil.which("ssh-keygen") is None, reason="openssl or ssh-keygen is missing"
)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PKI", "KUBECONFIGS", "SSH"):
        monkeypatch.setattr(credentials, name, tmp_path / name.lower())
    monkeypatch.setattr(credentials, "TOKENS", tmp_path / "pki" / "tokens.csv")
    monkeypatch.setattr(credentials, "CA", tmp_path / "pki" / "ca.crt")
    credentials.make()
    return tmp_path


def _openssl(*arguments: str) -> str:
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=True).stdout


def test_what_was_made_is_complete(made: Path) -> None:
    assert credentials.trouble() is None


def test_every_certificate_is_signed_by_the_authority_and_is_none_itself(made: Path) -> None:
    leaves = [path for path in (made / "pki").glob("*.crt") if path.name != "ca.crt"]
    assert len(leaves) == 2 + len(topology.NODES)
    for path in leaves:
        assert _openssl("verify", "-CAfile", str(made / "pki" / "ca.crt"), str(path)).strip().endswith("OK")
        assert "CA:TRUE" not in _openssl("x509", "-in", str(path), "-noout", "-text")


def test_the_api_server_is_known_by_its_address_and_by_that_of_its_service(made: Path) -> None:
    for address in ("198.18.0.10", "198.18.96.1"):
        said = _openssl("x509", "-in", str(made / "pki" / "apiserver.crt"), "-noout", "-checkip", address)
        assert "does match" in said


def test_making_again_changes_nothing(made: Path) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    credentials.make()
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_a_lost_certificate_is_made_again_and_the_others_stay(made: Path) -> None:
    lost, other = made / "pki" / "kubelet-edge1.crt", made / "pki" / "apiserver.crt"
    kept = other.read_bytes()
    lost.unlink()
    assert credentials.trouble() == "kubelet-edge1.crt missing"
    credentials.make()
    assert credentials.trouble() is None
    assert other.read_bytes() == kept


def test_a_lost_authority_makes_everything_anew(made: Path) -> None:
    old = (made / "pki" / "apiserver.crt").read_bytes()
    (made / "pki" / "ca.key").unlink()
    credentials.make()
    assert credentials.trouble() is None
    assert (made / "pki" / "apiserver.crt").read_bytes() != old
    test_every_certificate_is_signed_by_the_authority_and_is_none_itself(made)


def test_a_token_stands_in_its_kubeconfig_and_nobody_elses(made: Path) -> None:
    tokens = {}
    for line in (made / "pki" / "tokens.csv").read_text().splitlines():
        token, _, name, _ = line.split(",", 3)
        tokens[name] = token
    assert len(set(tokens.values())) == len(tokens) == len(credentials.USERS)
    for name, token in tokens.items():
        config = json.loads((made / "kubeconfigs" / f"{name}.kubeconfig").read_text())
        assert config["users"][0]["user"]["token"] == token


def test_private_keys_are_readable_by_their_owner_only(made: Path) -> None:
    secret = [
        *made.rglob("*.key"),
        *made.rglob("*.kubeconfig"),
        made / "pki" / "tokens.csv",
        made / "ssh" / "id_ed25519",
    ]
    assert [path.name for path in secret if path.stat().st_mode & 0o077] == []


def test_ssh_knows_every_machine_and_asks_nobody(made: Path) -> None:
    config = (made / "ssh" / "config").read_text()
    known = (made / "ssh" / "known_hosts").read_text()
    for node in topology.NODES:
        assert f"Host {node.name}\n  HostName {node.address}\n" in config
        assert f"{node.address} ssh-ed25519 " in known
    assert "StrictHostKeyChecking yes" in config
    assert "BatchMode yes" in config
