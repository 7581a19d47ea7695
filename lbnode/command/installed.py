"""The settings in force, read so that a newer samegate's ConfigMap does not stop an older command. Pure."""

from __future__ import annotations

import copy
import json
from typing import Any

from pydantic import ValidationError

from lbnode.errors import ConfigError
from lbnode.settings import AgentSettings, config_error

#: Findings that are taken out before it is given up: more are no other version but another file.
MOST_FINDINGS = 50


def read_settings(text: str, called: str) -> tuple[AgentSettings, list[str]]:
    """The settings, and notes on what of them this command does not know and has left out.

    Raises:
        ConfigError: the text is not JSON, or what this command needs is missing or wrong.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(called, f"not JSON: {error}", "Mend the ConfigMap; agents keep the last good one") from None
    left_out: list[str] = []
    while True:
        try:
            settings = AgentSettings.model_validate(raw)
        except ValidationError as error:
            loc = error.errors(include_url=False)[0]["loc"]
            raw = copy.deepcopy(raw)
            name = _take_out(raw, loc) if len(left_out) < MOST_FINDINGS else ""
            if not name:
                raise config_error(error, called) from None
            left_out.append(name)
        else:
            break
    if not left_out:
        return settings, []
    return settings, [
        f"{called} has what this command does not know ({', '.join(left_out)}), and goes on without it: the command is older than the "
        "installation, or an agent refuses these settings too (see `doctor`)"
    ]


def _take_out(raw: Any, loc: tuple[int | str, ...]) -> str:
    """Remove the value that ``loc`` ends at, and name it; empty when it is not there or is the whole."""
    path: list[int | str] = []
    place, parent = raw, None
    for part in loc:
        # A union adds a part for each member that was tried, which is no key of the settings.
        inside = (isinstance(place, dict) and part in place) or (isinstance(place, list) and part in range(len(place)))
        if inside:
            parent, place = place, place[part]
            path.append(part)
        elif isinstance(part, str) and not isinstance(place, dict | list):
            continue
        else:
            # A required key that is missing cannot be left out.
            return ""
    if parent is None or not path:
        return ""
    del parent[path[-1]]
    return ".".join(map(str, path))
