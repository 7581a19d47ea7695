"""Pinned tools: what samegate runs that is not Python, where it comes from, and where it is.

from tools import locate, pulumi_environment
locate("kubectl")            # the program, after `python -m tools ensure`
uv()                         # the pinned uv, fetched when it is not there
pulumi_environment(root)     # the environment of the Pulumi engine in the checkout `root`
"""

from __future__ import annotations

from pathlib import Path

from tools import python_environment
from tools.cache import Cache, location
from tools.pins import load
from tools.progress import for_terminal
from tools.pulumi_engine import pulumi_environment
from tools.python_environment import PythonEnvironmentError

__all__ = ["PythonEnvironmentError", "ToolMissing", "cache_folder", "locate", "pulumi_environment", "uv"]


class ToolMissing(LookupError):
    """The tool is not there as pinned; the text says how to get it."""


def cache_folder() -> Path:
    """The tool cache, which survives `git clean`: for everything that is expensive to make and the same for all checkouts."""
    return location()


def locate(name: str) -> Path:
    """The program of the pinned tool `name`; ToolMissing when it is not there in the pinned version."""
    tool = load().tools.get(name)
    if tool is None:
        raise ToolMissing(f"no tool named {name!r} is pinned in tools/pins.toml")
    cache = Cache(location())
    if cache.in_use(tool.name, tool.version, tool.digest) is None:
        raise ToolMissing(f"{tool.label} is not in {cache.current}: run `python -m tools ensure {name}`")
    return cache.current / name


def uv() -> Path:
    """The pinned uv, fetched when it is not there; PythonEnvironmentError when it cannot be had."""
    return python_environment.uv(load(), Cache(location()), for_terminal())
