"""BIRD as the agent drives it, against a real router (FRR)."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from lbnode.bgp_settings import Bgp
from lbnode.errors import Retry
from lbnode.facts import RouteAttributes
from lbnode.pools import Pool
from lbnode.routes import routes_of
from lbnode.speaker.base import Speaker
from lbnode.speaker.bird import Bird
from tests.root.speaker_rig import Rig, missing, rig, wait_until
from tests.unit.lbnode.speaker.speaker_conformance import (
    BGP,
    NODE,
    NODE_ADDRESS,
    POOLS,
    SpeakerConformance,
    read_until_established,
    routes,
    vips,
)

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]


def bgp(**peer: Any) -> Bgp:
    """The suite's settings with other values for its one peer."""
    return Bgp.model_validate({**BGP.model_dump(), "peers": [{**BGP.peers[0].model_dump(), **peer}]})


def bird(made: Rig, settings: Bgp = BGP) -> Bird:
    return Bird(settings, POOLS, NODE, (NODE_ADDRESS,), made.directory, made.key_directory)


def set_once_running(speaker: Speaker, *lasts: int) -> None:
    """Set as the role's loop does: again while the daemon is not there yet."""
    end = time.monotonic() + 5
    while True:
        try:
            asyncio.run(speaker.set(routes(*lasts)))
            return
        except Retry:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


@pytest.fixture
def made() -> Iterator[Rig]:
    with rig() as fresh:
        yield fresh


class TestBird(SpeakerConformance):
    @pytest.fixture
    def speaker(self, made: Rig) -> Speaker:
        self.made = made
        made.start_router()
        made.start_bird()
        speaker = bird(made)
        set_once_running(speaker)
        return speaker

    def stop_daemon(self, speaker: Speaker) -> None:
        self.made.stop_bird()

    def start_daemon(self, speaker: Speaker) -> None:
        self.made.start_bird()


def test_a_vip_reaches_the_router_with_its_communities_and_leaves_it_within_a_second(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker)
    read_until_established(speaker, ["tor-1"])
    asyncio.run(speaker.set(routes(1)))
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 1, "the route appears")
    (path,) = made.vtysh_json("show bgp ipv4 unicast 203.0.113.1/32 json")["paths"]
    assert path["community"]["string"] == "65010:100"
    assert path["largeCommunity"]["string"] == "65010:1:2"
    assert path["nexthops"][0]["ip"] == "198.18.0.11"
    asyncio.run(speaker.set(routes()))
    wait_until(lambda: made.router_fib() == frozenset(), 1, "the route goes")


NODE_ADDRESS6, VIP6 = ip_address("2001:db8::11"), ip_address("2001:db8:113::5")
BOTH = {**routes(1), ip_network(VIP6): RouteAttributes()}
ACTIVATE6 = "address-family ipv6 unicast\n  neighbor EDGE activate\n exit-address-family"
SECOND_SESSION = """\
 neighbor SIX peer-group
 neighbor SIX remote-as 65010
 neighbor SIX bfd 3 300 300
 neighbor SIX ttl-security hops 1
 bgp listen range 2001:db8::/64 peer-group SIX
 address-family ipv6 unicast
  neighbor SIX activate
 exit-address-family"""


def dual_stack_bird(made: Rig, settings: Bgp) -> Bird:
    addresses = (NODE_ADDRESS, NODE_ADDRESS6)
    pool = Pool.model_validate({"name": "six", "cidrs": ["2001:db8:113::/64"]})
    return Bird(settings, (*POOLS, pool), NODE, addresses, made.directory, made.key_directory)


