"""Sessions with routers and what routers are told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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


FAMILIES = ("ipv4", "ipv6")


@dataclass(frozen=True)
class Language:
    """How a platform writes a session, its address families, its import filter and its limit.

    ``session`` names the session in its first group; in the other patterns `{0}` is that name and `{1}` one of ``families``, as the platform
    calls IPv4 and IPv6. ``family`` says that the session carries the family.
    """

    session: str
    family: str
    import_filter: str
    limit: str
    families: tuple[str, str] = FAMILIES


#: The lines of one family's block in the language of IOS: until it ends, or the next begins.
_BLOCK = r"\n *address-family {1}(?: unicast)?\n(?:(?! *(?:exit-)?address-family).*\n)*? *"
_IOS = Language(
    r"bgp listen range \S+ peer-group (\S+)",
    _BLOCK + r"neighbor {0} activate\n",
    _BLOCK + r"neighbor {0} (?:route-map|prefix-list) \S+ in\n",
    _BLOCK + r"neighbor {0} maximum-prefix [1-9]",
)
_NX_OS_FAMILY = r"\n  neighbor {0}\n(?:    .*\n)*?    address-family {1} unicast\n"
_BIRD_FAMILY = r"protocol bgp {0} \{\n(?:  .*\n)*?  {1} \{\n"

#: By the name of a file of the stack output `routers`. Written from the platforms' manuals, apart from the generator: whoever writes a file there,
#: it must say these.
LANGUAGES: Mapping[str, Language] = {
    "frr.conf": _IOS,
    "ios-xe.conf": _IOS,
    # One maximum for the session, over its families.
    "eos.conf": replace(_IOS, limit=r"neighbor {0} maximum-routes [1-9]"),
    "bird.conf": Language(
        r"protocol bgp (\S+) \{",
        _BIRD_FAMILY,
        _BIRD_FAMILY + r"(?:    .*\n)*?    import (?:filter|where) ",
        _BIRD_FAMILY + r"(?:    .*\n)*?    (?:import|receive) limit [1-9]",
    ),
    "vyos.commands": Language(
        r"bgp listen range \S+ peer-group (\S+)",
        r"peer-group {0} address-family {1}-unicast ",
        r"peer-group {0} address-family {1}-unicast (?:route-map|prefix-list) import ",
        r"peer-group {0} address-family {1}-unicast maximum-prefix [1-9]",
    ),
    "nx-os.conf": Language(
        r"\n  neighbor (\S+/\d+)\n",
        _NX_OS_FAMILY,
        _NX_OS_FAMILY + r"(?:      .*\n)*?      (?:prefix-list|route-map) \S+ in\n",
        _NX_OS_FAMILY + r"(?:      .*\n)*?      maximum-prefix [1-9]",
    ),
    # The import policy is the group's, for all its families.
    "junos.set": Language(
        r"protocols bgp group (\S+) allow",
        r"protocols bgp group {0} family {1} unicast",
        r"protocols bgp group {0} import ",
        r"protocols bgp group {0} family {1} unicast (?:accepted-)?prefix-limit maximum [1-9]",
        ("inet", "inet6"),
    ),
}


@dataclass(frozen=True)
class Session:
    """The edge nodes' sessions of one group, in a router's file, and the families that it carries."""

    where: str
    text: str
    language: Language
    name: str

    @property
    def families(self) -> tuple[str, ...]:
        """In the platform's words."""
        return tuple(family for family in self.language.families if self._says(self.language.family, family))

    def lacking(self, pattern: str) -> tuple[str, ...]:
        """The families for which the text has nothing like the pattern."""
        return tuple(family for family in self.families if not self._says(pattern, family))

    def _says(self, pattern: str, family: str) -> bool:
        return re.search(pattern.replace("{0}", re.escape(self.name)).replace("{1}", family), self.text) is not None


def _sessions(stack: Stack) -> Iterator[tuple[str, tuple[Session, ...]]]:
    """Each router of the output `routers`, and its sessions."""
    for _, routers in readable(stack.of(STACK), lambda resource: _plain(resource.properties.get("routers"))):
        for router, files in (routers or {}).items():
            yield (
                router,
                tuple(
                    Session(f"{router}/{name}", text, language, session)
                    for name, text in files.items()
                    if (language := LANGUAGES.get(name)) is not None
                    for session in sorted({match[1] for match in re.finditer(language.session, text)})
                ),
            )


def _plain(value: Any) -> dict[str, dict[str, str]] | None:
    return None if value is None else {router: {n: files[n] for n in files} for router, files in value.items()}


def routers_filter_imports(stack: Stack, parameters: Parameters) -> Iterator[Finding]:
    """Every router that is told of edge nodes has an import filter for them, in each address family.

    Without one a wrong or captured edge node can announce any prefix, and take anybody's traffic. A router in whose files no session is found is
    a finding too: nobody could say that it has one.
    """
    for router, sessions in _sessions(stack):
        if not any(session.families for session in sessions):
            yield Finding(
                f"{router} has no session that can be read, so that nobody knows what it takes. "
                f"Write it in one of {', '.join(sorted(LANGUAGES))}"
            )
        for session in sessions:
            for family in session.lacking(session.language.import_filter):
                yield Finding(
                    f"{session.where} takes whatever {session.name} announces in {family}. Add an import filter for the pools"
                )


def routers_limit_prefixes(stack: Stack, parameters: Parameters) -> Iterator[Finding]:
    """Every router that is told of edge nodes has a maximum of prefixes for them, in each address family.

    An edge node gone wild then costs its own session, not the router's memory.
    """
    for _, sessions in _sessions(stack):
        for session in sessions:
            for family in session.lacking(session.language.limit):
                yield Finding(f"{session.where} has no maximum of prefixes for {session.name} in {family}. Add one")
