"""Load kernel modules inside the test machine, whose root file system may have neither ``kmod`` nor ``/lib/modules``."""

from __future__ import annotations

import ctypes
import fnmatch
import os
import sys
from pathlib import Path

_SYS_FINIT_MODULE = 313  # arch/x86/entry/syscalls/syscall_64.tbl
_EEXIST = 17


def _names(folder: Path, wanted: str) -> list[str]:
    wanted = wanted.replace("-", "_")
    found = []
    for line in (folder / "modules.alias").read_text().splitlines():
        if line.startswith("alias "):
            _, pattern, module = line.split()
            if fnmatch.fnmatchcase(wanted, pattern.replace("-", "_")):
                found.append(module)
    return found or [wanted]


def _load(folder: Path, relative: str) -> None:
    descriptor = os.open(folder / relative, os.O_RDONLY | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_FINIT_MODULE, descriptor, b"", 0) != 0 and ctypes.get_errno() != _EEXIST:
        print(f"{relative}: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
    os.close(descriptor)


def main(folder: Path, names: list[str]) -> None:
    """Load each name, or what it is an alias of, after its dependencies."""
    by_name: dict[str, tuple[str, list[str]]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        module, _, needs = line.partition(":")
        by_name[Path(module).stem.replace("-", "_")] = (module, needs.split())
    loaded = {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}
    for wanted in names:
        for name in _names(folder, wanted):
            path, dependencies = by_name.get(name.replace("-", "_"), ("", []))
            for relative in (*reversed(dependencies), *([path] if path else [])):
                if Path(relative).stem.replace("-", "_") not in loaded:
                    _load(folder, relative)


if __name__ == "__main__":
    main(next(Path(sys.argv[1]).glob(os.uname().release)), [a for a in sys.argv[2:] if not a.startswith("-")])
