"""BGP communities as text: ``16:16`` bits (RFC 1997), ``32:32:32`` bits (RFC 8092), or a well-known name (IANA's registry)."""

from __future__ import annotations

from collections.abc import Iterable

#: IANA "BGP Well-known Communities", by the names of the registry in lower case: RFC 8326, 7611, 9494, 7999, 1997, 3765.
WELL_KNOWN = {
    "graceful-shutdown": "65535:0",
    "accept-own": "65535:1",
    "llgr-stale": "65535:6",
    "no-llgr": "65535:7",
    "blackhole": "65535:666",
    "no-export": "65535:65281",
    "no-advertise": "65535:65282",
    "no-export-subconfed": "65535:65283",
    "no-peer": "65535:65284",
}
#: An UPDATE has at most 4096 bytes (RFC 4271 section 4.1); a large community takes 12 of them, and ours are not alone in it.
MOST = 32
#: Largest number of each part, by how many parts there are.
_LIMITS = {2: 65535, 3: 4294967295}


def canonical(text: str) -> str:
    """The community in numbers without leading zeros; a well-known name becomes its numbers.

    Raises:
        ValueError: it is no community; the message names the value, the rule and the way out.
    """
    word = text.strip().lower()
    if word in WELL_KNOWN:
        return WELL_KNOWN[word]
    if word[:1].isalpha():
        raise ValueError(
            f"community {text!r} is no well-known name. Use one of {', '.join(WELL_KNOWN)}, or numbers like 65010:100"
        )
    parts = word.split(":")
    limit = _LIMITS.get(len(parts), -1)
    if not all(p.isascii() and p.isdigit() and len(p) <= 10 and int(p) <= limit for p in parts):
        raise ValueError(
            f"community {text!r} is neither 16:16 bits (RFC 1997) nor 32:32:32 bits (RFC 8092). Write it like 65010:100 or 65010:1:2"
        )
    return ":".join(str(int(p)) for p in parts)


def in_order(communities: Iterable[str]) -> tuple[str, ...]:
    """Each canonical community once: standard ones first, then by number."""
    return tuple(sorted(set(communities), key=lambda c: (c.count(":"), [int(p) for p in c.split(":")])))
