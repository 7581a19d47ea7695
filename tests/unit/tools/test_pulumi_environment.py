"""The engine's environment: nothing of Pulumi's cloud, and a passphrase that only its owner reads."""

from __future__ import annotations

import stat
from pathlib import Path

from tools import pulumi_environment
from tools.pulumi_engine import CHECKOUT, passphrase_file


def base(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"SAMEGATE_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin", **more}


def test_state_stays_in_the_checkout_and_the_engine_in_the_cache(tmp_path: Path) -> None:
    environment = pulumi_environment(tmp_path, base(tmp_path))
    assert environment["PULUMI_BACKEND_URL"] == f"file://{tmp_path}/.lab/pulumi-state"
    assert environment["PULUMI_HOME"] == f"{tmp_path}/cache/pulumi"
    assert environment["PATH"] == f"{tmp_path}/cache/bin/current:/usr/bin"
    assert environment["SAMEGATE_CHECKOUT"] == str(CHECKOUT)
    assert (tmp_path / ".lab/pulumi-state").is_dir()


def test_a_token_for_pulumis_cloud_does_not_reach_the_engine(tmp_path: Path) -> None:
    environment = pulumi_environment(tmp_path, base(tmp_path, PULUMI_ACCESS_TOKEN="token", HOME="/h"))
    assert "PULUMI_ACCESS_TOKEN" not in environment
    assert environment["HOME"] == "/h"


def test_the_callers_passphrase_wins(tmp_path: Path) -> None:
    environment = pulumi_environment(tmp_path, base(tmp_path, PULUMI_CONFIG_PASSPHRASE="own"))
    assert environment["PULUMI_CONFIG_PASSPHRASE"] == "own"
    assert "PULUMI_CONFIG_PASSPHRASE_FILE" not in environment
    assert not (tmp_path / ".lab/pulumi-passphrase").exists()


def test_a_passphrase_is_made_once_and_read_by_its_owner_only(tmp_path: Path) -> None:
    first = passphrase_file(tmp_path / "one")
    words = first.read_text()
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert len(words.strip()) >= 32
    assert passphrase_file(tmp_path / "one").read_text() == words
    assert passphrase_file(tmp_path / "another").read_text() != words
    assert {path.name for path in first.parent.iterdir()} == {"pulumi-passphrase"}


def test_an_empty_passphrase_counts_as_none(tmp_path: Path) -> None:
    environment = pulumi_environment(tmp_path, base(tmp_path, PULUMI_CONFIG_PASSPHRASE=""))
    assert environment["PULUMI_CONFIG_PASSPHRASE_FILE"] == f"{tmp_path}/.lab/pulumi-passphrase"
    assert "PULUMI_CONFIG_PASSPHRASE" not in environment
