"""What the installed SDKs say of a resource type: its inputs, which are required, their types, its outputs, what is secret.

The SDKs are generated from the providers' own schemas. Nothing here knows a cloud.
"""

from __future__ import annotations

import enum
import inspect
import json
import re
import sys
import typing
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pulumi
from pulumi import _types
from pulumi.runtime.rpc import UNKNOWN

PACKAGES = {"aws": "pulumi_aws", "gcp": "pulumi_gcp"}


class UnknownType(LookupError):
    """The SDK has no such resource type."""


@dataclass(frozen=True)
class ResourceType:
    """``inputs`` and ``outputs`` map wire names (camelCase) to Python types; ``secrets`` are outputs that hold secrets."""

    token: str
    inputs: Mapping[str, Any]
    required: frozenset[str]
    outputs: Mapping[str, Any]
    secrets: frozenset[str]


def sdk_version(package: str) -> str:
    """The version of the SDK, which is that of the provider it was generated from."""
    return version(PACKAGES[package].replace("_", "-"))


@cache
def _registry(package: str) -> Mapping[str, tuple[str, str]]:
    """Token -> (module, class), from the text that the SDK registers its classes with; importing nothing."""
    spec = find_spec(PACKAGES[package])
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text()
    found = re.search(r'resource_modules="""\n(.*?)\n""",', text, re.DOTALL)
    assert found is not None, f"{PACKAGES[package]} registers no resource modules: has the code generator changed?"
    return {
        token: (module["fqn"], name) for module in json.loads(found[1]) for token, name in module["classes"].items()
    }


def known_token(token: str) -> bool:
    """Whether the installed SDK has the type; cheaper than asking for it."""
    package = token.partition(":")[0]
    return package in PACKAGES and token in _registry(package)


@cache
def resource_type(token: str) -> ResourceType:
    """The type behind a token such as ``aws:ec2/vpc:Vpc``.

    Raises:
        UnknownType: the installed SDK has none.
    """
    package = token.partition(":")[0]
    if not known_token(token):
        raise UnknownType(f"{token} is no resource type of the installed SDKs")
    module_name, class_name = _registry(package)[token]
    # The service as a whole: a file imported by itself is missing from its service ever after, because the two import each other.
    resource = getattr(import_module(module_name), class_name)
    module = sys.modules[resource.__module__]
    arguments = getattr(module, f"{class_name}Args")
    names = _types.input_type_py_to_pulumi_names(arguments)
    parameters = inspect.signature(arguments.__init__).parameters
    required = {names[n] for n, p in parameters.items() if n in names and p.default is inspect.Parameter.empty}
    # One file holds one resource; inspect.getsource would parse all of it, and not survive several threads at once (CPython 3.11).
    listed = re.search(r"additional_secret_outputs=\[(.*?)\]", Path(str(module.__file__)).read_text())
    return ResourceType(
        token,
        _types.input_type_types(arguments),
        frozenset(required),
        _types.resource_types(resource),
        frozenset(re.findall(r'"(\w+)"', listed[1])) if listed else frozenset(),
    )


def findings(resource: ResourceType, inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the inputs, as (property, reason); empty if the schema accepts them."""
    found = [(name, "required, and missing") for name in sorted(resource.required - inputs.keys())]
    for name, value in inputs.items():
        if name.startswith("__"):
            continue
        if name not in resource.inputs:
            found.append((name, f"{resource.token} has no such input"))
        else:
            found += _mismatches(name, resource.inputs[name], value)
    return found


def _plain(annotation: Any) -> Any:
    """The type without the SDK's Input wrapper and Optional."""
    if typing.get_origin(annotation) is typing.Union:
        members = [
            member
            for member in typing.get_args(annotation)
            if member is not type(None)
            and typing.get_origin(member) not in (Awaitable, pulumi.Output)
            and member is not pulumi.Output
        ]
        classes = [m for m in members if isinstance(m, type) and not issubclass(m, dict)]
        # A nested type may be given as its class or as a TypedDict of the same fields: the class says more.
        return _plain((classes or members)[0]) if members else Any
    return annotation


def _mismatches(path: str, annotation: Any, value: Any) -> list[tuple[str, str]]:
    expected = _plain(annotation)
    if value == UNKNOWN or value is None or expected is Any:
        return []
    origin = typing.get_origin(expected)
    if origin in (Sequence, list):
        if not isinstance(value, list):
            return [(path, f"a list is expected, not {value!r}")]
        inner = typing.get_args(expected)[0]
        return [m for i, item in enumerate(value) for m in _mismatches(f"{path}[{i}]", inner, item)]
    if origin in (Mapping, dict):
        if not isinstance(value, dict):
            return [(path, f"a map is expected, not {value!r}")]
        inner = typing.get_args(expected)[1]
        return [m for key, item in value.items() for m in _mismatches(f"{path}.{key}", inner, item)]
    if isinstance(expected, type) and _types.is_input_type(expected):
        return _nested(path, expected, value)
    if isinstance(expected, type) and issubclass(expected, enum.Enum):
        return [] if isinstance(value, str) else [(path, f"one of an enumeration is expected, not {value!r}")]
    fits = {
        str: isinstance(value, str),
        bool: isinstance(value, bool),
        int: isinstance(value, int | float) and not isinstance(value, bool) and value == int(value),
        float: isinstance(value, int | float) and not isinstance(value, bool),
    }.get(expected, True)
    return [] if fits else [(path, f"{expected.__name__} is expected, not {value!r}")]


def _nested(path: str, expected: type, value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        return [(path, f"an object is expected, not {value!r}")]
    names = _types.input_type_py_to_pulumi_names(expected)
    types = _types.input_type_types(expected)
    parameters = inspect.signature(expected.__init__).parameters  # type: ignore[misc]
    required = {names[n] for n, p in parameters.items() if n in names and p.default is inspect.Parameter.empty}
    found = [(f"{path}.{name}", "required, and missing") for name in sorted(required - value.keys())]
    for name, item in value.items():
        if name not in types:
            found.append((f"{path}.{name}", "no such field"))
        else:
            found += _mismatches(f"{path}.{name}", types[name], item)
    return found
