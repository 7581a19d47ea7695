"""Every rule: a stack that keeps it, minimal changes that break it and nothing else, and values that are not known yet."""

from __future__ import annotations

from typing import Any

import pytest
from policy_world import BOTH_FAMILIES, BREACHES, UNKNOWN, Breach, World, kept, with_xdp
from pulumi_policy import PolicyConfigSchema, PolicyCustomTimeouts, PolicyResourceOptions, ResourceValidationArgs
from pulumi_policy.proxy import UnknownValueError, unknown_checking_proxy

from policy.model import STACK, Resource, ResourceRule, Stack, StackRule
from policy.pack import Inputs, config_schema, policy
from policy.registry import RULES

Found = set[tuple[str, str | None]]
BY_NAME = {rule.name: rule for rule in RULES}


def stack_of(world: World) -> Stack:
    """As the engine shows it: with values that raise when they are read before they are known."""
    described = [
        Resource(
            type=r["type"],
            name=name,
            urn=name,
            properties=unknown_checking_proxy(r["properties"]),
            protect=r.get("protect", False),
            delete_before_replace=r.get("deleteBeforeReplace", False),
            dependencies=frozenset(r.get("dependencies", ())),
        )
        for name, r in world["resources"].items()
    ]
    return Stack((Resource(STACK, "test", "stack", unknown_checking_proxy(world["outputs"])), *described))


def found(world: World, configuration: dict[str, dict[str, Any]] | None = None) -> Found:
    stack, configured, breaches = stack_of(world), configuration or {}, set()
    for rule in RULES:
        parameters = configured.get(rule.name, {})
        if isinstance(rule, StackRule):
            breaches |= {(rule.name, finding.urn) for finding in rule.findings(stack, parameters)}
        else:
            for resource in stack.resources:
                try:
                    breaches |= {(rule.name, finding.urn) for finding in rule.findings(resource, parameters)}
                except UnknownValueError:
                    continue
    return breaches


def test_the_stack_that_keeps_every_rule_has_no_finding() -> None:
    assert found(kept()) == set()


def test_an_agent_with_the_bpf_file_system_may_load_programs() -> None:
    assert found(with_xdp()) == set()


@pytest.mark.parametrize("breach", BREACHES, ids=lambda b: f"{b.rule}: {b.what}")
def test_a_minimal_change_breaks_its_rule_and_no_other(breach: Breach) -> None:
    assert found(breach.world()) == {(breach.rule, breach.resource)}


def test_every_rule_has_a_breach() -> None:
    assert {breach.rule for breach in BREACHES} == set(BY_NAME)


@pytest.mark.parametrize("breach", BREACHES, ids=lambda b: f"{b.rule}: {b.what}")
def test_a_finding_names_a_way_out(breach: Breach) -> None:
    stack, rule = stack_of(breach.world()), BY_NAME[breach.rule]
    if isinstance(rule, StackRule):
        messages = [finding.message for finding in rule.findings(stack, {})]
    else:
        messages = [f.message for resource in stack.resources for f in rule.findings(resource, {})]
    for message in messages:
        assert message.count(". ") >= 1, message
        assert message.rpartition(". ")[2].split()[0] in {
            "Add", "Choose", "Give", "Have", "Leave", "Let", "Name", "Remove", "Set", "Spread", "Take", "Use", "Write"
        }, message  # fmt: skip


@pytest.mark.parametrize("platform", BOTH_FAMILIES)
def test_a_router_whose_one_session_carries_both_families_keeps_the_rules(platform: str) -> None:
    world = kept()
    world["outputs"]["routers"] = {platform: BOTH_FAMILIES[platform]}
    assert found(world) == set()


def _unknown(properties: dict[str, Any]) -> dict[str, Any]:
    """Every property unknown but for the name."""
    return {key: value if key == "metadata" else UNKNOWN for key, value in properties.items()}