def test_one_session_carries_both_families_each_with_a_next_hop_of_its_own(made: Rig) -> None:
    made.start_router(six=f" {ACTIVATE6}")
    made.start_bird()
    speaker = dual_stack_bird(made, BGP)
    set_once_running(speaker)
    read_until_established(speaker, ["tor-1"])
    asyncio.run(speaker.set(BOTH))
    wait_until(lambda: made.router_fib(6) == {str(VIP6)}, 1, "the IPv6 route appears")
    assert made.router_next_hops(4) == {"203.0.113.1": "198.18.0.11"}
    (path,) = made.vtysh_json(f"show bgp ipv6 unicast {VIP6}/128 json")["paths"]
    # BIRD adds the link-local address on a shared link (RFC 2545 section 3), and FRR forwards to that one unless told otherwise.
    assert {hop["ip"] for hop in path["nexthops"]} == {"2001:db8::11", "fe80::11"}
    assert asyncio.run(speaker.read()).announced == vips(1) | {VIP6}
    asyncio.run(speaker.set(routes(1)))
    wait_until(lambda: made.router_fib(6) == frozenset(), 1, "the IPv6 route goes")
    assert made.router_fib(4) == {"203.0.113.1"}


def test_two_sessions_carry_a_family_each_and_each_has_its_own_bfd(made: Rig) -> None:
    made.start_router(six=SECOND_SESSION)
    made.start_bird()
    first = BGP.peers[0].model_copy(update={"address_families": ("IPv4",)})
    second = first.model_copy(
        update={"name": "tor-1-six", "address": ip_address("2001:db8::2"), "address_families": ("IPv6",)}
    )
    speaker = dual_stack_bird(made, BGP.model_copy(update={"peers": (first, second)}))
    set_once_running(speaker)
    read_until_established(speaker, ["tor-1", "tor-1-six"])
    asyncio.run(speaker.set(BOTH))
    wait_until(lambda: made.router_fib(6) == {str(VIP6)} and made.router_fib(4) == {"203.0.113.1"}, 1, "both appear")

    def shown() -> dict[str, tuple[int, str]]:
        return {name: (s.exported, s.bfd) for name, s in asyncio.run(speaker.read()).sessions.items()}

    wait_until(
        lambda: shown() == {"tor-1": (1, "Up"), "tor-1-six": (1, "Up")}, 5, "each session has its route and its BFD"
    )


