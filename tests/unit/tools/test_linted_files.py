"""What `make lint` looks at, and that each exemption says why."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent.parent.parent
SHELL = re.compile(rb"#!\s*(/usr/bin/env\s+|/bin/)(ba|da)?sh\b")


def _tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"not a git checkout: {done.stderr.decode().strip()}")
    return [Path(name) for name in done.stdout.decode().split("\0") if name and (CHECKOUT / name).is_file()]


def test_every_shell_script_is_checked() -> None:
    scripts = {str(path) for path in _tracked() if SHELL.match((CHECKOUT / path).read_bytes()[:40])}
    makefile = (CHECKOUT / "Makefile").read_text()
    listed = re.search(r"^SHELL_SCRIPTS := (.*)$", makefile, re.MULTILINE)
    assert listed is not None
    assert ".ci/run" in scripts, "the search finds scripts"
    assert set(listed[1].split()) == scripts


def test_every_exemption_from_shellcheck_says_why() -> None:
    bare = [
        f"{path}: {line}"
        for path in _tracked()
        if path.suffix != ".py"
        for line in (CHECKOUT / path).read_text(errors="replace").splitlines()
        if "shellcheck disable=" in line and not re.search(r"disable=[A-Z0-9,]+ # \w+", line)
    ]
    assert bare == []


def test_every_security_rule_that_is_off_says_why() -> None:
    text = (CHECKOUT / "pyproject.toml").read_text()
    lint = tomllib.loads(text)["tool"]["ruff"]["lint"]
    off = [rule for rule in lint["ignore"] if re.fullmatch(r"S\d+", rule)]
    assert "S" in lint["select"]
    assert off, "there are some"
    for rule in off:
        assert re.search(rf'"{rule}".*#\s*\w+', text), f"{rule} is off without a reason"


def test_every_line_exempt_from_a_security_rule_says_why() -> None:
    exemption = re.compile(r"#\s*noqa:\s*(?P<rules>[A-Z0-9, ]*\bS\d{3}[A-Z0-9, ]*)(?P<reason>.*)$")
    bare = [
        f"{path}: {line.strip()}"
        for path in _tracked()
        if path.suffix == ".py" and path.parts[0] != "tests"
        for line in (CHECKOUT / path).read_text().splitlines()
        if (found := exemption.search(line)) and len(found["reason"].strip(" -()")) < 8
    ]
    assert bare == []
