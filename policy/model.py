"""What rules look at, and what they find. Nothing here or in the rules knows the policy engine, but for the error of a value that is not known yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pulumi_policy.proxy import UnknownValueError

T = TypeVar("T")
Properties = Mapping[str, Any]
"""JSON values as the engine has them: numbers are floats. Reading one that is unknown at preview raises UnknownValueError."""
Parameters = Mapping[str, Any]
"""A rule's parameters: its defaults, with those of the configuration in their place."""

STACK = "pulumi:pulumi:Stack"


@dataclass(frozen=True)
class Resource:
    """One resource of a stack. ``dependencies`` are the URNs it waits for, its own and its properties'."""

    type: str
    name: str
    urn: str
    properties: Properties
    protect: bool = False
    delete_before_replace: bool = False
    dependencies: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Stack:
    """All resources of a stack, as they would be."""

    resources: tuple[Resource, ...]

    def of(self, *types: str) -> Iterator[Resource]:
        """The resources of these types, in the order of the program."""
        return (resource for resource in self.resources if resource.type in types)

    @property
    def outputs(self) -> Properties:
        """What the stack exports; empty before it has exported anything."""
        return next((resource.properties for resource in self.of(STACK)), {})


@dataclass(frozen=True)
class Finding:
    """One violation: value, rule and way out in a sentence or two, and the resource it is about (None: the stack)."""

    message: str
    urn: str | None = None


def readable(resources: Iterable[Resource], read: Callable[[Resource], T]) -> list[tuple[Resource, T]]:
    """What ``read`` makes of each resource, without those that it cannot be made of before the value is known.

    So one resource of which a value is unknown at preview takes nothing from the check of the others.
    """
    known = []
    for resource in resources:
        try:
            known.append((resource, read(resource)))
        except UnknownValueError:
            continue
    return known


@dataclass(frozen=True)
class Rule:
    """A rule as it is registered. Its description is the first paragraph of the check's docstring; the rest says why.

    ``parameters`` are defaults; a configuration may change them and the enforcement level, by the rule's name.
    """

    name: str
    check: Callable[..., Iterator[Any]]
    parameters: Parameters = field(default_factory=dict)

    @property
    def description(self) -> str:
        """What holds, in a sentence."""
        paragraph = (self.check.__doc__ or "").strip().split("\n\n")[0]
        return " ".join(paragraph.split())

    def with_defaults(self, configured: Parameters) -> Parameters:
        """The parameters with those of a configuration in their place."""
        return {**self.parameters, **configured}


@dataclass(frozen=True)
class ResourceRule(Rule):
    """A rule about one resource by itself, of one of ``types``; none named means any. It sees the program's inputs."""

    check: Callable[[Resource, Parameters], Iterator[str]]
    types: tuple[str, ...] = ()

    def findings(self, resource: Resource, configured: Parameters) -> Iterator[Finding]:
        """What is wrong with the resource.

        Raises:
            UnknownValueError: it would need a value that is not known at preview.
        """
        if not self.types or resource.type in self.types:
            for message in self.check(resource, self.with_defaults(configured)):
                yield Finding(message, resource.urn)


@dataclass(frozen=True)
class StackRule(Rule):
    """A rule about a whole stack. It sees each resource's inputs, and beside them what else is known of it."""

    check: Callable[[Stack, Parameters], Iterator[Finding]]

    def findings(self, stack: Stack, configured: Parameters) -> Iterator[Finding]:
        """What is wrong with the stack."""
        return self.check(stack, self.with_defaults(configured))
