"""Generated router configurations in the daemons that they are for: BIRD as an edge node announces, and FRR or BIRD as a router takes it."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.routers import bird
from components.routers import frr as frr_platform
from components.routers.model import routers
from components.routers.render import configurations
from components.settings import parse
from lbnode.bgp_settings import Bgp
from lbnode.facts import RouteAttributes
from lbnode.pools import Pool
from lbnode.routes import routes_of
from lbnode.speaker.bird import Bird
from tests.root.speaker_rig import Rig, missing, rig, wait_until
from tests.root.test_speaker_bird import set_once_running
from tests.unit.components.pool_worlds import World, pool_worlds
from tests.unit.lbnode.speaker.speaker_conformance import NODE, NODE_ADDRESS

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]

KEY = "correct-horse-battery-staple"
POOLS = [
    {"name": "public", "cidrs": ["203.0.113.0/25", "2001:db8:113::/120"]},
    {"name": "wide", "cidrs": ["203.0.113.128/25"], "aggregate": {"length": 28, "hostRoutes": False}},
]
PEER = {"name": "tor", "address": "198.18.0.2", "asn": 65001, "passwordKey": "tor", "ttlSecurity": True}
VIPS = ("203.0.113.1", "203.0.113.2", "203.0.113.129", "2001:db8:113::5")
ROUTES4 = {"203.0.113.1", "203.0.113.2", "203.0.113.128/28"}


def files(platform: str, **router: Any) -> dict[str, str]:
    stack = {
        "platform": {
            "kind": "onprem",
            "edgeNodes": [NODE],
            "routers": [{"name": "tor", "platform": platform, "peers": ["tor"], **router}],
        },
        "image": "samegate@sha256:" + "0" * 64,
        "agent": {
            "pools": POOLS,
            "bgp": {"localAsn": 65010, "peers": [PEER]},
            "network": {"nodeCidrs": ["198.18.0.0/24"], "probeCidrs": ["192.0.2.0/24", "2001:db8:2::/64"]},
        },
    }
    return configurations(parse(stack, bgp_keys=["tor"]), {"tor": KEY})["tor"]


@pytest.fixture
def made() -> Iterator[Rig]:
    with rig() as fresh:
        (fresh.key_directory / "tor").write_text(KEY)
        yield fresh


def edge(made: Rig, *pools: dict[str, Any]) -> Bird:
    """An edge node with these pools in place of those that the router knows."""
    bgp = Bgp.model_validate({"localAsn": 65010, "peers": [PEER]})
    known = tuple(Pool.model_validate(pool) for pool in pools or POOLS)
    addresses = (NODE_ADDRESS, ip_address("2001:db8::11"))
    made.start_bird()
    speaker = Bird(bgp, known, NODE, addresses, made.directory, made.key_directory)
    set_once_running(speaker)
    return speaker


def announce(speaker: Bird, *vips: str) -> None:
    pools = speaker_pools(vips)
    asyncio.run(speaker.set(routes_of({ip_address(v): RouteAttributes() for v in vips}, pools)))


def speaker_pools(vips: tuple[str, ...]) -> tuple[Pool, ...]:
    """The router's pools, and one for what lies in none of them."""
    pools = tuple(Pool.model_validate(pool) for pool in POOLS)
    outside = [v for v in vips if not any(ip_address(v) in pool for pool in pools)]
    return (*pools, Pool.model_validate({"name": "outside", "cidrs": outside})) if outside else pools


def frr(made: Rig, text: str) -> None:
    """An FRR that runs with nothing configured, to which the text is added, as the guide says."""
    made.start_router("")
    made.vtysh("configure terminal", "no router bgp 65001")
    path = made.directory / "frr.conf"
    path.write_text(text)
    said = subprocess.run(
        ["vtysh", "--vty_socket", str(made.frr), "-f", str(path)], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stderr) == (0, ""), said.stdout + said.stderr
    assert "%" not in said.stdout, said.stdout


def test_frr_takes_vips_and_declared_aggregates_in_both_families_and_nothing_else(made: Rig) -> None:
    frr(made, files("frr")["frr.conf"])
    speaker = edge(made, *POOLS, {"name": "outside", "cidrs": ["198.51.100.0/24"]})
    announce(speaker, *VIPS, "198.51.100.1")
    wait_until(lambda: made.router_fib() == ROUTES4, 15, "the routes appear")
    wait_until(lambda: made.router_fib(6) == {"2001:db8:113::5"}, 5, "the IPv6 route appears")
    assert made.router_next_hops(6) == {"2001:db8:113::5": "2001:db8::11"}
    wait_until(lambda: neighbour(made)["peerBfdInfo"]["status"] == "Up", 10, "BFD comes up")
    families = neighbour(made)["addressFamilyInfo"]
    assert neighbour(made)["peerGroup"] == "SAMEGATE-EDGES"
    assert {name: family.get("sentPrefixCounter", 0) for name, family in families.items()} == {
        "ipv4Unicast": 0,
        "ipv6Unicast": 0,
    }


def neighbour(made: Rig) -> dict[str, Any]:
    (found,) = made.vtysh_json("show bgp neighbors json").values()
    return dict(found)


