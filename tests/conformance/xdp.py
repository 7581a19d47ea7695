"""An edge node's data plane in XDP for the suite, with small maps, in a network namespace and a BPF file system of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lbnode.dataplane.edge import KernelEdge
from lbnode.dataplane.libbpf import Object
from lbnode.dataplane.xdp import XdpBalancer
from lbnode.dataplane.xdp_program import Attached, Attachment, Mode, Sizes, kernel_hertz, load_program
from lbnode.dataplane.xdp_records import limits
from lbnode.dataplane.xdp_state import XdpState
from tests.conformance.node import POOLS, SYSCTLS, sh

SIZES = Sizes(vip_places=256, services=31, destinations=255, flow_sets=256)
MTU_BYTES = 1500


@contextmanager
def bpf_file_system(folder: Path) -> Iterator[Path]:
    """A BPF file system in ``folder``, gone afterwards with all that is pinned there."""
    folder.mkdir()
    sh(f"mount -t bpf bpf {folder}")
    try:
        yield folder
    finally:
        sh(f"umount {folder}")


@dataclass(frozen=True, slots=True)
class XdpNode:
    """The plane, and the program under it."""

    plane: KernelEdge
    loaded: Object
    state: XdpState
    attached: tuple[Attached, ...]


def load(built: Path, pins: Path | None, sizes: Sizes = SIZES) -> tuple[Object, Path | None]:
    constants = limits(sizes.vip_places, sizes.flow_sets, MTU_BYTES, kernel_hertz())
    return load_program(built, sizes, constants, pins)


@contextmanager
def xdp_node(
    built: Path,
    records: Path,
    pins: Path | None,
    *,
    devices: tuple[str, ...] = (),
    sizes: Sizes = SIZES,
    mode: Mode | None = None,
) -> Iterator[XdpNode]:
    """An agent's life: what it leaves is what is pinned."""
    loaded, folder = load(built, pins, sizes)
    with loaded, _working(loaded, folder, records, pins, devices, sizes, mode) as node:
        yield node


@contextmanager
def xdp_node_of(loaded: Object, records: Path, device: str) -> Iterator[XdpNode]:
    """A fresh node with a program that was loaded once for many of them: verifying it takes a machine without compiler for BPF seconds."""
    with _working(loaded, None, records, None, (device,), SIZES, None) as node:
        node.state.write(node.state.read(), {}, {}, frozenset())
        yield node
        node.state.write(node.state.read(), {}, {}, frozenset())


@contextmanager
def _working(
    loaded: Object,
    folder: Path | None,
    records: Path,
    pins: Path | None,
    devices: tuple[str, ...],
    sizes: Sizes,
    mode: Mode | None,
) -> Iterator[XdpNode]:
    with ExitStack() as stack:
        attachment = Attachment(pins, folder)
        stack.callback(attachment.close)
        attachment.attach(loaded, devices, mode)
        state = XdpState(loaded, sizes, kernel_hertz(), folder)
        plane = KernelEdge(
            POOLS,
            sysctls=SYSCTLS,
            record_directory=records,
            balancer=XdpBalancer(POOLS, state, attachment),
            fabric_mtu_bytes=MTU_BYTES,
        )
        stack.callback(plane.close)
        yield XdpNode(plane, loaded, state, attachment.devices)
