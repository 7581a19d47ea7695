"""What the vulnerability service said, and that silence is not taken for health."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import audit

# As pip-audit 2.10.1 prints them.
CLEAN = {"name": "rich", "version": "15.0.0", "vulns": []}
SKIPPED = {"name": "idna", "skip_reason": "Dependency not found on PyPI and could not be audited: idna (3.20)"}
WEAK = {
    "name": "flask",
    "version": "0.5",
    "vulns": [
        {"id": "PYSEC-2019-179", "fix_versions": ["1.0"], "aliases": ["CVE-2019-1010083"], "description": "..."},
        {"id": "PYSEC-2018-66", "fix_versions": [], "aliases": [], "description": "..."},
    ],
}


def _answer(*dependencies: object) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


@pytest.mark.parametrize(
    ("dependencies", "verdict"),
    [
        ((CLEAN,), "clean"),
        ((CLEAN, SKIPPED), "unknown"),
        ((SKIPPED,), "unknown"),
        ((), "unknown"),
        ((CLEAN, WEAK), "vulnerable"),
        ((SKIPPED, WEAK), "vulnerable"),
    ],
)
def test_a_lock_is_clean_only_if_every_package_was_asked_about(dependencies: tuple[object, ...], verdict: str) -> None:
    assert audit.parse(_answer(*dependencies)).verdict == verdict


def test_a_weakness_is_told_with_the_version_that_mends_it() -> None:
    said = audit.lines("requirements.lock", audit.parse(_answer(CLEAN, WEAK)))
    assert said == [
        "requirements.lock: 1 packages without a known weakness",
        "  flask 0.5: PYSEC-2019-179, fixed in 1.0",
        "  flask 0.5: PYSEC-2018-66, no version mends it yet",
    ]


def test_a_run_that_asked_about_nothing_says_so_and_why() -> None:
    said = audit.lines("requirements.lock", audit.parse(_answer(SKIPPED, SKIPPED)))
    assert said[1].startswith("  NOT audited, so nothing is known: Dependency not found on PyPI")
    assert said[1].endswith("(and 1 more)")


@pytest.mark.parametrize("answer", ["", "No known vulnerabilities found", "[]", '{"dependencies": null}'])
def test_an_answer_that_is_none_is_unknown_with_the_last_words_as_the_reason(answer: str) -> None:
    found = audit.parse(answer, "Traceback:\n  File ...\nConnectionError: no such host\n")
    assert found.verdict == "unknown"
    assert found.unasked == ("pip-audit gave no answer: ConnectionError: no such host",)


def test_nothing_but_the_lock_is_looked_at_and_hashes_are_required(tmp_path: Path) -> None:
    program = tmp_path / "bin/pip-audit"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\necho '{_answer(CLEAN)}'\necho noise >&2\nexit 1\n")
    program.chmod(0o755)
    assert audit.ask(tmp_path, Path("some.lock"), "osv").clean == ("rich",)
    asked = (tmp_path / "asked").read_text().split()
    assert {"--disable-pip", "--require-hashes"} <= set(asked)
    assert asked[asked.index("--requirement") + 1] == "some.lock"
    assert asked[asked.index("--vulnerability-service") + 1] == "osv"