def test_a_router_that_knows_no_ipv6_still_gets_the_ipv4_routes(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = dual_stack_bird(made, BGP)
    set_once_running(speaker)
    read_until_established(speaker, ["tor-1"])
    asyncio.run(speaker.set(BOTH))
    wait_until(lambda: made.router_fib(4) == {"203.0.113.1"}, 1, "the IPv4 route appears")
    assert made.router_fib(6) == frozenset()


def test_sessions_keep_the_hold_time_of_the_settings_though_the_router_asks_for_more(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker)
    read_until_established(speaker, ["tor-1"])
    (neighbour,) = made.vtysh_json("show bgp neighbors json").values()
    assert neighbour["bgpTimerHoldTimeMsecs"] == 9000
    assert neighbour["bgpTimerKeepAliveIntervalMsecs"] == 3000


def test_the_daemon_listens_on_the_node_address_only(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker, 1)
    read_until_established(speaker, ["tor-1"])
    listening = subprocess.run(
        ["ip", "netns", "exec", made.speaker_namespace, "ss", "-Hlntu"], capture_output=True, text=True, check=True
    ).stdout
    local = {line.split()[4].rpartition(":")[0].partition("%")[0] for line in listening.splitlines()}
    assert local == {"198.18.0.11"}


def test_nothing_is_learnt_from_a_router_that_sends_a_default_route_a_full_table_and_our_own_vip(made: Rig) -> None:
    networks = [f"  network 10.{n // 250}.{n % 250}.0/24" for n in range(5000)] + ["  network 203.0.113.1/32"]
    made.start_router(family="\n".join(["  neighbor EDGE default-originate", *networks]))
    made.start_bird()
    before = made.speaker_routes()
    speaker = bird(made)
    set_once_running(speaker, 1, 2)
    read_until_established(speaker, ["tor-1"])
    session = made.session_ports()
    assert session is not None
    (address,) = made.vtysh_json("show bgp neighbors json")
    # The router must really have sent them, or the test shows nothing.
    wait_until(lambda: sent_prefixes(made, address) >= 5001, 10, "the router sends its table")
    state = asyncio.run(speaker.read())
    assert state.sessions["tor-1"].established
    assert state.announced == vips(1, 2)
    assert set(re.findall(r"^(\S+/\d+)", made.birdc("show", "route", "all"), re.MULTILINE)) == {
        "203.0.113.1/32",
        "203.0.113.2/32",
    }
    assert made.speaker_routes() == before
    assert "203.0.113.2" in made.router_fib()
    assert made.session_ports() == session


def sent_prefixes(made: Rig, address: str) -> int:
    family = made.vtysh_json("show bgp neighbors json")[address]["addressFamilyInfo"]["ipv4Unicast"]
    return int(family.get("sentPrefixCounter", 0))


def test_routes_of_the_node_that_are_not_vips_are_never_announced(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    for command in (
        ["route", "add", "blackhole", "203.0.113.77/32"],
        ["route", "add", "10.1.0.0/16", "via", "198.18.0.2"],
        ["address", "add", "203.0.113.78/32", "dev", "lo"],
    ):
        subprocess.run(["ip", "-n", made.speaker_namespace, *command], check=True)
    speaker = bird(made)
    set_once_running(speaker, 1)
    wait_until(lambda: "203.0.113.1" in made.router_fib(), 10, "the VIP appears")
    assert made.router_fib() == {"203.0.113.1"}


def test_a_wrong_key_keeps_the_session_down_and_says_so_and_the_right_one_mends_it(made: Rig) -> None:
    made.start_router(neighbour=" neighbor EDGE password right-key")
    made.start_bird()
    (made.key_directory / "rack").write_text("wrong-key\n")
    speaker = bird(made, bgp(password_key="rack"))
    set_once_running(speaker, 1)
    state = read_until_established(speaker, ["tor-1"], deadline_seconds=6)
    assert not state.sessions["tor-1"].established
    assert "key" in state.sessions["tor-1"].last_error
    (made.key_directory / "rack").write_text("right-key\n")
    asyncio.run(speaker.set(routes(1)))
    assert read_until_established(speaker, ["tor-1"]).sessions["tor-1"].established
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 2, "the VIP appears")


def test_a_key_on_the_routers_side_only_keeps_the_session_down(made: Rig) -> None:
    made.start_router(neighbour=" neighbor EDGE password right-key")
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker, 1)
    state = read_until_established(speaker, ["tor-1"], deadline_seconds=5)
    assert "key" in state.sessions["tor-1"].last_error


def test_a_router_that_is_not_one_hop_away_gets_no_session_and_one_that_is_does(made: Rig) -> None:
    """RFC 5082: what arrives with a TTL below 255 has passed a router."""
    rule = ["OUTPUT", "-p", "tcp", "-j", "TTL", "--ttl-set", "254"]
    mangle = ["ip", "netns", "exec", made.router_namespace, "iptables", "-w", "-t", "mangle"]
    subprocess.run([*mangle, "-A", *rule], check=True)
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker, 1)
    assert not read_until_established(speaker, ["tor-1"], deadline_seconds=5).sessions["tor-1"].established
    assert made.router_fib() == frozenset()
    subprocess.run([*mangle, "-D", *rule], check=True)
    assert read_until_established(speaker, ["tor-1"]).sessions["tor-1"].established


