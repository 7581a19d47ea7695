"""Sessions with routers and what routers are told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policy.model import STACK, Finding, Parameters, Stack, readable
from policy.rules.agent_settings import peers, stack_settings

ON_PREMISES = "onprem"


def bfd_on_premises(stack: Stack, parameters: Parameters) -> Iterator[Finding]:
    """Where routers are your own, every session has BFD.

    Without it a dead edge node keeps its share of the traffic for the whole hold time, seconds instead of one. No cloud fabric but AWS
    Route Server has BFD, so the rule is for stacks that export the platform `onprem`.
    """
    found = stack_settings(stack)
    platform = readable(stack.of(STACK), lambda resource: resource.properties.get("platform"))
    if found is None or not platform or platform[0][1] != ON_PREMISES:
        return
    where, settings = found
    for peer in peers(settings):
        if peer.get("bfd") is None:
            yield Finding(f"peer {peer.get('name')} has no BFD. Remove `bfd: null`", where.urn)


@dataclass(frozen=True)
class Language:
    """How a platform writes a session, its import filter and its limit. ``session`` names what the other two must be said of in its first group."""

    session: str
    import_filter: str
    limit: str


#: By the name of a file of the stack output `routers`. Written from the platforms' manuals, apart from the generator: whoever writes a file there,
#: it must say these. A `{0}` is the session's first group.
LANGUAGES: Mapping[str, Language] = {
    "frr.conf": Language(
        r"bgp listen range \S+ peer-group (\S+)",
        r"neighbor {0} (route-map|prefix-list) \S+ in",
        r"neighbor {0} maximum-prefix \d+",
    ),
    "bird.conf": Language(
        r"protocol bgp (\S+) \{",
        r"protocol bgp {0} \{[^}]*?(\{[^}]*?\}[^}]*?)*?import filter",
        r"protocol bgp {0} \{[^}]*?(\{[^}]*?\}[^}]*?)*?(import|receive) limit \d+",
    ),
    "vyos.commands": Language(
        r"bgp listen range \S+ peer-group (\S+)",
        r"peer-group {0} address-family \S+ (route-map|prefix-list) import",
        r"peer-group {0} address-family \S+ maximum-prefix \d+",
    ),
    "nx-os.conf": Language(
        r"\n  neighbor (\S+/\d+)\n",
        r"\n  neighbor {0}\n(    .*\n)*?      (prefix-list|route-map) \S+ in\n",
        r"\n  neighbor {0}\n(    .*\n)*?      maximum-prefix \d+",
    ),
    "ios-xe.conf": Language(
        r"bgp listen range \S+ peer-group (\S+)",
        r"neighbor {0} (route-map|prefix-list) \S+ in",
        r"neighbor {0} maximum-prefix \d+",
    ),
    "junos.set": Language(
        r"protocols bgp group (\S+) allow",
        r"protocols bgp group {0} import",
        r"protocols bgp group {0} family inet6? unicast (accepted-)?prefix-limit maximum \d+",
    ),
    "eos.conf": Language(
        r"bgp listen range \S+ peer-group (\S+)",
        r"neighbor {0} (route-map|prefix-list) \S+ in",
        r"neighbor {0} maximum-routes [1-9]",
    ),
}


def _sessions(stack: Stack) -> Iterator[tuple[str, str, Language, str]]:
    """Router and file, text, language and session, for every session of every router of the output `routers`."""
    for _, routers in readable(stack.of(STACK), lambda resource: _plain(resource.properties.get("routers"))):
        for router, files in (routers or {}).items():
            for name, text in files.items():
                if (language := LANGUAGES.get(name)) is not None:
                    for session in sorted({match[1] for match in re.finditer(language.session, text)}):
                        yield f"{router}/{name}", text, language, session


def _plain(value: Any) -> dict[str, dict[str, str]] | None:
    return None if value is None else {router: {n: files[n] for n in files} for router, files in value.items()}


def routers_filter_imports(stack: Stack, parameters: Parameters) -> Iterator[Finding]:
    """Every router that is told of edge nodes has an import filter for them.

    Without one a wrong or captured edge node can announce any prefix, and take anybody's traffic.
    """
    for where, text, language, session in _sessions(stack):
        if not re.search(language.import_filter.replace("{0}", re.escape(session)), text):
            yield Finding(f"{where} takes whatever {session} announces. Add an import filter for the pools")


def routers_limit_prefixes(stack: Stack, parameters: Parameters) -> Iterator[Finding]:
    """Every router that is told of edge nodes has a maximum of prefixes for them.

    An edge node gone wild then costs its own session, not the router's memory.
    """
    for where, text, language, session in _sessions(stack):
        if not re.search(language.limit.replace("{0}", re.escape(session)), text):
            yield Finding(f"{where} has no maximum of prefixes for {session}. Add one")
