"""The policy pack in the real engine: every rule fails a preview, and nothing else does."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from policy_world import BREACHES, UNKNOWN, World, kept
from router_stack import router_stack

import tools
from policy.check import check
from policy.model import StackRule
from policy.registry import RULES
from tests.program.test_engine import KEY, Stack, _configure, stack

pytestmark = pytest.mark.root
__all__ = ["stack"]
ROOT = Path(__file__).resolve().parents[2]
PACK = ROOT / "policy"
STACK_RULES = {rule.name for rule in RULES if isinstance(rule, StackRule)}


@dataclass
class Previews:
    """Previews of stacks that are files of resources, in a folder and with a backend of their own."""

    folder: Path
    said: str = field(default="", init=False)

    def pulumi(self, *arguments: str, world: World | None = None) -> int:
        (self.folder / "world.json").write_text(json.dumps(world))
        environment = tools.pulumi_environment(ROOT) | {
            "PULUMI_BACKEND_URL": f"file://{self.folder}",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_DEBUG_COMMANDS": "true",
            "POLICY_WORLD": str(self.folder / "world.json"),
        }
        environment.pop("PULUMI_CONFIG_PASSPHRASE_FILE", None)
        command = [str(tools.locate("pulumi")), *arguments, "--non-interactive", "--color", "never"]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=environment, timeout=600, check=False
        )
        self.said = done.stdout + done.stderr
        return done.returncode

    def preview(self, world: World, *arguments: str) -> tuple[int, set[tuple[str, str, str]]]:
        """The exit status, and each violation: rule, enforcement level, resource's name (the stack's for the stack)."""
        events = self.folder / "events.json"
        events.unlink(missing_ok=True)
        command = ["preview", "--stack", "test", "--policy-pack", str(PACK), "--event-log", str(events), *arguments]
        status = self.pulumi(*command, world=world)
        violations = set()
        for line in events.read_text().splitlines():
            if found := json.loads(line).get("policyEvent"):
                violations.add(
                    (found["policyName"], found["enforcementLevel"], found["resourceUrn"].rpartition("::")[2])
                )
        return status, violations


@pytest.fixture(scope="module")
def previews(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Previews]:
    try:
        tools.locate("pulumi")
    except tools.ToolMissing as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("policy")
    project = {
        "name": "world",
        "runtime": {"name": "python", "options": {"virtualenv": os.path.relpath(ROOT / ".venv", folder)}},
        "main": os.path.relpath(ROOT / "tests/program/policy_world", folder),
    }
    (folder / "Pulumi.yaml").write_text(yaml.safe_dump(project))
    made = Previews(folder)
    assert made.pulumi("stack", "init", "test", "--secrets-provider", "passphrase") == 0, made.said
    yield made


def test_the_stack_that_keeps_every_rule_passes(previews: Previews) -> None:
    assert previews.preview(kept()) == (0, set()), previews.said


def test_every_rule_of_single_resources_fails_a_preview_on_its_own_change(previews: Previews) -> None:
    """In one preview: each changed resource beside the others under a name of its own, and exactly those are told of."""
    world, expected = kept(), set()
    for number, breach in enumerate(b for b in BREACHES if b.rule not in STACK_RULES):
        assert breach.resource is not None
        name = f"{breach.resource}-{number}"
        world["resources"][name] = breach.world()["resources"][breach.resource]
        expected.add((breach.rule, "mandatory", name))
    status, found = previews.preview(world)
    assert status != 0
    assert {violation for violation in found if violation[0] not in STACK_RULES} == expected


@pytest.mark.parametrize("rule", sorted(STACK_RULES))
def test_every_rule_of_whole_stacks_fails_a_preview_on_its_own_change(rule: str, previews: Previews) -> None:
    """On the first of its changes; the rules' own tests have the others."""
    breach = next(b for b in BREACHES if b.rule == rule)
    status, found = previews.preview(breach.world())
    assert status != 0
    assert found == {(rule, "mandatory", breach.resource or "world-test")}, previews.said


def test_levels_and_parameters_are_the_configurations(previews: Previews, tmp_path: Path) -> None:
    configuration = tmp_path / "policy.json"
    settings: dict[str, Any] = {
        "hold-time": {"enforcementLevel": "advisory", "minimumSeconds": 10},
        "images-by-digest": "disabled",
    }
    configuration.write_text(json.dumps(settings))
    world = next(b for b in BREACHES if b.rule == "images-by-digest").world()
    status, found = previews.preview(world, "--policy-pack-config", str(configuration))
    assert (status, found) == (0, {("hold-time", "advisory", "settings")}), previews.said


def test_a_value_that_is_not_known_yet_fails_nothing(previews: Previews) -> None:
    world = kept()
    world["resources"]["subnet"]["properties"]["cidrBlock"] = UNKNOWN
    world["resources"]["edge-a"]["properties"]["metadataOptions"] = UNKNOWN
    status, found = previews.preview(world)
    assert status == 0, previews.said
    # The engine says that it could not check the one rule.
    assert found <= {("metadata-by-token", "advisory", "edge-a")}


def _stack_with(peer: dict[str, Any], **agent: Any) -> dict[str, Any]:
    values = router_stack("frr")
    values["platform"].pop("kubeconfigFile")
    values["agent"]["bgp"]["peers"][0].update(peer)
    apps = [{"path": "apps/web"}, {"path": "apps/echo"}]
    return {"agent": values["agent"] | agent, "platform": values["platform"], "apps": apps}


def test_the_programs_own_first_preview_keeps_every_rule_and_shows_no_secret(stack: Stack) -> None:
    _configure(stack, **_stack_with({}))
    outcome = check(stack.pulumi, "test")
    assert outcome.passed, outcome.preview
    assert outcome.leaks == ()
    assert outcome.scanned == ("preview", "events", "plan", "state")
    # The kubeconfig, the token in it, and the BGP key.
    assert outcome.secrets == 3


def test_a_broken_rule_and_a_secret_in_clear_text_are_found_in_the_programs_own_first_preview(stack: Stack) -> None:
    # A key where it does not belong is in the ConfigMap, and so in what the engine says and plans.
    _configure(stack, **_stack_with({"bfd": None}, serviceClass=KEY))
    outcome = check(stack.pulumi, "test")
    assert not outcome.passed
    assert "peer tor1 has no BFD" in outcome.preview
    assert {leak.what for leak in outcome.leaks} == {"the secret samegate:bgpKeys.tor"}
    assert "events" in {leak.where for leak in outcome.leaks}
    assert KEY not in "".join(map(str, outcome.leaks))
