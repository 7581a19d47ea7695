"""The agent's start with dataplane xdp, by settings and with the privileges of its pod alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.node import new_namespace, sh
from tests.conformance.xdp import bpf_file_system
from tests.unit.lbnode.kube_objects import SETTINGS
from tools.bpf import CLANG, build

pytestmark = pytest.mark.root

SMALL = {"devices": ["eth0"], "flowsPerProcessor": 1024, "services": 15, "destinations": 31}
#: What components/loadbalancer/manifests.py gives the agent of an edge node.
POD = ("+net_admin", "+bpf", "+perfmon")
STARTS = """
import sys
from pathlib import Path
from lbnode.errors import ConfigError
from lbnode.roles.xdp import how, xdp_balancer
from lbnode.settings import parse_json
settings = parse_json(sys.argv[1])
try:
    balancer = xdp_balancer(settings.pool_networks, settings, Path(sys.argv[2]), Path(sys.argv[3]))
except ConfigError as error:
    print("refused:", error)
else:
    print("services:", balancer.services())
"""


@pytest.fixture(scope="module")
def built() -> Path:
    if shutil.which(CLANG) is None:
        pytest.skip(f"{CLANG} is not on PATH")
    return build()


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    with new_namespace(), bpf_file_system(tmp_path / "bpf") as mounted:
        yield mounted / "samegate"


def start(built: Path, pins: Path, capabilities: tuple[str, ...] = POD, **xdp: Any) -> str:
    text = json.dumps({**deepcopy(SETTINGS), "dataplane": "xdp", "xdp": {**SMALL, **xdp}})
    only = ",".join(("-all", *capabilities))
    command = ["setpriv", f"--bounding-set={only}", f"--inh-caps={only}", "--no-new-privs"]
    command += [sys.executable, "-c", STARTS, text, str(pins), str(built)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ})
    return done.stdout + done.stderr


def program() -> str:
    words = sh("ip -d link show dev eth0").split()
    return next((w for w in ("xdpgeneric", "xdp") if w in words), "")


def test_the_capabilities_of_the_pod_suffice_and_the_log_says_the_mode(built: Path, pins: Path) -> None:
    said = start(built, pins)
    assert "services: ()" in said, said
    assert "eth0 has the XDP program in native mode" in said
    assert program() == "xdp", "it stays when the agent ends"


@pytest.mark.parametrize("without", ["+net_admin", "+bpf", "+perfmon"])
def test_without_one_of_them_the_device_is_left_alone(built: Path, pins: Path, without: str) -> None:
    said = start(built, pins, tuple(c for c in POD if c != without))
    assert "services:" not in said
    assert program() == ""


def test_a_wanted_mode_is_the_mode(built: Path, pins: Path) -> None:
    said = start(built, pins, mode="generic")
    assert "generic mode" in said, said
    assert program() == "xdpgeneric"


def test_a_device_that_is_not_there_is_refused_and_what_is_at_work_stays(built: Path, pins: Path) -> None:
    start(built, pins)
    said = start(built, pins, devices=["eth7"])
    assert "refused: network device eth7" in said and "Name one of" in said
    assert program() == "xdp"


def test_a_place_that_is_no_bpf_file_system_is_refused_with_the_way_out(
    built: Path, pins: Path, tmp_path: Path
) -> None:
    said = start(built, tmp_path / "elsewhere")
    assert "refused:" in said and "mount -t bpf" in said
    assert program() == ""
