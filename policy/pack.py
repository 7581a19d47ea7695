"""The rules as Pulumi's policy engine takes them. Every rule is mandatory unless the configuration says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyConfigSchema,
    PolicyPack,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import _DictProxy, unknown_checking_proxy
from pulumi_policy.proxy import _is_unknown as is_unknown

from policy.model import Parameters, Properties, Resource, ResourceRule, Rule, Stack, StackRule
from policy.registry import RULES

NAME = "samegate"
INPUTS = "inputs-seen"
_TYPES = {dict: "object", list: "array", int: "number", float: "number", str: "string", bool: "boolean"}


def serve() -> None:
    """Serve the pack to the engine that started this process; does not return."""
    inputs = Inputs()
    PolicyPack(NAME, [inputs.policy(), *(policy(rule, inputs) for rule in RULES)], EnforcementLevel.MANDATORY)


class Inputs:
    """What the program gives each resource, for rules about whole stacks.

    The engine shows those rules outputs only, and at a first preview a provider that cannot be reached yet (a cluster of the same stack) has none:
    seen with the Kubernetes provider, whose objects are then empty. The engine asks about every single resource before it asks about
    the stack, and the pack is one process for both.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Properties] = {}

    def policy(self) -> Policy:
        """The policy that sees every resource's inputs, and finds nothing."""
        return ResourceValidationPolicy(
            INPUTS, "Keeps what resources are given, for the rules about whole stacks.", self._see
        )

    def _see(self, args: ResourceValidationArgs, report: ReportViolation) -> None:
        self._seen[args.urn] = args.props

    def beside(self, urn: str, outputs: Properties) -> Properties:
        """Inputs where they are known, else outputs; reading what neither knows raises UnknownValueError."""
        known, given = _raw(outputs), _raw(self._seen.get(urn, {}))
        return unknown_checking_proxy({**given, **known, **{k: v for k, v in given.items() if not is_unknown(v)}})


def _raw(properties: Properties) -> dict[str, Any]:
    """The values without the check; `__target` is how the library itself unwraps them (pulumi_policy/deserialize.py)."""
    return dict(properties["__target"]) if isinstance(properties, _DictProxy) else dict(properties)


def policy(rule: ResourceRule | StackRule, inputs: Inputs) -> Policy:
    """A rule in the engine's terms."""
    schema = config_schema(rule)
    if isinstance(rule, StackRule):
        return StackValidationPolicy(rule.name, rule.description, _of_stack(rule, inputs), config_schema=schema)
    return ResourceValidationPolicy(rule.name, rule.description, _of_resource(rule), config_schema=schema)


def config_schema(rule: Rule) -> PolicyConfigSchema | None:
    """The JSON Schema of the rule's parameters; the engine refuses a configuration that does not fit."""
    if not rule.parameters:
        return None
    return PolicyConfigSchema({name: {"type": _TYPES[type(value)]} for name, value in rule.parameters.items()})


def _of_resource(rule: ResourceRule) -> Callable[[ResourceValidationArgs, ReportViolation], None]:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        resource = Resource(
            args.resource_type,
            args.name,
            args.urn,
            args.props,
            args.opts.protect,
            bool(args.opts.delete_before_replace),
        )
        for finding in rule.findings(resource, _configured(args)):
            report(finding.message, None)

    return validate


def _of_stack(rule: StackRule, inputs: Inputs) -> Callable[[StackValidationArgs, ReportViolation], None]:
    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        stack = Stack(tuple(_resource(resource, inputs) for resource in args.resources))
        for finding in rule.findings(stack, _configured(args)):
            report(finding.message, finding.urn)

    return validate


def _configured(args: Any) -> Parameters:
    return dict(args.get_config())


def _resource(resource: PolicyResource, inputs: Inputs) -> Resource:
    by_property = (d for dependencies in resource.property_dependencies.values() for d in dependencies)
    return Resource(
        type=resource.resource_type,
        name=resource.name,
        urn=resource.urn,
        properties=inputs.beside(resource.urn, resource.props),
        protect=resource.opts.protect,
        delete_before_replace=bool(resource.opts.delete_before_replace),
        dependencies=frozenset(d.urn for d in (*resource.dependencies, *by_property)),
    )
