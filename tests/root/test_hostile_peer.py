"""Peers that throw bytes at a real BIRD: it goes on, the sound session beside them stays up, and nothing is learnt."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lbnode.bgp_settings import Bgp
from lbnode.speaker.bird import Bird
from tests.root.hostile_peer import FIRST_ASN
from tests.root.malformed_updates import ATTRIBUTE_DISCARDED, CASES, TREATED_AS_WITHDRAW
from tests.root.speaker_rig import Rig, missing, rig, wait_until
from tests.root.test_speaker_bird import set_once_running
from tests.unit.lbnode.speaker.speaker_conformance import BGP, NODE, NODE_ADDRESS, POOLS, read_until_established, vips

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]

#: A run can be repeated with the seed that a failure shows.
SEED = int(os.environ.get("SAMEGATE_SEED", "20261128"))
HOSTILE_SECONDS = 25.0
#: BIRD waits 1 to 4 s after an error before it connects again: many peers make many conversations in the time there is.
HOSTILE = [f"198.18.0.{100 + n}" for n in range(12)]
PORT = 1179
BACK_SECONDS = 10.0
ROOT = Path(__file__).parents[2]


#: Of the peers with one malformed message each.
MALFORMED = [f"198.18.0.{150 + n}" for n in range(len(CASES))]


@pytest.fixture
def made() -> Iterator[Rig]:
    with rig() as fresh:
        for address in HOSTILE:
            subprocess.run(
                ["ip", "-n", fresh.router_namespace, "address", "add", f"{address}/24", "dev", "v0"], check=True
            )
        yield fresh


def settings(addresses: Sequence[str] = HOSTILE) -> Bgp:
    hostile = [
        {"name": f"hostile-{n}", "address": a, "asn": FIRST_ASN + n, "port": PORT, "bfd": None}
        for n, a in enumerate(addresses)
    ]
    # Without BFD, whose packets a busy machine may delay: only what is said by BGP can take the session down.
    sound = {**BGP.peers[0].model_dump(), "bfd": None}
    return Bgp.model_validate({**BGP.model_dump(), "peers": [sound, *hostile]})


def bird_process(made: Rig) -> tuple[str, str]:
    """BIRD's process id and when it started, in ticks (proc(5), field 22)."""
    pid = (made.directory / "bird.pid").read_text().strip()
    return pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def test_bird_and_its_sound_session_outlive_peers_that_say_anything(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = Bird(settings(), POOLS, NODE, (NODE_ADDRESS,), made.directory, made.key_directory)
    set_once_running(speaker, 1, 2)
    read_until_established(speaker, ["tor-1"])
    wait_until(lambda: made.router_fib() == {"203.0.113.1", "203.0.113.2"}, 10, "the sound router has the VIPs")
    process, kernel_routes, session = bird_process(made), made.speaker_routes(), made.session_ports()
    assert session is not None

    command = [sys.executable, "-m", "tests.root.hostile_peer", str(SEED), str(HOSTILE_SECONDS), str(PORT), *HOSTILE]
    with subprocess.Popen(
        ["ip", "netns", "exec", made.router_namespace, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as hostile:
        gaps = 0
        while hostile.poll() is None:
            gaps += made.router_fib() != {"203.0.113.1", "203.0.113.2"}
            time.sleep(0.2)
        assert hostile.stdout is not None
        told = json.loads(hostile.stdout.read())
    print(f"seed {SEED}: {told}")

    # The attack was one: sessions came up, and BIRD complained in several ways.
    assert told["established"] >= 20
    assert len(told["complaints"]) >= 4
    assert bird_process(made) == process, "BIRD exited"
    assert made.session_ports() == session
    assert gaps == 0
    assert made.speaker_routes() == kernel_routes
    assert set(re.findall(r"^(\S+/\d+)", made.birdc("show", "route", "all"), re.MULTILINE)) == {
        "203.0.113.1/32",
        "203.0.113.2/32",
    }
    assert asyncio.run(speaker.read()).announced == vips(1, 2)
    assert told["learnt"] == ["203.0.113.1/32", "203.0.113.2/32"]
    assert set(told["back_seconds"]) == set(HOSTILE), "a peer that is sound again never got its routes"
    assert max(told["back_seconds"].values()) <= BACK_SECONDS


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    """What BIRD answered to each malformed message; each has a session of its own."""
    with rig() as fresh:
        for address in MALFORMED:
            subprocess.run(
                ["ip", "-n", fresh.router_namespace, "address", "add", f"{address}/24", "dev", "v0"], check=True
            )
        fresh.start_bird()
        set_once_running(
            Bird(settings(MALFORMED), POOLS, NODE, (NODE_ADDRESS,), fresh.directory, fresh.key_directory), 1
        )
        command = [sys.executable, "-m", "tests.root.malformed_updates", str(PORT), *MALFORMED]
        done = subprocess.run(
            ["ip", "netns", "exec", fresh.router_namespace, *command], cwd=ROOT, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_session_is_reset_only_for_what_rfc_7606_resets_it_for(answers: dict[str, str], case: str) -> None:
    if case in TREATED_AS_WITHDRAW or case in ATTRIBUTE_DISCARDED:
        assert answers[case] == "kept"
    else:
        # RFC 4271 section 4.5: 1 is an error of the header, 3 one of an UPDATE.
        assert re.fullmatch(r"[13]\.\d+", answers[case])
