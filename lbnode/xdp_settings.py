"""Settings of the XDP data plane, and the memory that they ask for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from lbnode.schema import Strict, Whole, first_duplicate

#: At most IFNAMSIZ - 1 characters, none of them a slash or a blank (dev_valid_name() of the kernel).
DeviceName = Annotated[str, Field(pattern=r"^[^/\s:]{1,15}$")]
#: Bytes of the records of lbnode/bpf/record.h that there are many of: a slot of a ring, a VIP, what one processor dropped of it, a destination, what one
#: processor counts for it, a flow.
_RING_BYTES, _VIP_BYTES, _DROPS_BYTES, _DESTINATION_BYTES, _TRAFFIC_BYTES, _FLOW_BYTES = 4 * 65_537, 56, 56, 64, 64, 16
#: The ring of frames that a capture is read from.
_CAPTURE_BYTES = 1 << 18


class Xdp(Strict):
    """The XDP data plane, which alone reads this: ``devices`` are those of edge nodes by which packets for VIPs come in; a bond is named itself,
    not its members.

    ``mode`` is ``auto`` (in the driver where it can), ``native`` (there or not at all) or ``generic``. ``flows_per_processor`` is how many flows each
    processor of an edge node remembers, a power of two, 16 bytes each; ``services`` (address, protocol and port) take 256 KiB each while they
    are there, ``destinations`` are workers of services. ``answer_echo`` has edge nodes answer pings to VIPs. The pod's memory limit is reckoned for
    ``most_processors``.
    """

    devices: tuple[DeviceName, ...] = ()
    mode: Literal["auto", "native", "generic"] = "auto"
    flows_per_processor: Whole = Field(default=1 << 18, ge=1 << 10, le=1 << 26)
    services: Whole = Field(default=1023, ge=1, le=16_383)
    destinations: Whole = Field(default=8191, ge=1, le=1_048_575)
    answer_echo: bool = True
    most_processors: Whole = Field(default=64, ge=1, le=8192)

    @field_validator("flows_per_processor")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(
                f"{value} is no power of two, by which flows are spread. Set it to {1 << value.bit_length()}"
            )
        return value

    @field_validator("devices")
    @classmethod
    def _distinct(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if (twice := first_duplicate(values)) is not None:
            raise ValueError(f"device {twice} is named twice: a device has room for one program. Remove one")
        return values

    @property
    def vip_places(self) -> int:
        """Places of the table of VIPs, a power of two. Each service has an entry and its address another one, and half of the places stay free,
        without which cuckoo hashing in two places fails (Pagh and Rodler, 2004).
        """
        return 1 << (4 * self.services - 1).bit_length()

    def memory_bytes(self, processors: int) -> int:
        """What the kernel's maps take on an edge node with so many processors when all of it is in use, but for the networks of source ranges."""
        return (
            # For a moment there are two tables of VIPs.
            2 * self.vip_places * _VIP_BYTES
            + self.services * _RING_BYTES
            + (self.services + 1) * processors * _DROPS_BYTES
            + (self.destinations + 1) * (_DESTINATION_BYTES + processors * _TRAFFIC_BYTES)
            + processors * self.flows_per_processor * _FLOW_BYTES
            + _CAPTURE_BYTES
        )