def test_forged_resets_from_afar_or_without_the_sequence_number_leave_a_session_unharmed(made: Rig) -> None:
    made.start_router(neighbour=" no neighbor EDGE bfd")
    made.start_bird()
    speaker = bird(made, bgp(bfd=None))
    set_once_running(speaker, 1)
    read_until_established(speaker, ["tor-1"])
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the VIP appears")

    def forge(*arguments: str) -> None:
        command = [sys.executable, "-m", "tests.root.forged_reset", "198.18.0.11", "198.18.0.2", *arguments]
        subprocess.run(
            ["ip", "netns", "exec", made.router_namespace, *command], cwd=Path(__file__).parents[2], check=True
        )
        time.sleep(1)

    def dropped() -> int:
        """Sessions that ended, by BIRD's log of their states."""
        return (made.directory / "bird.log").read_text().count("peer_tor_1: State changed to down")

    before = dropped()
    # The right sequence number, but from behind another router; then guesses from the link itself.
    forge("254")
    forge("255", "blind")
    assert asyncio.run(speaker.read()).sessions["tor-1"].established
    assert dropped() == before
    # The control: from the link itself with the right number, which is what an attacker there could do where there is no key.
    forge("255")
    assert dropped() == before + 1
    read_until_established(speaker, ["tor-1"])
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the VIP is back")


def test_the_key_stands_neither_in_the_configuration_nor_in_a_command_line_nor_in_a_log(made: Rig) -> None:
    made.start_router(neighbour=" neighbor EDGE password very-unlikely-words")
    made.start_bird()
    (made.key_directory / "rack").write_text("very-unlikely-words")
    speaker = bird(made, bgp(password_key="rack"))
    set_once_running(speaker, 1)
    assert read_until_established(speaker, ["tor-1"]).sessions["tor-1"].established
    holders = [p for p in made.directory.rglob("*") if p.is_file() and b"very-unlikely-words" in p.read_bytes()]
    assert [p.relative_to(made.directory).as_posix() for p in holders] == ["keys/tor-1.conf"]
    assert holders[0].stat().st_mode & 0o077 == 0
    pid = (made.directory / "bird.pid").read_text().strip()
    assert b"very-unlikely-words" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_router_that_caps_prefixes_ends_the_session_and_the_speaker_says_why(made: Rig) -> None:
    made.start_router(family="  neighbor EDGE maximum-prefix 2")
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker, 1, 2)
    assert read_until_established(speaker, ["tor-1"]).sessions["tor-1"].established
    # FRR counts before it takes a route in, so one above the maximum may pass.
    asyncio.run(speaker.set(routes(1, 2, 3, 4, 5)))
    wait_until(
        lambda: "prefix" in asyncio.run(speaker.read()).sessions["tor-1"].last_error.lower(), 5, "the error shows"
    )
    asyncio.run(speaker.set(routes(1, 2)))
    wait_until(lambda: made.router_fib() == {"203.0.113.1", "203.0.113.2"}, 10, "the VIPs return")


def test_a_killed_daemon_comes_back_with_the_set_that_nobody_told_it_again(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker, 1, 2)
    both = {"203.0.113.1", "203.0.113.2"}
    wait_until(lambda: made.router_fib() == both, 10, "the VIPs appear")
    made.signal_bird(signal.SIGKILL)
    wait_until(lambda: made.router_fib() == frozenset(), 1.5, "the router notices")
    wait_until(lambda: made.router_fib() == both, 6, "the VIPs return")
    assert asyncio.run(speaker.read()).announced == vips(1, 2)


def test_a_router_that_restarts_has_the_vips_again_in_seconds(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker, 1)
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the VIP appears")
    made.stop_router_daemon("bgpd")
    wait_until(lambda: not asyncio.run(speaker.read()).sessions["tor-1"].established, 3, "the session ends")
    # Long enough for BIRD's waiting times to grow, were they its defaults.
    time.sleep(3)
    made.start_router_daemon("bgpd")
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 8, "the VIP returns")


def established_with_bfd(made: Rig, speaker: Speaker) -> None:
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the VIP appears")
    wait_until(lambda: asyncio.run(speaker.read()).sessions["tor-1"].bfd == "Up", 10, "BFD comes up")


