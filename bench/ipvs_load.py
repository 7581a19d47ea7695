"""Case `ipvs-load`: many destinations into an empty kernel, and few changes of many, by our netlink and by ipvsadm(8) in one machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.case import Bars, Case, Order
from bench.document import Measured
from bench.figures import Row
from lab import throwaway

SERVICES, WORKERS = 100, 100
"""10,000 destinations, as 100 Services on 100 worker nodes."""
QUICK_SERVICES = 10
SAMPLES = "samples.json"
_ROOT = Path(__file__).resolve().parent.parent
_BOOT_SECONDS = 60.0
_ROUND_SECONDS = 150.0


class MachineFailed(RuntimeError):
    """The command in the machine did not come to its end; the text holds what it and the kernel said."""


def measure(order: Order) -> Measured:
    """Run :mod:`bench.ipvs_load_inside` in a machine of its own.

    Raises:
        MachineFailed: it came to no end, or the kernel did not have what it was told.
    """
    services = QUICK_SERVICES if order.quick else SERVICES
    order.say(f"one machine, {services * WORKERS} destinations, {order.rounds} rounds")
    result = throwaway.run(
        [sys.executable, "-m", "bench.ipvs_load_inside", str(order.rounds), str(services), str(WORKERS)],
        order.scratch,
        modules=("ip_vs", "ip_vs_mh"),
        cwd=_ROOT,
        timeout_seconds=_BOOT_SECONDS + order.rounds * _ROUND_SECONDS,
    )
    if result.exit_code != 0:
        raise MachineFailed(f"exit {result.exit_code}\n{result.output[-3000:]}\n{result.console[-1000:]}")
    return Measured(json.loads((order.scratch / SAMPLES).read_text()), conditions={"destinations": services * WORKERS})


def _in_proportion(key: str, what: str, series: str, why_missed: str) -> Row:
    return Row(
        key,
        f"{what}; the ratio is to one in {WORKERS} of the time that loading all of them takes",
        "s",
        series,
        against="samegate_load",
        target=1.0,
        per=1 / WORKERS,
        why_missed=why_missed,
    )


_EACH_IS_A_REBUILD = (
    "`ip_vs_mh` fills its table anew at every change of a destination, and cannot be kept from it while a service is in use; a new service is "
    "filled before it gets its scheduler, and so at the cost of one."
)
CASE = Case(
    name="ipvs-load",
    title="Loading IPVS",
    question="How long do 10,000 destinations take into an empty kernel, and does a change cost in proportion to what it changes?",
    method=(
        "One User-Mode Linux machine with Debian's kernel; 100 Services on 100 workers each. Timed for samegate: the diff of what is wanted and "
        "what was read, and the batches sent until the last acknowledgement, in a process that runs already, as the agent does. Timed for "
        "ipvsadm: the whole command, `ipvsadm -R` of that very table as `ipvsadm -S` shows it. After each load and change `ipvsadm -S` must show "
        "the same table for both. Then 100 destinations, chosen by chance, are drained; by samegate alone one worker of each Service is taken out, "
        "and comes back in the middle of the order. Reading the table back, which the agent does once a second and after each change, is a row "
        "of its own because it goes with the size of the table."
    ),
    rows=(
        Row(
            "ipvs-load-10000",
            "10,000 destinations into an empty kernel, against `ipvsadm -R`",
            "s",
            "samegate_load",
            against="ipvsadm_load",
            target=0.5,
            why_missed="Most of the time is the kernel's own, which both take alike: " + _EACH_IS_A_REBUILD,
        ),
        Row("ipvs-load-10000-ipvsadm", "the same by `ipvsadm -R`", "s", "ipvsadm_load"),
        Row(
            "ipvs-change-100",
            "100 of the 10,000 drained, against `ipvsadm -R` of these changes",
            "s",
            "samegate_drain",
            against="ipvsadm_drain",
            target=0.5,
            why_missed="Most of the time is the kernel's own, which both take alike: " + _EACH_IS_A_REBUILD,
        ),
        _in_proportion(
            "ipvs-change-in-proportion", "the same 100, in proportion", "samegate_drain", why_missed=_EACH_IS_A_REBUILD
        ),
        _in_proportion(
            "ipvs-remove-in-proportion",
            "100 of the 10,000 taken out, one of each Service",
            "samegate_remove",
            why_missed=_EACH_IS_A_REBUILD,
        ),
        _in_proportion(
            "ipvs-add-in-proportion",
            "these 100 put back, in the middle of the canonical order",
            "samegate_add",
            why_missed=(
                "The kernel adds at the head of its list, and the list's order is part of what all edge nodes must agree on (ADR 5): every "
                "destination before the new one moves, here 50 in each Service."
            ),
        ),
        Row("ipvs-read-10000", "reading 10,000 destinations back", "s", "samegate_read"),
    ),
    plots=(
        Bars(
            "ipvs-load.svg",
            "10,000 destinations into an empty kernel",
            "seconds",
            {"samegate": "samegate_load", "ipvsadm -R": "ipvsadm_load"},
        ),
        Bars(
            "ipvs-change.svg",
            "100 of 10,000 destinations changed",
            "seconds",
            {
                "drain": "samegate_drain",
                "drain, ipvsadm -R": "ipvsadm_drain",
                "remove": "samegate_remove",
                "add": "samegate_add",
                "(read all back)": "samegate_read",
            },
        ),
    ),
    measure=measure,
    minutes=3,
)
