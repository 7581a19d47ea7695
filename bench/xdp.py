"""``make bench-xdp``: what the XDP program costs per packet, as a ratio to the floor of encapsulation measured in the same minutes.

No network card and no driver: the frame is always in the cache, so these are lower bounds on one processor. Writes ``.bench/xdp.json``.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from bench.xdp_rig import BY_HASH, DNS, WEB, WEB6, Bench, bench, frame, network
from lbnode.model import Protocol, VirtualKey
from tools.bpf import HARNESS, build

OUTPUT = Path(__file__).resolve().parent.parent / ".bench" / "xdp.json"
RUNS = 10
REPEATS = 1 << 20
#: Sets of four overflow: with a million flows in a million sets 0.4 % of the flows find no place (Poisson distribution).
HIT_SHARE = 0.98
PASS, TX = 2, 3  # enum xdp_action of linux/bpf.h
#: ``struct harness`` of xdp_harness.bpf.c.
_HARNESS = struct.Struct("IIII8Q16s")
_SYN, _ACK = 0x02, 0x10


@dataclass(frozen=True, slots=True)
class Case:
    """One row: a frame, how many flows it stands for (a power of two), the verdict of each, and the largest ratio to the floor that is aimed at."""

    key: VirtualKey
    target: float
    flows: int = 1
    flags: int = _ACK
    verdict: int = TX
    known: bool = True


CASES = {
    "TCP, table hit, 1 flow": Case(WEB, 1.8),
    "TCP, stateless VIP": Case(BY_HASH, 1.8),
    "not a VIP": Case(VirtualKey(ip_address("203.0.113.9"), Protocol.TCP, 80), 1.0, verdict=PASS),
    "TCP, table hit, 131k flows": Case(WEB, 3.5, flows=1 << 17),
    "TCP, table hit, 1M flows": Case(WEB, 4.0, flows=1 << 20),
    "UDP, table hit, 1 flow": Case(DNS, 2.0),
    "IPv6, table hit, 1 flow": Case(WEB6, 2.2),
    "SYN flood, 1M flows": Case(WEB, 2.2, flows=1 << 20, flags=_SYN),
    "new flow, table insert": Case(WEB, 4.0, flows=1 << 20, known=False),
}


class WrongPath(RuntimeError):
    """What was measured is not what the row says."""


def measured(rig: Bench, device: int, program: str, case: Case) -> int:
    """Nanoseconds a packet, the kernel's own mean of :data:`REPEATS`. Raises WrongPath when a verdict was another one."""
    packet = frame(case.key, flags=case.flags)
    version = case.key.address.version
    grown = 40 if version == 6 and program == "measure_balance" else 20
    state = rig.object.map("harness")
    state[0] = _HARNESS.pack(case.flows - 1, 1, grown, version, *[0] * 8, packet[:14])
    run = rig.object.run(program, packet, device=device, repeat=REPEATS)
    verdicts = _HARNESS.unpack(state[0])[4:12]
    expected = {"measure_floor": TX, "measure_nothing": PASS}.get(program, case.verdict)
    if verdicts[expected] != REPEATS:
        raise WrongPath(f"{program} for {case.key}: verdicts {verdicts}, expected {REPEATS} of {expected}")
    return run.nanoseconds


def check_destination(rig: Bench, device: int, key: VirtualKey) -> None:
    """One packet on its own has to leave in a tunnel to a worker."""
    packet = frame(key)
    run = rig.object.run("samegate", packet, device=device)
    version = key.address.version
    worker = ip_address(run.packet[30:34] if version == 4 else run.packet[38:54])
    if run.verdict != TX or worker not in rig.workers[version]:
        raise WrongPath(f"{key}: verdict {run.verdict}, to {worker}")


def once(rig: Bench, device: int, name: str) -> int:
    """One run of one row, with the table that it speaks of."""
    case = CASES[name]
    if not case.known:
        rig.forget_flows()
    elif case.flows > 1 and case.flags == _ACK:
        measured(rig, device, "measure_balance", case)  # flows become known, whatever the row before did
    before = rig.table_hits()
    nanoseconds = measured(rig, device, "measure_balance", case)
    share = (rig.table_hits() - before) / REPEATS
    if ("table hit" in name and share < HIT_SHARE) or ("table hit" not in name and share > 0):
        raise WrongPath(f"{name}: {share:.1%} of the packets found their flow in a table")
    return nanoseconds


def summary(runs: Sequence[int], floor: Sequence[int], target: float) -> dict[str, float | bool]:
    """Nanoseconds, and the ratio of the minima."""
    ratio = round(min(runs) / min(floor), 2)
    return {
        "min": min(runs),
        "median": statistics.median(runs),
        "max": max(runs),
        "ratio": ratio,
        "target": target,
        "met": ratio <= target,
    }


def conditions(instructions: str) -> dict[str, object]:
    """What the figures hold for."""
    model = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "kernel": platform.release(),
        "processor": model[0] if model else platform.machine(),
        "processors": os.cpu_count(),
        "compiler": instructions,
        "runs": RUNS,
        "packets_a_run": REPEATS,
        "unit": "ns a packet, harness included",
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main() -> None:
    """Run all rows alternately with the floor, show them and write them."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    built = build(HARNESS)
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    found: dict[str, list[int]] = {name: [] for name in ("nothing", "floor", *CASES)}
    with network() as device, bench(built) as rig:
        for key in (WEB, DNS, BY_HASH, WEB6):
            check_destination(rig, device, key)
        for _ in range(runs):
            found["nothing"].append(measured(rig, device, "measure_nothing", CASES["TCP, table hit, 1 flow"]))
            for name in CASES:
                found["floor"].append(measured(rig, device, "measure_floor", CASES["TCP, table hit, 1 flow"]))
                found[name].append(once(rig, device, name))
    compiler = subprocess.run(
        ["clang-19", "--version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]
    cases = {name: summary(found[name], found["floor"], case.target) for name, case in CASES.items()}
    floors = {
        name: {"min": min(found[name]), "median": statistics.median(found[name])} for name in ("nothing", "floor")
    }
    OUTPUT.parent.mkdir(exist_ok=True)
    text = json.dumps({"conditions": conditions(compiler) | {"runs": runs} | floors, "cases": cases}, indent=1)
    OUTPUT.write_text(text + "\n")
    print(f"{'floor':34} min {floors['floor']['min']:5} median {floors['floor']['median']:7}")
    for name, row in cases.items():
        print(
            f"{name:34} min {row['min']:5} median {row['median']:7} ratio {row['ratio']:5} target {row['target']:4}"
            f" {'met' if row['met'] else 'missed'}"
        )


if __name__ == "__main__":
    main()