def test_bfd_takes_the_route_of_a_frozen_node_within_one_and_a_half_seconds(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker, 1)
    established_with_bfd(made, speaker)
    made.signal_bird(signal.SIGSTOP)
    seconds = wait_until(lambda: made.router_fib() == frozenset(), 1.5, "the route goes")
    made.signal_bird(signal.SIGCONT)
    # Three intervals less one packet's jitter: anything faster would not be BFD.
    assert seconds > 0.3
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the route returns")


def test_without_bfd_the_route_of_a_frozen_node_stays_until_the_hold_time(made: Rig) -> None:
    made.start_router(neighbour=" no neighbor EDGE bfd")
    made.start_bird()
    speaker = bird(made, bgp(bfd=None))
    set_once_running(speaker, 1)
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the VIP appears")
    assert asyncio.run(speaker.read()).sessions["tor-1"].bfd == ""
    made.signal_bird(signal.SIGSTOP)
    time.sleep(2)
    assert made.router_fib() == {"203.0.113.1"}
    wait_until(lambda: made.router_fib() == frozenset(), 9, "the hold time ends the session")


def test_an_unchanged_set_neither_writes_nor_asks(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker, 1)
    written = (made.directory / "bird.conf").stat()
    told = re.search(r"Last reconfiguration on .*", made.birdc("show", "status"))
    time.sleep(0.05)
    asyncio.run(speaker.set(routes(1)))
    after = (made.directory / "bird.conf").stat()
    assert (after.st_ino, after.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert told is not None
    assert told[0] in made.birdc("show", "status")


def test_an_agent_that_starts_again_finds_what_it_announced_and_disturbs_no_session(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    first = bird(made)
    set_once_running(first, 1, 2)
    wait_until(lambda: len(made.router_fib()) == 2, 10, "the VIPs appear")
    written, session = (made.directory / "bird.conf").stat(), made.session_ports()
    assert session is not None
    second = bird(made)
    assert asyncio.run(second.read()).announced == vips(1, 2)
    asyncio.run(second.set(routes(1, 2)))
    assert (made.directory / "bird.conf").stat().st_ino == written.st_ino
    assert made.session_ports() == session


def test_a_configuration_that_somebody_changed_by_hand_is_put_right(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker, 1)
    config = made.directory / "bird.conf"
    config.write_text(config.read_text().replace("203.0.113.1/32", "203.0.113.200/32"))
    made.birdc("configure")
    assert asyncio.run(speaker.read()).announced == vips(200)
    asyncio.run(speaker.set(routes(1)))
    assert asyncio.run(speaker.read()).announced == vips(1)


def test_the_capability_of_the_pod_is_enough_for_bgp_with_key_and_bfd(made: Rig) -> None:
    made.start_router(neighbour=" neighbor EDGE password right-key")
    (made.key_directory / "rack").write_text("right-key")
    made.start_bird("setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all,+net_admin")
    speaker = bird(made, bgp(password_key="rack"))
    set_once_running(speaker, 1)
    status = Path(f"/proc/{(made.directory / 'bird.pid').read_text().strip()}/status").read_text()
    # CAP_NET_ADMIN is number 12 (linux/capability.h).
    assert re.search(r"^CapEff:\s*0*1000$", status, re.MULTILINE)
    established_with_bfd(made, speaker)


def test_without_that_capability_bfd_does_not_come_up(made: Rig) -> None:
    """The control for the test above."""
    made.start_router(neighbour=" neighbor EDGE password right-key")
    (made.key_directory / "rack").write_text("right-key")
    made.start_bird("setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all")
    speaker = bird(made, bgp(password_key="rack"))
    set_once_running(speaker, 1)
    read_until_established(speaker, ["tor-1"])
    time.sleep(3)
    assert asyncio.run(speaker.read()).sessions["tor-1"].bfd == "Down"
    assert "SO_PRIORITY: Operation not permitted" in (made.directory / "bird.log").read_text()


def graceful(restart_seconds: int) -> Bgp:
    return bgp(bfd=None, graceful_restart={"restart_seconds": restart_seconds})


def announcing_with_graceful_restart(made: Rig, settings: Bgp) -> Speaker:
    # FRR forgets a dynamic neighbour with its session and keeps none of its routes, so this one is named.
    made.start_router(neighbour=" no neighbor EDGE bfd\n bgp graceful-restart\n neighbor 198.18.0.11 peer-group EDGE")
    made.start_bird()
    speaker = bird(made, settings)
    set_once_running(speaker, 1)
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the VIP appears")
    # The end-of-RIB marker must have been exchanged, or the router does not keep the routes.
    time.sleep(2)
    return speaker


def gaps_in(made: Rig, seconds: float) -> int:
    """How often, of 50 looks a second, the router had not the one VIP."""
    end = time.monotonic() + seconds
    gaps = 0
    while time.monotonic() < end:
        gaps += made.router_fib() != {"203.0.113.1"}
        time.sleep(0.02)
    return gaps


def test_with_graceful_restart_a_killed_daemon_that_returns_leaves_no_gap(made: Rig) -> None:
    speaker = announcing_with_graceful_restart(made, graceful(20))
    made.signal_bird(signal.SIGKILL)
    wait_until(lambda: session_state(made) != "Established", 3, "the router notices")
    assert gaps_in(made, 8) == 0
    assert read_until_established(speaker, ["tor-1"]).sessions["tor-1"].established


def test_with_graceful_restart_a_dead_nodes_routes_stay_for_the_restart_time_and_then_go(made: Rig) -> None:
    announcing_with_graceful_restart(made, graceful(3))
    made.stop_bird()
    wait_until(lambda: session_state(made) != "Established", 3, "the router notices")
    assert made.router_fib() == {"203.0.113.1"}
    seconds = wait_until(lambda: made.router_fib() == frozenset(), 6, "the restart time ends")
    assert seconds > 1


def test_with_graceful_restart_a_second_router_that_is_down_delays_nothing_after_a_kill(made: Rig) -> None:
    (one,) = graceful(6).peers
    # Nobody answers at that address.
    dead = one.model_copy(update={"name": "tor-2", "address": ip_address("198.18.0.3")})
    speaker = announcing_with_graceful_restart(made, BGP.model_copy(update={"peers": (one, dead)}))
    made.signal_bird(signal.SIGKILL)
    wait_until(lambda: session_state(made) != "Established", 3, "the router notices")
    assert gaps_in(made, 12) == 0
    asyncio.run(speaker.set(routes(1, 2)))
    wait_until(lambda: made.router_fib() == {"203.0.113.1", "203.0.113.2"}, 2, "a new VIP is told")


def test_a_router_of_another_as_is_told_communities_med_and_a_longer_path(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker)
    plain, told = ip_network("203.0.113.1"), ip_network("203.0.113.2")
    attributes = RouteAttributes(("65010:7", "65535:65281", "4200000010:0:1"), med=50, prepend=3)
    asyncio.run(speaker.set({plain: RouteAttributes(), told: attributes}))
    wait_until(lambda: made.router_fib() == {"203.0.113.1", "203.0.113.2"}, 10, "the VIPs appear")
    path = learnt(made, "203.0.113.2/32")
    assert path["aspath"]["string"] == "65010 65010 65010 65010"
    assert path["metric"] == 50
    # 65010:100 and 65010:1:2 are the settings' own for all routes.
    assert set(path["community"]["string"].split()) == {"65010:7", "65010:100", "no-export"}
    assert set(path["largeCommunity"]["string"].split()) == {"4200000010:0:1", "65010:1:2"}
    other = learnt(made, "203.0.113.1/32")
    assert other["aspath"]["string"] == "65010"
    assert other["community"]["string"] == "65010:100"
    assert "metric" not in other


def test_attributes_change_within_a_second_and_the_session_stays(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker)
    route = ip_network("203.0.113.1")
    asyncio.run(speaker.set({route: RouteAttributes()}))
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the VIP appears")
    session = made.session_ports()
    assert session is not None
    for attributes, path, metric in (
        (RouteAttributes(med=7), "65010", 7),
        (RouteAttributes(med=9, prepend=2), "65010 65010 65010", 9),
        (RouteAttributes(), "65010", None),
    ):
        asyncio.run(speaker.set({route: attributes}))

        def is_told(path: str = path, metric: int | None = metric) -> bool:
            found = learnt(made, "203.0.113.1/32")
            return (found["aspath"]["string"], found.get("metric")) == (path, metric)

        wait_until(is_told, 1, f"{attributes} arrives")
        assert made.router_fib() == {"203.0.113.1"}
    assert made.session_ports() == session


def test_a_router_of_our_own_as_is_told_the_local_preference_and_no_longer_path(made: Rig) -> None:
    made.start_router(neighbour=" neighbor EDGE remote-as 65001")
    made.start_bird()
    speaker = bird(made, bgp(asn=65001).model_copy(update={"local_asn": 65001}))
    set_once_running(speaker)
    said = {
        ip_network("203.0.113.1"): RouteAttributes(local_preference=250, prepend=2),
        ip_network("203.0.113.2"): RouteAttributes(med=9),
    }
    asyncio.run(speaker.set(said))
    wait_until(lambda: made.router_fib() == {"203.0.113.1", "203.0.113.2"}, 10, "the VIPs appear")
    first, second = learnt(made, "203.0.113.1/32"), learnt(made, "203.0.113.2/32")
    assert first["peer"]["type"] == "internal"
    # RFC 4271 section 9.1.2: with our own AS in its path the router would leave the route out. 100 is BIRD's default preference.
    assert (first["locPrf"], first["aspath"]["length"]) == (250, 0)
    assert (second["locPrf"], second["metric"]) == (100, 9)
    assert asyncio.run(speaker.read()).routes == said


def test_routers_of_another_as_are_told_no_local_preference(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker)
    asyncio.run(speaker.set({ip_network("203.0.113.1"): RouteAttributes(local_preference=250)}))
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the VIP appears")
    assert "locPrf" not in learnt(made, "203.0.113.1/32")


def test_an_aggregate_comes_with_its_first_vip_and_goes_with_its_last(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker)

    def announce(*vips: str) -> None:
        asyncio.run(speaker.set(routes_of({ip_address(v): RouteAttributes() for v in vips}, POOLS)))

    announce("198.51.100.1", "198.51.100.2", "198.51.100.200", "198.51.100.201")
    # The one pool announces its aggregate beside the host routes, the other alone.
    beside = {"198.51.100.1", "198.51.100.2", "198.51.100.0/28"}
    wait_until(lambda: made.router_fib() == beside | {"198.51.100.192/26"}, 10, "the routes appear")
    session = made.session_ports()
    assert session is not None
    announce("198.51.100.2", "198.51.100.201")
    wait_until(
        lambda: made.router_fib() == {"198.51.100.2", "198.51.100.0/28", "198.51.100.192/26"}, 1, "one of two goes"
    )
    # An agent that starts anew finds which VIPs are on the air, covered ones too.
    assert {str(a) for a in asyncio.run(bird(made).read()).announced} == {"198.51.100.2", "198.51.100.201"}
    announce("198.51.100.2")
    wait_until(lambda: made.router_fib() == {"198.51.100.2", "198.51.100.0/28"}, 1, "the lone aggregate goes")
    announce()
    wait_until(lambda: made.router_fib() == frozenset(), 1, "all go")
    assert made.session_ports() == session


def learnt(made: Rig, prefix: str) -> dict[str, Any]:
    (path,) = made.vtysh_json(f"show bgp ipv4 unicast {prefix} json")["paths"]
    return dict(path)


def test_without_graceful_restart_and_bfd_the_gap_of_a_killed_daemon_shows(made: Rig) -> None:
    made.start_router(neighbour=" no neighbor EDGE bfd\n neighbor 198.18.0.11 peer-group EDGE")
    made.start_bird()
    speaker = bird(made, bgp(bfd=None))
    set_once_running(speaker, 1)
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the VIP appears")
    made.signal_bird(signal.SIGKILL)
    wait_until(lambda: not made.router_fib(), 3, "the route goes")
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the route returns")


def test_with_graceful_restart_a_daemon_that_is_gone_for_good_keeps_its_route_for_the_restart_time_only(
    made: Rig,
) -> None:
    made.start_router(neighbour=" no neighbor EDGE bfd\n bgp graceful-restart\n neighbor 198.18.0.11 peer-group EDGE")
    made.start_bird()
    speaker = bird(made, bgp(bfd=None, graceful_restart={"restart_seconds": 5}))
    set_once_running(speaker, 1)
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the VIP appears")
    time.sleep(2)
    made.stop_bird()
    gone = wait_until(lambda: not made.router_fib(), 5 + 2, "the route goes")
    assert gone > 3, "the router did not keep the route at all: this shows nothing of graceful restart"


def test_bfd_takes_the_route_of_a_path_that_silently_drops(made: Rig) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker, 1)
    established_with_bfd(made, speaker)
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the VIP appears")
    subprocess.run(
        ["ip", "netns", "exec", made.speaker_namespace, "iptables", "-w", "-I", "OUTPUT", "-o", "v0", "-j", "DROP"],
        check=True,
    )
    wait_until(lambda: not made.router_fib(), 1.5, "the route goes")


@pytest.mark.parametrize("end", ["speaker", "router"])
def test_after_a_link_has_flapped_twenty_times_the_routes_are_right_within_ten_seconds(made: Rig, end: str) -> None:
    made.start_router()
    made.start_bird()
    speaker = bird(made)
    set_once_running(speaker, 1, 2)
    wait_until(lambda: made.router_fib() == {"203.0.113.1", "203.0.113.2"}, 10, "the VIPs appear")
    namespace = {"speaker": made.speaker_namespace, "router": made.router_namespace}[end]
    seen_without = False
    for _ in range(20):
        for state, seconds in (("down", 1.2), ("up", 0.8)):
            subprocess.run(["ip", "-n", namespace, "link", "set", "v0", state], check=True)
            time.sleep(seconds)
            seen_without |= not made.router_fib()
    asyncio.run(speaker.set(routes(2, 3)))
    wait_until(lambda: made.router_fib() == {"203.0.113.2", "203.0.113.3"}, 10, "the routes are right")
    assert seen_without, "the flaps took no route away: this shows nothing"


def test_a_taken_port_is_named_and_left_behind_once_it_is_free(made: Rig) -> None:
    made.start_router()
    program = "import socket; s = socket.socket(); s.bind(('198.18.0.11', 1790)); s.listen(); print('taken', flush=True); input()"
    squatter = subprocess.Popen(
        ["ip", "netns", "exec", made.speaker_namespace, sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with squatter:
        assert squatter.stdout is not None
        squatter.stdout.readline()
        made.start_bird()
        speaker = bird(made)
        set_once_running(speaker, 1)
        session = asyncio.run(speaker.read()).sessions["tor-1"]
        assert not session.established
        assert "port 1790 on 198.18.0.11 is taken" in session.last_error
        squatter.kill()

    async def passes() -> bool:
        """What the role's loop does."""
        state = await speaker.read()
        await speaker.set(routes(1))
        return state.sessions["tor-1"].established

    wait_until(lambda: asyncio.run(passes()), 10, "the session comes up")
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 3, "the VIP appears")


def session_state(made: Rig) -> str:
    neighbours = made.vtysh_json("show bgp neighbors json").values()
    return next((str(n["bgpState"]) for n in neighbours), "gone")
