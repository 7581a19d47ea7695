"""What an agent keeps in the node's BPF file system: maps, and links of its program to devices. Removing files takes no privilege of BPF."""

from __future__ import annotations

from pathlib import Path

#: Below the kernel's own mount point for BPF file systems; what is pinned there outlives pods.
BPF_DIRECTORY = Path("/sys/fs/bpf/samegate")


def remove_pin(entry: Path) -> None:
    """Remove one entry, a folder with what is in it. A program leaves its device with the last that holds its link."""
    if entry.is_dir():
        for pinned in entry.iterdir():
            pinned.unlink()
        entry.rmdir()
    else:
        entry.unlink()


def remove_pins(pins: Path) -> None:
    """Remove all of it; that it is not there is fine."""
    if pins.is_dir():
        for entry in pins.iterdir():
            remove_pin(entry)
        pins.rmdir()
