"""Tests marked ``root`` in this folder run in a User-Mode Linux machine: one boot for all of them, and each is reported by itself.

Outside the machine such a test is only a stand-in that shows what its namesake inside came to. The machine takes one processor for
minutes, and most other tests wait: it runs beside those, after the lab's, whose deadlines need both processors.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab import throwaway
from lbnode.dataplane.base import EdgeDataPlane, WorkerDataPlane
from lbnode.dataplane.edge import KernelEdge
from lbnode.dataplane.libbpf import Object
from lbnode.dataplane.memory import MemoryEdge, MemoryWorker
from lbnode.dataplane.worker import KernelWorker
from tests.conformance.node import FAMILIES, POOLS, PROBE_NETWORKS, SYSCTLS, Family, new_namespace, sh
from tests.conformance.xdp import load, xdp_node_of
from tools.bpf import CLANG, OUTPUT, build

INSIDE = "SAMEGATE_IN_MACHINE"
_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
_MODULES = (
    "ip_vs",
    "ip_vs_mh",
    "ip_vs_rr",
    "ipip",
    "ip6_tunnel",
    "ip_gre",
    "veth",
    "iptable_nat",
    "iptable_filter",
    "ip6table_filter",
    "xt_CT",
    "xt_TCPMSS",
    "xt_conntrack",
    "xt_hashlimit",
    "xt_connmark",
    "xt_MASQUERADE",
    "xt_nat",
    "xt_statistic",
    "ip6table_nat",
    "ip6table_raw",
    "ip6table_mangle",
)
_REPORTS = pytest.StashKey[dict[str, dict[str, str]]]()
_MACHINE: pytest.StashKey[Machine] = pytest.StashKey()
_BOOT_SECONDS = 1800.0


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> Family:
    """What holds for one family holds for the other."""
    found: Family = request.param
    return found


@pytest.fixture(scope="session")
def xdp_program() -> Iterator[Object]:
    """The XDP program, built outside of the machine, where that takes less time."""
    if shutil.which(CLANG) is None:
        pytest.skip(f"{CLANG} is not on PATH")
    loaded, _ = load(OUTPUT / "samegate.bpf.o", None)
    with loaded:
        yield loaded


@pytest.fixture(
    params=[
        "memory",
        pytest.param("kernel", marks=pytest.mark.root),
        pytest.param("xdp", marks=pytest.mark.root),
    ]
)
def edge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EdgeDataPlane]:
    """An edge node's data plane with nothing in it: in memory, and with IPVS and with XDP in a network namespace of its own."""
    if request.param == "memory":
        yield MemoryEdge(POOLS, dict.fromkeys(SYSCTLS, "0"))
        return
    if request.param == "xdp":
        loaded = request.getfixturevalue("xdp_program")
        with new_namespace(), xdp_node_of(loaded, tmp_path / "record", "eth0") as node:
            yield node.plane
        return
    with new_namespace():
        plane = KernelEdge(POOLS, sysctls=SYSCTLS, record_directory=tmp_path / "record")
        yield plane
        plane.close()


@pytest.fixture
def kernel_edge(tmp_path: Path) -> Iterator[KernelEdge]:
    with new_namespace():
        plane = KernelEdge(POOLS, sysctls=SYSCTLS, record_directory=tmp_path / "record")
        yield plane
        plane.close()


@pytest.fixture(params=["memory", pytest.param("kernel", marks=pytest.mark.root)])
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WorkerDataPlane]:
    """A worker's data plane with nothing in it: in memory, and in a network namespace of its own."""
    if request.param == "memory":
        yield MemoryWorker(PROBE_NETWORKS, {"net.ipv4.ip_forward": "0"})
        return
    with new_namespace():
        sh("sysctl -qw net.ipv4.ip_forward=0")
        plane = KernelWorker(
            POOLS, PROBE_NETWORKS, sysctls=("net.ipv4.ip_forward",), record_directory=tmp_path / "record"
        )
        yield plane
        plane.close()


@pytest.fixture
def kernel_worker(tmp_path: Path) -> Iterator[KernelWorker]:
    with new_namespace():
        plane = KernelWorker(POOLS, PROBE_NETWORKS, record_directory=tmp_path / "record")
        yield plane
        plane.close()


