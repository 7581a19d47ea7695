"""Families of EC2 instance types that samegate knows: a typing error is told at preview, before EC2 refuses it in the middle of an `up`."""

from __future__ import annotations

KNOWN_FAMILIES = frozenset(
    [
        "c6g",
        "c6gn",
        "c6i",
        "c6in",
        "c7a",
        "c7g",
        "c7gn",
        "c7i",
        "c8g",
        "c8gn",
        "m6g",
        "m6i",
        "m6in",
        "m7a",
        "m7g",
        "m7i",
        "m8g",
        "r6g",
        "r6i",
        "r7g",
        "r7i",
        "r8g",
        "t3",
        "t3a",
        "t4g",
    ]
)
"""EC2 user guide, instance types by family, current generation (2026); networks of at most 25 Gbit/s and more are in the n families."""


def family(machine_type: str) -> str:
    """``c7gn`` of ``c7gn.large``; the empty string for what has no size."""
    name, dot, size = machine_type.partition(".")
    return name if dot and size else ""
