"""Every benchmark, small and quick: it comes to its end, and every row of it has something to be made of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tools
from bench import document, sandbox
from bench.cases import CASES
from bench.figures import figures
from tests.root.speaker_rig import FRR, missing_namespaces

pytestmark = [pytest.mark.root, pytest.mark.slow]

NEEDS = {
    "edge-cpu": ("linux.uml", "cc", "nginx", "ab"),
    "ipvs-load": ("linux.uml", "cc", "ipvsadm"),
    "scale-out": ("linux.uml", "cc", "nginx", "ab", "tc"),
    "many-edges": ("bird", "vtysh", str(FRR / "bgpd")),
    "endpoint-churn": ("openssl",),
}


def lacking(case: str) -> str:
    """Why this machine cannot run it; empty when it can."""
    if reason := missing_namespaces():
        return reason
    if case == "endpoint-churn":
        try:
            tools.locate("kube-apiserver")
        except tools.ToolMissing as error:
            return str(error)
    return next((f"{program} is not installed" for program in NEEDS[case] if shutil.which(program) is None), "")


@pytest.mark.parametrize("name", CASES)
def test_a_quick_run_measures_every_row(name: str, tmp_path: Path) -> None:
    if reason := lacking(name):
        pytest.skip(reason)
    file = tmp_path / "samples.json"
    sandbox.run("bench.inside", [name, "2", "quick", str(file)])
    measured = document.read(file)
    for row in CASES[name].rows:
        found = figures(row, measured.samples)
        assert found.min <= found.median <= found.max
