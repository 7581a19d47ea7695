"""BIRD while the clock on the wall jumps by an hour: no timer of it goes by that one."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.root.speaker_rig import Rig, missing, rig, wait_until
from tests.root.test_speaker_bird import bgp, bird, set_once_running
from tests.unit.lbnode.speaker.speaker_conformance import read_until_established

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.skipif(shutil.which("cc") is None, reason="cc is not installed (Debian package gcc)"),
]

#: Adds to one clock, CLOCK_REALTIME (0) or CLOCK_MONOTONIC (1) of time.h, the seconds that stand in a file. A clock of the kernel that was set, or a
#: time namespace, would be the whole machine's or set before BIRD starts.
JUMPING_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long jumped(clockid_t which) {
    char text[16] = "";
    int file;
    if (which != atoi(getenv("JUMPING_CLOCK")) || (file = open(getenv("JUMPED_SECONDS"), O_RDONLY)) < 0)
        return 0;
    if (read(file, text, sizeof text - 1) < 0)
        text[0] = 0;
    close(file);
    return atol(text);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int (*genuine)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int done = genuine(which, now);
    now->tv_sec += jumped(which);
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int (*genuine)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int done = genuine(now, zone);
    now->tv_sec += jumped(CLOCK_REALTIME);
    return done;
}

time_t time(time_t *stored) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (stored)
        *stored = now.tv_sec;
    return now.tv_sec;
}
"""
REALTIME, MONOTONIC = 0, 1
#: Longer than the hold time of the suite's settings, 9 s, whose timer would have to be restarted by then.
WATCHED_SECONDS = 10.0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(JUMPING_CLOCK)
    built = folder / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(built), str(folder / "clock.c"), "-ldl"], check=True)
    return built


@pytest.fixture
def made() -> Iterator[Rig]:
    with rig() as fresh:
        fresh.start_router()
        yield fresh


def established(made: Rig, library: Path, clock: int) -> Path:
    """A BIRD that goes by that clock, its VIP at the router, and the file that lets the clock jump."""
    jump = made.directory / "jumped-seconds"
    preload = (f"LD_PRELOAD={library}", f"JUMPING_CLOCK={clock}", f"JUMPED_SECONDS={jump}")
    made.start_bird("env", *preload)
    # Without BFD, so that only BGP's own timers can end the session.
    speaker = bird(made, bgp(bfd=None))
    set_once_running(speaker, 1)
    read_until_established(speaker, ["tor-1"])
    wait_until(lambda: made.router_fib() == {"203.0.113.1"}, 10, "the VIP appears")
    return jump


def hour_in_log(made: Rig) -> str:
    """The last line's date and hour, which BIRD takes from the clock on the wall."""
    return (made.directory / "bird.log").read_text().splitlines()[-1][:13]


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_clock_on_the_wall_that_jumps_by_an_hour_ends_no_session_of_birds(
    made: Rig, library: Path, seconds: int
) -> None:
    jump = established(made, library, REALTIME)
    session = made.session_ports()
    assert session is not None
    jump.write_text(str(seconds))
    gone = time.monotonic() + WATCHED_SECONDS
    while time.monotonic() < gone:
        assert made.router_fib() == {"203.0.113.1"}
        time.sleep(0.2)
    assert made.session_ports() == session
    made.birdc("configure")
    there = time.strftime("%Y-%m-%d %H", time.localtime(time.time() + seconds))
    wait_until(lambda: hour_in_log(made) == there, 3, "BIRD sees the clock that jumped")


@pytest.mark.parametrize(("clock", "ends"), [(MONOTONIC, True), (REALTIME, False)], ids=["monotonic", "wall"])
def test_a_silence_is_as_long_as_the_clock_says_that_bird_goes_by(
    made: Rig, library: Path, clock: int, ends: bool
) -> None:
    """The control: an hour of that one is a silence of an hour, and ends the session of a router that stands still long before its hold time."""
    jump = established(made, library, clock)
    made.signal_router_daemon("bgpd", signal.SIGSTOP)
    time.sleep(0.5)  # What it had sent before has been read.
    jump.write_text("3600")
    # The router's last message is at most 3 s old, a third of the hold time: without the jump six seconds are left.
    time.sleep(3)
    assert ("Hold timer expired" in made.birdc("show", "protocols", "all", "peer_tor_1")) == ends
