"""What the hostile peers of the root tier start from is well formed, so that most of a mutated message is still a message."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from tests.root.hostile_peer import UPDATE, mutated, open_message, routes, update, updates

ADDRESS = IPv4Address("198.18.0.100")


def test_an_open_is_that_of_the_rfc() -> None:
    """By hand from RFC 4271 section 4.2, RFC 5492 section 4, RFC 4760 section 8 and RFC 6793 section 3."""
    header = "ff" * 16 + "002b" + "01"
    fixed = "04" + "fe4c" + "0009" + "c6120064" + "0e"
    capabilities = "020c" + "0104" + "00010001" + "4104" + "0000fe4c"
    assert open_message(65100, ADDRESS).hex() == header + fixed + capabilities


def test_a_sound_update_reads_back_as_its_routes() -> None:
    sound = updates(65100, ADDRESS)[1]
    assert sound[18] == UPDATE
    assert struct.unpack_from("!H", sound, 16)[0] == len(sound)
    assert routes(sound[19:]) == ["203.0.113.1/32"]
    assert routes(update(b"", b"\x00\x08\x0a")[19:]) == ["0.0.0.0/0", "10.0.0.0/8"]


@given(st.integers())
def test_the_same_seed_says_the_same(seed: int) -> None:
    said = [
        [mutated(m, chance) for m in updates(65100, ADDRESS)] for chance in (random.Random(seed), random.Random(seed))
    ]
    assert said[0] == said[1]
