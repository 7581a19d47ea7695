"""What `lab deploy` gives the engine, and reads back from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lab import deploy

IMAGE, OTHER = (f"198.18.0.10:5000/samegate@sha256:{c * 64}" for c in "12")
values = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
)
configs = st.dictionaries(st.text(max_size=2), values, max_size=4)


def test_mappings_are_merged_lists_replaced_and_none_removes() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert deploy.merged(base, {"a": {"c": [3], "e": 2}, "d": None}) == {"a": {"b": 1, "c": [3], "e": 2}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


@given(configs)
def test_merging_nothing_or_itself_changes_nothing(config: dict[str, Any]) -> None:
    assert deploy.merged(config, {}) == config
    assert deploy.merged(config, config) == config


@given(configs, configs)
def test_merging_twice_is_merging_once(config: dict[str, Any], changes: dict[str, Any]) -> None:
    once = deploy.merged(config, changes)
    assert deploy.merged(once, changes) == once


def test_the_last_summary_of_the_event_log_counts() -> None:
    lines = [
        {"preludeEvent": {}},
        {"summaryEvent": {"resourceChanges": {"same": 30, "update": 2}}},
        {"cancelEvent": {}},
    ]
    result = deploy.Result(deploy.operations("".join(json.dumps(line) + "\n" for line in lines)))
    assert result.operations == {"same": 30, "update": 2}
    assert result.changed == 2


def test_a_log_without_summary_is_an_unfinished_run() -> None:
    with pytest.raises(deploy.DeployError, match="did not finish"):
        deploy.operations('{"preludeEvent": {}}\n')


@pytest.fixture
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(deploy, "DIRECTORY", tmp_path)
    monkeypatch.setattr(deploy, "GENERATED", tmp_path / "Pulumi.lab.yaml")
    monkeypatch.setattr(deploy, "KEPT", tmp_path / "agent.json")
    monkeypatch.setattr(deploy, "STATE", tmp_path)
    monkeypatch.setattr(deploy, "_pulumi", lambda *_, **__: "")
    monkeypatch.setattr(deploy.offloads, "DECLARED", tmp_path / "wire-packets.json")
    return tmp_path / "Pulumi.lab.yaml"


def _config(generated: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(generated.read_text())["config"]
    return config


def test_settings_that_a_deploy_asked_for_hold_for_later_runs_until_the_next(
    generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "_engine", lambda *_, **__: deploy.Result({}))
    monkeypatch.setattr(deploy, "outputs", dict)
    monkeypatch.setattr(deploy.leftovers, "remember_once", lambda: None)
    asked = ["deploy", "--image", IMAGE, "--agent", "return=via-edge", "--agent", 'drain={"withdrawSeconds": 3}']
    assert deploy.main(asked) == 0
    deploy.deploy(OTHER, {"samegate:agent": {"logLevel": "debug"}})
    agent = _config(generated)["samegate:agent"]
    assert (agent["return"], agent["drain"], agent["logLevel"]) == ("via-edge", {"withdrawSeconds": 3}, "debug")
    assert deploy.main(["deploy", "--image", IMAGE]) == 0
    assert "return" not in _config(generated)["samegate:agent"]


def test_edge_nodes_get_packets_as_from_a_wire_before_they_change_to_xdp_and_until_they_have_changed_back(
    generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []

    def engine(command: str, *_: str) -> deploy.Result:
        done.append(command)
        return deploy.Result({})

    monkeypatch.setattr(deploy, "_engine", engine)
    monkeypatch.setattr(deploy, "outputs", dict)
    monkeypatch.setattr(deploy.leftovers, "remember_once", lambda: None)
    monkeypatch.setattr(deploy.offloads, "declare", lambda nodes: done.append([node.name for node in nodes]))
    deploy.deploy(IMAGE, {"samegate:agent": {"dataplane": "xdp", "xdp": {"devices": ["vec0"]}}})
    assert done == [["edge1", "edge2"], "up"]
    done.clear()
    deploy.deploy(IMAGE)
    assert done == ["up", []]


def test_a_setting_without_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        deploy.main(["deploy", "--agent", "return"])
    assert "'return' is not KEY=VALUE" in capsys.readouterr().err


def test_a_run_leaves_the_committed_stack_as_it_is_and_keeps_the_salt(generated: Path) -> None:
    before = deploy.COMMITTED.read_bytes()
    deploy._configure(IMAGE, {"samegate:agent": {"logLevel": "debug"}}, None)
    assert _config(generated)["samegate:image"] == IMAGE
    assert _config(generated)["samegate:agent"]["logLevel"] == "debug"
    with generated.open("a") as file:
        file.write("encryptionsalt: v1:salt\n")
    deploy._configure(IMAGE, None, None)
    assert "logLevel" not in _config(generated)["samegate:agent"]
    assert yaml.safe_load(generated.read_text())["encryptionsalt"] == "v1:salt"
    assert deploy.COMMITTED.read_bytes() == before


def test_a_new_agent_image_does_not_roll_the_apps(generated: Path) -> None:
    deploy._configure(IMAGE, None, None)
    deploy._configure(OTHER, None, None)
    assert _config(generated)["samegate:image"] == OTHER
    assert {app["images"]["samegate"] for app in _config(generated)["samegate:apps"]} == {IMAGE}


def test_a_preview_without_an_image_does_not_become_the_apps_image(generated: Path) -> None:
    deploy._configure(deploy.NO_IMAGE, None, None)
    deploy._configure(IMAGE, None, None)
    assert {app["images"]["samegate"] for app in _config(generated)["samegate:apps"]} == {IMAGE}
