"""Object files of the XDP program, built by clang. The same sources and compiler give the same bytes, wherever the checkout lies."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "lbnode" / "bpf"
PROGRAM = SOURCES / "samegate.bpf.c"
HARNESS = ROOT / "bench" / "xdp_harness.bpf.c"
OUTPUT = ROOT / ".lab" / "bpf"
CLANG = "clang-19"


class BpfBuildError(RuntimeError):
    """The compiler is missing or refused the sources; the text says which."""


def build(source: Path = PROGRAM, output: Path = OUTPUT) -> Path:
    """Compile ``source`` into the folder ``output``; the object file.

    Instruction set v3 (Linux 5.1). Raises BpfBuildError.
    """
    target = output / source.name.replace(".bpf.c", ".bpf.o")
    output.mkdir(parents=True, exist_ok=True)
    if shutil.which(CLANG) is None:
        raise BpfBuildError(f"{CLANG} is not on PATH: install Debian's package clang-19 (`make tools`)")
    # Debian keeps headers of the machine's architecture apart, and clang does not look there for another target.
    headers = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=False).stdout.strip()
    command = [CLANG, "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    command += ["-I", str(SOURCES), "-isystem", f"/usr/include/{headers}", f"-ffile-prefix-map={ROOT}=."]
    command += ["-fdebug-compilation-dir=.", "-c", str(source.relative_to(ROOT)), "-o", str(target)]
    _run(command)
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BpfBuildError(f"{command[0]} failed:\n{done.stderr[-3000:]}")
