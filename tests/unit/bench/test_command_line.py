"""`python -m bench` as a user types it, without measuring anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import __main__ as command_line
from bench import document, page
from bench.cases import CASES
from bench.document import Measured
from bench.sandbox import SandboxError, command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that is written goes here."""
    monkeypatch.setattr(command_line, "SAMPLES", tmp_path / ".bench/samples")
    monkeypatch.setattr(command_line, "DOCUMENT", tmp_path / ".bench/ipvs.json")
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(page, "FOLDER", tmp_path / "docs/bench")
    monkeypatch.setattr(page, "QUICK_FOLDER", tmp_path / ".bench/page")
    return tmp_path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The cases that were run, in a sandbox that measures one everywhere; `edge-cpu` fails."""
    started: list[list[str]] = []

    def run(module: str, arguments: Sequence[str]) -> None:
        started.append([module, *arguments])
        name, rounds, _, file = arguments
        if name == "edge-cpu":
            raise SandboxError("no machine came up")
        series = {s for row in CASES[name].rows for s in (row.series, row.against) if s is not None}
        document.write(Path(file), Measured({s: [1.0] * int(rounds) for s in series}))

    monkeypatch.setattr(command_line.sandbox, "run", run)
    monkeypatch.setattr(
        command_line.conditions, "conditions", lambda *, rounds, quick: {"quick": quick, "rounds": rounds}
    )
    return started


def test_a_case_that_does_not_exist_is_refused_with_those_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["edge-gpu"]) == 2
    said = capsys.readouterr().err
    assert "'edge-gpu'" in said
    assert "edge-cpu, ipvs-load" in said


def test_too_few_rounds_are_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["--rounds", "4", "ipvs-load"]) == 2
    assert "at least 5" in capsys.readouterr().err


def test_a_page_of_nothing_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["--page"]) == 2
    assert "nothing was ever measured" in capsys.readouterr().err
    assert not (home / "docs").exists()


def test_a_whole_run_goes_to_the_page_and_a_quick_one_beside_the_samples(home: Path, runs: list[list[str]]) -> None:
    assert command_line.main(["--quick", "ipvs-load"]) == 0
    assert (home / ".bench/page/README.md").exists()
    assert not (home / "docs").exists()
    assert json.loads((home / ".bench/ipvs.json").read_text())["conditions"]["quick"] is True
    assert command_line.main(["ipvs-load"]) == 0
    assert (home / "docs/bench/README.md").exists()
    assert [run[2] for run in runs] == ["2", "5"]


def test_a_case_that_fails_costs_no_other_and_keeps_what_was_measured_before(
    home: Path, runs: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = home / ".bench/samples/edge-cpu.json"
    series = {s for row in CASES["edge-cpu"].rows for s in (row.series, row.against) if s is not None}
    document.write(before, Measured({s: [2.0] * 5 for s in series}))
    kept = before.read_text()
    assert command_line.main(["edge-cpu", "ipvs-load"]) == 1
    assert "no machine came up" in capsys.readouterr().err
    assert before.read_text() == kept
    assert {run[1] for run in runs} == {"edge-cpu", "ipvs-load"}
    assert len(json.loads((home / ".bench/ipvs.json").read_text())["cases"]) == sum(
        len(CASES[name].rows) for name in ("edge-cpu", "ipvs-load")
    )


def test_ctrl_c_ends_with_its_own_code_and_keeps_the_rest(
    home: Path, runs: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(module: str, arguments: Sequence[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line.sandbox, "run", interrupted)
    assert command_line.main(["ipvs-load"]) == 130
    assert list((home / ".bench/samples").iterdir()) == []


def test_a_sandbox_ends_with_its_parent_and_is_a_first_process_of_its_own() -> None:
    words = command("bench.inside", ["x"])
    assert words[:3] == ["setpriv", "--pdeathsig", "KILL"]
    assert {"--pid", "--net", "--mount", "--fork", "--kill-child=KILL"} <= set(words)
    assert words[-3:] == ["-m", "bench.inside", "x"]