def test_frr_ends_a_session_that_announces_more_than_the_limit(made: Rig) -> None:
    frr(made, files("frr", maximumPrefixes=2)["frr.conf"])
    speaker = edge(made)
    announce(speaker, "203.0.113.1", "203.0.113.2")
    wait_until(lambda: len(made.router_fib()) == 2, 15, "two routes appear")
    announce(speaker, "203.0.113.1", "203.0.113.2", "203.0.113.3")
    log = made.directory / "bird.log"
    # Its dynamic neighbour may connect again at once: FRR forgets it, and with it the time to wait.
    wait_until(lambda: "Maximum number of prefixes reached" in log.read_text(), 15, "the session ends")


def test_frr_of_sonic_is_accepted_too(made: Rig) -> None:
    frr(made, files("sonic")["frr.conf"])
    assert "listen range 198.18.0.0/24 peer-group SAMEGATE-EDGES" in made.vtysh("show running-config")


@pytest.fixture
def bird_router(made: Rig, tmp_path: Path) -> Iterator[Path]:
    """BIRD in the router's place; its control socket."""
    configuration, control = tmp_path / "bird.conf", made.directory / "router.ctl"
    configuration.write_text("router id 198.18.0.2;\n" + files("bird")["bird.conf"])
    command = ["bird", "-f", "-c", str(configuration), "-s", str(control), "-P", str(tmp_path / "bird.pid")]
    with subprocess.Popen(
        ["ip", "netns", "exec", made.router_namespace, *command], stderr=subprocess.PIPE, text=True
    ) as router:
        try:
            yield control
        finally:
            router.terminate()


def routes_in_bird(made: Rig) -> set[str]:
    shown = subprocess.run(
        ["ip", "-n", made.router_namespace, "route", "show", "proto", "bird"],
        capture_output=True,
        text=True,
        check=True,
    )
    shown6 = subprocess.run(
        ["ip", "-6", "-n", made.router_namespace, "route", "show", "proto", "bird"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.split()[0] for line in (shown.stdout + shown6.stdout).splitlines() if line.strip()}


def test_bird_takes_vips_and_declared_aggregates_in_both_families_and_nothing_else(
    made: Rig, bird_router: Path
) -> None:
    speaker = edge(made, *POOLS, {"name": "outside", "cidrs": ["198.51.100.0/24"]})
    announce(speaker, *VIPS, "198.51.100.1")
    wait_until(lambda: routes_in_bird(made) == {*ROUTES4, "2001:db8:113::5"}, 15, "the routes appear")

    def bfd_sessions() -> str:
        command = ["birdc", "-s", str(bird_router), "show", "bfd", "sessions"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    # Routes do not wait for BFD.
    wait_until(lambda: "Up" in bfd_sessions(), 10, "BFD comes up")


@pytest.mark.parametrize("daemon", ["frr", "bird"])
def test_a_misspelt_configuration_is_not_accepted(daemon: str, made: Rig, tmp_path: Path) -> None:
    """What shows that acceptance means something."""
    if daemon == "frr":
        with pytest.raises(AssertionError):
            frr(made, files("frr")["frr.conf"].replace("maximum-prefix", "maximal-prefix"))
        return
    path = tmp_path / "bird.conf"
    path.write_text(files("bird")["bird.conf"].replace("import limit", "import limited"))
    assert subprocess.run(["bird", "-p", "-c", str(path)], capture_output=True, check=False).returncode != 0


@given(world=pool_worlds(), bfd=st.booleans(), keyed=st.booleans(), width=st.integers(2, 64), multihop=st.booleans())
@settings(max_examples=12, deadline=None)
def test_the_daemons_own_checks_accept_whatever_the_settings_say(
    world: World, bfd: bool, keyed: bool, width: int, multihop: bool
) -> None:
    """`bird -p` and `vtysh --dryrun`: the whole text, and no daemon runs."""
    world["agent"]["bgp"]["peers"][0] |= {
        **({} if bfd else {"bfd": None, "gracefulRestart": {"restartSeconds": 20}}),
        **({"passwordKey": "tor"} if keyed else {}),
        **({"multihop": 2} if multihop else {"ttlSecurity": True}),
    }
    world["platform"]["routers"][0]["maximumPaths"] = width
    (router,) = routers(parse(world, bgp_keys=["tor"] if keyed else ()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "router.conf"
        for heading, text, command in (
            ("router id 198.18.0.2;\n", bird.text(router, {"tor": KEY}), ["bird", "-p", "-c"]),
            ("", frr_platform.text(router, {"tor": KEY}), ["vtysh", "--dryrun", "-f"]),
        ):
            path.write_text(heading + text)
            said = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
            assert said.returncode == 0 and "%" not in said.stdout + said.stderr, said.stdout + said.stderr + text


def test_the_daemons_own_checks_refuse_what_is_misspelt(tmp_path: Path) -> None:
    path = tmp_path / "router.conf"
    path.write_text(files("frr")["frr.conf"].replace("listen range", "listen rage"))
    assert subprocess.run(["vtysh", "--dryrun", "-f", str(path)], capture_output=True, check=False).returncode != 0