class StandIn(pytest.Item):
    """Reports what the test of the same name came to inside the machine."""

    def runtest(self) -> None:
        report = self.config.stash[_REPORTS].get(self.nodeid)
        if report is None:
            pytest.fail(
                f"the machine ended before this test did\n{self.config.stash[_REPORTS]['']['text']}", pytrace=False
            )
        if report["outcome"] == "skipped":
            pytest.skip(report["text"])
        if report["outcome"] == "failed":
            pytest.fail(report["text"], pytrace=False)

    def setup(self) -> None:
        if _REPORTS not in self.config.stash:
            if lacking := _lacking():
                pytest.skip(f"{lacking} is not installed (Debian packages user-mode-linux, gcc)")
            self.config.stash[_REPORTS] = self.config.stash[_MACHINE].reports()

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name


def _lacking() -> str | None:
    return next((tool for tool in (throwaway.KERNEL, "cc") if shutil.which(tool) is None), None)


class Machine:
    """The session's machine: started with the first test outside the lab, asked for its reports by the first stand-in."""

    def __init__(self, wanted: list[str]) -> None:
        self._wanted = wanted
        self._thread = ThreadPoolExecutor(1)
        self._reports: Future[dict[str, dict[str, str]]] | None = None
        self._process: int | None = None

    def reports(self) -> dict[str, dict[str, str]]:
        self._reports = self._reports or self._thread.submit(_run_inside, self._wanted, self._started)
        return self._reports.result()

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self._reports is None and item.get_closest_marker("lab") is None and _lacking() is None:
            self._reports = self._thread.submit(_run_inside, self._wanted, self._started)

    def pytest_sessionfinish(self) -> None:
        # Ctrl-C, or -x: nobody will ask any more.
        if self._process is not None and self._reports is not None and not self._reports.done():
            os.killpg(self._process, signal.SIGKILL)
        self._thread.shutdown()

    def _started(self, process: int) -> None:
        self._process = process


def _run_inside(nodeids: list[str], started: Callable[[int], None]) -> dict[str, dict[str, str]]:
    if shutil.which(CLANG) is not None:
        build()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-m", "root", *nodeids]
    with tempfile.TemporaryDirectory(prefix="sgc-") as exchange:
        result = throwaway.run(
            command,
            Path(exchange),
            modules=_MODULES,
            environment={INSIDE: "1"},
            cwd=_ROOT,
            timeout_seconds=_BOOT_SECONDS,
            started=started,
        )
        lines = Path(exchange) / "reports.jsonl"
        found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    reports = {"": {"outcome": "failed", "text": f"{result.console[-3000:]}\n{result.output[-6000:]}"}}
    for report in found:
        # A test that passed can still fail while it is torn down.
        if reports.get(report["nodeid"], {}).get("outcome") in (None, "passed"):
            reports[report["nodeid"]] = report
    return reports


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if INSIDE in os.environ:
        return
    for position, item in enumerate(items):
        if _HERE in item.path.parents and item.get_closest_marker("root") is not None and item.parent is not None:
            stand_in: Any = StandIn.from_parent(item.parent, name=item.name)
            stand_in.own_markers = list(item.own_markers)
            stand_in.keywords.update(item.keywords)
            items[position] = stand_in
    items.sort(key=lambda item: 2 if isinstance(item, StandIn) else item.get_closest_marker("lab") is None)


def pytest_collection_finish(session: pytest.Session) -> None:
    if wanted := [i.nodeid for i in session.items if isinstance(i, StandIn)]:
        machine = session.config.stash[_MACHINE] = Machine(wanted)
        session.config.pluginmanager.register(machine)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if INSIDE not in os.environ or (report.when != "call" and report.outcome == "passed"):
        return
    text = (
        str(report.longrepr[2])
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple)
        else report.longreprtext
    )
    with (throwaway.EXCHANGE / "reports.jsonl").open("a") as file:
        file.write(json.dumps({"nodeid": report.nodeid, "outcome": report.outcome, "text": text}) + "\n")
