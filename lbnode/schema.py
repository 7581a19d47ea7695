"""What all classes of the settings share: strict values, no unknown keys, camelCase outside."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from lbnode.model import IPNetwork

# Strict, because a lenient reader takes `true` for 1 and "9" for 9.
Whole = Annotated[int, Field(strict=True)]
#: An hour: longer is a mistake, and RFC 5880 counts BFD's microseconds in 32 bits (71 minutes).
Milliseconds = Annotated[Whole, Field(gt=0, le=3_600_000)]
Port = Annotated[Whole, Field(ge=1, le=65535)]
Value = TypeVar("Value", bound=Hashable)


def as_text(value: object) -> object:
    """The value, if it is not of a type that the ``ipaddress`` module would make an address of by itself. Raises ``ValueError``."""
    # The ipaddress module takes 5 for 0.0.0.5.
    if isinstance(value, int | bytes):
        raise ValueError(f"{value!r} is no text. Write addresses and networks as text, like 198.18.0.2")
    return value


Address = Annotated[IPv4Address | IPv6Address, BeforeValidator(as_text)]
Cidr = Annotated[IPv4Network | IPv6Network, BeforeValidator(as_text)]


class Strict(BaseModel):
    """Base of every settings class."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Whether two networks of any family share an address."""
    return one.version == other.version and one.overlaps(ip_network(other))


def first_duplicate(values: Iterable[Value]) -> Value | None:
    """The first value that was there before."""
    seen: set[Value] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
