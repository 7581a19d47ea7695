"""Errors are named for what the caller does next.

::

    SamegateError
     ├── ConfigError   stop and tell the operator: the input is wrong, trying again cannot help
     ├── Retry         try again after a delay: something outside is not there yet
     └── Bug           stop this pass and tell the developers: the code met a state it rules out
"""

from __future__ import annotations


class SamegateError(Exception):
    """Base of all errors that samegate raises on purpose."""


class ConfigError(SamegateError):
    """Wrong input. The message names the value, the rule and the way out."""

    def __init__(self, value: str, rule: str, way_out: str) -> None:
        super().__init__(f"{value}: {rule}. {way_out}")
        self.value = value
        self.rule = rule
        self.way_out = way_out


class Retry(SamegateError):
    """Something outside is not ready. Try again after ``after_seconds``."""

    def __init__(self, reason: str, after_seconds: float = 1.0) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


class Bug(SamegateError):
    """A state that the code rules out."""
