"""The XDP balancer as the settings want it: sizes, and the program loaded and put at its devices."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import structlog

from lbnode.dataplane.xdp import XdpBalancer
from lbnode.dataplane.xdp_program import Attached, Attachment, Mode, Sizes, kernel_hertz, load_program
from lbnode.dataplane.xdp_records import FLOWS_PER_SET, limits
from lbnode.dataplane.xdp_state import XdpState
from lbnode.model import IPNetwork
from lbnode.settings import AgentSettings
from lbnode.xdp_settings import Xdp

#: Where the image has the program, beside its sources.
PROGRAM_FILE = Path(__file__).resolve().parent.parent / "bpf" / "samegate.bpf.o"

log = structlog.get_logger()


def sizes_of(settings: Xdp) -> Sizes:
    """The maps' sizes."""
    return Sizes(
        vip_places=settings.vip_places,
        services=settings.services,
        destinations=settings.destinations,
        flow_sets=settings.flows_per_processor // FLOWS_PER_SET,
    )


def xdp_balancer(
    pools: Iterable[IPNetwork], settings: AgentSettings, pins: Path, program: Path = PROGRAM_FILE
) -> XdpBalancer:
    """The program loaded, at work at its devices, and what it serves. Says in the log how each device has it.

    Raises:
        ConfigError: no BPF file system, no program, a kernel or device that does not take it; a program of ours that is at work stays so.
    """
    xdp, hertz = settings.xdp, kernel_hertz()
    sizes = sizes_of(xdp)
    constants = limits(
        sizes.vip_places, sizes.flow_sets, settings.network.fabric_mtu_bytes, hertz, echo=xdp.answer_echo
    )
    loaded, folder = load_program(program, sizes, constants, pins)
    attachment = Attachment(pins, folder)
    state = XdpState(loaded, sizes, hertz, folder)
    attachment.attach(loaded, xdp.devices, None if xdp.mode == "auto" else Mode(xdp.mode))
    for attached in attachment.devices:
        log.info("xdp.attached", device=attached.device, mode=attached.mode.value, text=how(attached))
    return XdpBalancer(pools, state, attachment)


def how(attached: Attached) -> str:
    """In which mode a device has the program, and why, for people."""
    if attached.mode is Mode.NATIVE:
        return f"{attached.device} has the XDP program in native mode: its driver takes it"
    why = (
        f"its driver does not take it ({attached.reason})" if attached.reason else "as it had it before, or was told to"
    )
    return f"{attached.device} has the XDP program in generic mode, which costs more for each packet: {why}"
