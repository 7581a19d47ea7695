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

from policy.model import Parameters, Resource, ResourceRule, Rule, Stack, StackRule
from policy.registry import RULES

NAME = "samegate"
_TYPES = {dict: "object", list: "array", int: "number", float: "number", str: "string", bool: "boolean"}


def serve() -> None:
    """Serve the pack to the engine that started this process; does not return."""
    PolicyPack(NAME, [policy(rule) for rule in RULES], EnforcementLevel.MANDATORY)


def policy(rule: ResourceRule | StackRule) -> Policy:
    """A rule in the engine's terms."""
    schema = config_schema(rule)
    if isinstance(rule, StackRule):
        return StackValidationPolicy(rule.name, rule.description, _of_stack(rule), config_schema=schema)
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


def _of_stack(rule: StackRule) -> Callable[[StackValidationArgs, ReportViolation], None]:
    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        for finding in rule.findings(Stack(tuple(map(_resource, args.resources))), _configured(args)):
            report(finding.message, finding.urn)

    return validate


def _configured(args: Any) -> Parameters:
    return dict(args.get_config())


def _resource(resource: PolicyResource) -> Resource:
    by_property = (d for dependencies in resource.property_dependencies.values() for d in dependencies)
    return Resource(
        type=resource.resource_type,
        name=resource.name,
        urn=resource.urn,
        properties=resource.props,
        protect=resource.opts.protect,
        delete_before_replace=bool(resource.opts.delete_before_replace),
        dependencies=frozenset(d.urn for d in (*resource.dependencies, *by_property)),
    )