@pytest.mark.parametrize("breach", BREACHES, ids=lambda b: f"{b.rule}: {b.what}")
def test_what_is_not_known_yet_is_no_finding(breach: Breach) -> None:
    """Of what is read from properties: options and dependencies of a resource are always known."""
    world = breach.world()
    for resource in world["resources"].values():
        resource["properties"] = _unknown(resource["properties"])
    world["outputs"] = _unknown(world["outputs"])
    about_options = {("state-protected", breach.resource)} if breach.rule == "state-protected" else set()
    assert found(world) == about_options


def test_an_unknown_value_of_one_resource_leaves_the_others_checked() -> None:
    world = kept()
    world["resources"]["subnet"]["properties"]["cidrBlock"] = UNKNOWN
    world["resources"]["vpc"]["properties"]["cidrBlock"] = "203.0.112.0/20"
    assert found(world) == {("pools-apart", "vpc")}


def test_parameters_of_the_configuration_take_the_place_of_defaults() -> None:
    world = kept()
    assert found(world, {"hold-time": {"minimumSeconds": 10}}) == {("hold-time", "settings")}
    assert found(world, {"enough-edge-nodes": {"minimumNodes": 4}}) == {("enough-edge-nodes", None)}
    assert ("required-tags", "vpc") in found(world, {"required-tags": {"awsTags": ["owner"]}})


def test_settings_that_are_no_json_break_no_rule_by_accident() -> None:
    world = kept()
    world["resources"]["settings"]["properties"]["data"]["settings.json"] = "{"
    assert found(world) == set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_says_what_holds_and_why(rule: ResourceRule | StackRule) -> None:
    what, _, why = (rule.check.__doc__ or "").partition("\n\n")
    assert what.strip().endswith(".")
    assert len(why.split()) >= 10
    engines = policy(rule, Inputs())
    assert engines.name == rule.name
    assert "\n" not in engines.description


def test_names_of_rules_are_unique() -> None:
    assert len(BY_NAME) == len(RULES)


def test_the_schema_of_parameters_has_the_types_of_their_defaults() -> None:
    schema = config_schema(BY_NAME["enough-edge-nodes"])
    assert isinstance(schema, PolicyConfigSchema)
    assert schema.properties == {
        "awsTags": {"type": "object"},
        "gcpLabels": {"type": "object"},
        "minimumNodes": {"type": "number"},
        "minimumZones": {"type": "number"},
    }
    assert config_schema(BY_NAME["images-by-digest"]) is None


def test_a_pod_of_a_cron_job_is_looked_at_too() -> None:
    world = kept()
    pod = {"spec": {"containers": [{"name": "c", "image": "app:1"}]}}
    world["resources"]["nightly"] = {
        "type": "kubernetes:batch/v1:CronJob",
        "properties": {"spec": {"jobTemplate": {"spec": {"template": pod}}}},
    }
    assert found(world) == {("images-by-digest", "nightly")}


def test_a_stack_rule_sees_inputs_where_outputs_are_not_known_and_the_other_way_round() -> None:
    inputs = Inputs()
    given = unknown_checking_proxy({"a": "given", "b": UNKNOWN, "c": UNKNOWN, "nested": {"d": UNKNOWN}})
    args = ResourceValidationArgs(
        "t", given, "urn", "name", PolicyResourceOptions(False, [], None, [], PolicyCustomTimeouts(0, 0, 0), []), None
    )
    inputs.policy().validate(args, lambda message, urn: None)
    seen = inputs.beside("urn", unknown_checking_proxy({"a": UNKNOWN, "b": "made", "e": "made"}))
    assert (seen["a"], seen["b"], seen["e"]) == ("given", "made", "made")
    for read in (lambda: seen["c"], lambda: seen["nested"]["d"]):
        with pytest.raises(UnknownValueError):
            read()
    assert dict(inputs.beside("never seen", unknown_checking_proxy({"a": 1}))) == {"a": 1}
