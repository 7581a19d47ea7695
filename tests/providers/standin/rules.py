"""What a fabric's stand-in has to say; :mod:`aws` and :mod:`gcp` each say it once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from tests.providers.standin import sdk
from tests.providers.standin.cloud import Object, Refused, World, sealed

Check = Callable[[World, Object], None]
"""Looks at an object that is about to exist or to change, in the world without it; may set outputs; raises Refused."""


class Rules(ABC):
    """The laws of one fabric."""

    package: ClassVar[str]
    checks: ClassVar[Mapping[str, Check]]
    references: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]]
    """Token -> input (dotted for nested) -> the types that its value may name."""
    in_use: ClassVar[str]
    """The fabric's word for a deletion refused because something else uses the object."""

    @abstractmethod
    def identifier(
        self, world: World, token: str, name: str, inputs: Mapping[str, Any], config: Mapping[str, Any]
    ) -> str: ...

    @abstractmethod
    def outputs(self, world: World, made: Object, config: Mapping[str, Any]) -> dict[str, Any]:
        """What every object of the fabric gets without a rule of its own: ARN, self link..."""

    @abstractmethod
    def replaces(self, token: str, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        """Whether a change of the input replaces the object."""

    def automatic_name(self, token: str) -> str | None:
        """The input that gets a name of its own when the program gives none."""
        return None

    def added(self, token: str, inputs: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs that the provider adds by itself, already at preview."""
        return {}

    def findings(self, token: str, inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What the provider itself refuses at preview, beyond types."""
        return []

    def secrets(self, token: str) -> frozenset[str]:
        return sdk.resource_type(token).secrets

    def create(self, world: World, token: str, name: str, inputs: dict[str, Any], config: Mapping[str, Any]) -> Object:
        made = Object(self.identifier(world, token, name, inputs, config), token, name, dict(inputs))
        if made.identifier in world.objects:
            raise Refused("AlreadyExists", f"{made.identifier!r} exists already")
        made.outputs = self.outputs(world, made, config)
        self._hold(world, made)
        return made

    def update(self, world: World, present: Object, inputs: dict[str, Any], config: Mapping[str, Any]) -> Object:
        changed = Object(present.identifier, present.token, present.name, dict(inputs), dict(present.outputs))
        del world.objects[present.identifier]
        try:
            changed.outputs |= self.outputs(world, changed, config)
            self._hold(world, changed)
        except Refused:
            world.objects[present.identifier] = present
            raise
        world.objects[changed.identifier] = changed
        return changed

    def delete(self, world: World, present: Object) -> None:
        if users := self.users(world, present):
            raise Refused(self.in_use, f"{present.identifier} has a dependent object: {', '.join(users)}")

    def users(self, world: World, present: Object) -> list[str]:
        return world.users(present.identifier)

    def _hold(self, world: World, made: Object) -> None:
        for path, tokens in self.references.get(made.token, {}).items():
            for value in values_at(made.inputs, path):
                self.resolve(world, value, path, tokens)
        if (check := self.checks.get(made.token)) is not None:
            check(world, made)
        for name in self.secrets(made.token) & made.inputs.keys():
            made.inputs[name] = sealed(made.inputs[name])

    def resolve(self, world: World, value: Any, path: str, tokens: tuple[str, ...]) -> Object:
        """The object that an input names; refused unless it exists and has one of the types."""
        return world.get(value, *tokens, code=f"Invalid{path[:1].upper()}{path[1:]}.NotFound")


def check_version_step(code: str, former: str | None, wanted: str) -> None:
    """A control plane goes up by one minor version at a time, and never down (EKS user guide and GKE documentation, cluster upgrades).

    ``former`` is None when there is none yet. Raises Refused.
    """
    if former is not None and minor_version(wanted) - minor_version(former) not in (0, 1):
        raise Refused(code, f"Unsupported Kubernetes minor version update from {former} to {wanted}")


def minor_version(version: str) -> int:
    """34 of ``1.34`` and of ``1.34.1-gke.1829001``."""
    return int(version.split(".")[1])


def values_at(inputs: Mapping[str, Any], path: str) -> list[Any]:
    """The values at a dotted path; lists on the way are walked through."""
    current: list[Any] = [inputs]
    for key in path.split("."):
        found = [item[key] for item in current if isinstance(item, Mapping) and item.get(key) is not None]
        current = [leaf for value in found for leaf in (value if isinstance(value, list) else [value])]
    return current
