"""The check command over an engine that is a table of answers: what it asks, what it scans, and how it ends."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest

from policy import check as command
from policy.check import NotPossible, check, main, secrets_of

KEY = "correct-horse-battery-staple"
CONFIG = {
    "samegate:image": {"value": "x@sha256:0", "secret": False},
    "samegate:bgpKeys": {"value": json.dumps({"tor": KEY}), "objectValue": {"tor": KEY}, "secret": True},
}


class Engine:
    """Answers by the first word; `preview` also writes the event log and the plan."""

    def __init__(self, **answers: tuple[int, str]) -> None:
        self.answers = {"config": (0, json.dumps(CONFIG)), "preview": (0, "fine"), "stack": (0, "{}"), **answers}
        self.files = {"--event-log": "{}", "--save-plan": "{}"}
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self.asked.append(arguments)
        for word, following in itertools.pairwise(arguments):
            if word in self.files:
                Path(following).write_text(self.files[word])
        status, output = self.answers[arguments[0]]
        return subprocess.CompletedProcess(arguments, status, output, "" if status == 0 else "no stack named x")


def test_a_preview_that_passes_and_shows_no_secret_is_content() -> None:
    outcome = check(Engine(), "onprem")
    assert (outcome.passed, outcome.leaks, outcome.secrets) == (True, (), 1)
    assert outcome.scanned == ("preview", "events", "plan", "state")


@pytest.mark.parametrize("where", ["preview", "events", "plan", "state", "log"])
def test_a_secret_is_found_wherever_it_shows(where: str, tmp_path: Path) -> None:
    engine, log = Engine(), tmp_path / "ci.log"
    log.write_text(KEY if where == "log" else "")
    match where:
        case "preview":
            engine.answers["preview"] = (0, KEY)
        case "state":
            engine.answers["stack"] = (0, json.dumps({"key": KEY}))
        case "events" | "plan":
            engine.files["--event-log" if where == "events" else "--save-plan"] = json.dumps({"key": KEY})
    (leak,) = check(engine, "onprem", logs=[log]).leaks
    assert leak.where == (str(log) if where == "log" else where)
    assert "samegate:bgpKeys.tor" in leak.what


def test_a_preview_that_fails_fails_the_check() -> None:
    assert not check(Engine(preview=(255, "policy violation")), "onprem").passed


def test_the_pack_its_configuration_and_further_arguments_reach_the_preview(tmp_path: Path) -> None:
    engine, rules, stack_file = Engine(), tmp_path / "policy.json", tmp_path / "Pulumi.lab.yaml"
    check(engine, "lab", config_file=stack_file, rules=rules, more=["--diff"])
    (preview,) = (asked for asked in engine.asked if asked[0] == "preview")
    assert preview[preview.index("--policy-pack") + 1].endswith("/policy")
    assert preview[preview.index("--policy-pack-config") + 1] == str(rules)
    assert preview[-1] == "--diff"
    for asked in engine.asked:
        if asked[0] != "stack":
            assert asked[asked.index("--config-file") + 1] == str(stack_file)


def test_nothing_that_changes_a_stack_is_ever_asked() -> None:
    engine = Engine()
    check(engine, "onprem")
    assert {asked[:2] if asked[0] == "stack" else asked[:1] for asked in engine.asked} == {
        ("config",),
        ("preview",),
        ("stack", "export"),
    }


def test_a_stack_that_there_is_not_is_told_with_the_way_out() -> None:
    with pytest.raises(NotPossible, match=r"no stack named x.*pulumi stack init onprem"):
        check(Engine(config=(255, "")), "onprem")


def test_only_secrets_are_looked_for() -> None:
    assert secrets_of(CONFIG) == {"samegate:bgpKeys.tor": KEY}


@pytest.mark.parametrize(
    ("engine", "status", "words"),
    [
        (Engine(), 0, "Secrets in clear text: 0"),
        (Engine(preview=(255, "broken")), 1, "Secrets in clear text: 0"),
        (Engine(preview=(0, KEY)), 1, "secret: preview:1: the secret samegate:bgpKeys.tor in clear text"),
    ],
)
def test_the_command_ends_with_one_word_for_all(
    engine: Engine, status: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "engine", lambda project: engine)
    assert main(["onprem"]) == status
    assert words in capsys.readouterr().out


def test_the_callers_own_backend_is_used_and_else_the_checkouts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "ROOT", tmp_path)
    base = {"SAMEGATE_CACHE": str(tmp_path / "cache"), "PATH": "/bin"}
    assert command.environment(base)["PULUMI_BACKEND_URL"] == f"file://{tmp_path}/.lab/pulumi-state"
    own = {"PULUMI_BACKEND_URL": "s3://states", "PULUMI_ACCESS_TOKEN": "of-the-caller"}
    assert command.environment({**base, **own}).items() >= own.items()
