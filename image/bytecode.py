"""Byte code for a layer's modules, compiled by the image's own Python.

The building machine's Python would leave its traces: byte code differs between patch releases, and within one release
by what the compiling process happened to have loaded (marshal marks an object as shared by its reference count,
https://github.com/python/cpython/issues/78274). So a fresh process of the image's interpreter does it, whose version is
in the bill of materials.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from image.process import run
from image.recipe import LIBRARIES, PYTHON


def compile_modules(base: Path, tree: Path, folder: str) -> None:
    """Write byte code beside every module below `tree/folder`, with the interpreter of the unpacked Debian layer `base`.

    The root is read-only at run time and the nodes' processors may be slow. Unchecked (PEP 552), because the layers'
    time stamps say nothing and nobody edits a module in the image.

    Raises:
        BuildError: the interpreter ended with an error, such as that of a module which does not parse.
    """
    for stale in (tree / folder).rglob("__pycache__"):
        shutil.rmtree(stale)
    # Through the image's own loader: no chroot, hence no root, and none of this machine's libraries.
    libraries = base / LIBRARIES
    interpreter = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
    interpreter += [str(base / f"usr/bin/python{PYTHON[0]}.{PYTHON[1]}"), "-B", "-S", "-s", "-P"]
    # -B keeps the interpreter from caching, with time stamps, what it loads itself; compileall writes all the same.
    compileall = ["-m", "compileall", "-q", "-f", "-r", "20", "--invalidation-mode", "unchecked-hash"]
    run(
        *interpreter,
        *compileall,
        *("-s", str(tree), "-p", "/", str(tree / folder)),
        environment={"PYTHONHOME": str(base / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
    )
