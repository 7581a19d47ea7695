"""The pins as values: what `pins.toml` says, checked once, for the machine's architecture."""

from __future__ import annotations

import hashlib
import platform
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Python's name of a processor -> Debian's, Go's and most vendors'.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class PinError(ValueError):
    """The pins are wrong, or do not cover this machine."""


@dataclass(frozen=True)
class Release:
    """A vendor's download; `sha256` is None where no checksum is pinned, and then it is not used."""

    url: str
    sha256: str | None
    published_checksum: str
    member: str | None = None
    """Path inside the archive; None: the download is the program itself."""


@dataclass(frozen=True)
class GoBuild:
    """A build from modules: the folder with go.mod and go.sum, and the package or the module's file to take."""

    folder: Path
    package: str
    version_variables: tuple[str, ...] = ()
    """`IMPORT/PATH.Variable=VALUE`, set by the linker."""
    file: tuple[str, str] | None = None
    """A module, and the path in it of a file to copy out instead of a build."""


@dataclass(frozen=True)
class Tool:
    """One program. `ask` and `answer` are the arguments and the line by which it tells its version."""

    name: str
    source: str
    """Whose it is: tools of one source share a version and a folder."""
    version: str
    release: Release
    go: GoBuild | None
    ask: tuple[str, ...] = ()
    answer: str = ""
    beside: str | None = None
    """The tool it comes with: only taken from PATH where that one was."""
    stand_in: Path | None = None
    """Our own program, used where neither PATH nor a release has it."""
    digest: str = field(default="", compare=False)
    """Changes when anything that decides the program's content changes."""

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Pins:
    """Everything that is pinned, for one architecture."""

    arch: str
    go_version: str
    go_toolchain_h1: str
    uv_version: str
    uv_sha256: tuple[str, ...]
    tools: dict[str, Tool]
    debian_packages: dict[str, str]
    idle_units: tuple[str, ...]


def architecture(machine: str | None = None) -> str:
    """Debian's name of this machine's processor; PinError when nothing is pinned for it."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        raise PinError(
            f"processor {machine!r}: the pinned tools exist for {', '.join(ARCHITECTURES)}; use such a machine"
        )
    return ARCHITECTURES[machine]


def module_digest(folder: Path, version: str, package: str) -> str:
    """A digest of what a build from `folder` is made of."""
    content = hashlib.sha256(f"{version} {package}".encode())
    for path in sorted(folder.glob("*")):
        if path.name in {"go.mod", "go.sum"} or path.suffix == ".go":
            content.update(path.name.encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:16]


def _tool(name: str, raw: dict[str, Any], source: dict[str, Any], arch: str) -> Tool:
    version = str(source["version"])
    words = {
        "tool": name,
        "version": version,
        "arch": arch,
        "vendor_arch": source.get("vendor_arch", {}).get(arch, arch),
    }
    folder = HERE / "go" / source["go_module"]
    package = source["go_package"].format(**words)
    go_file = raw.get("go_file")
    variables = tuple(each.format(**words) for each in source.get("version_variables", ()))
    built = not raw.get("stand_in")
    sha256 = source.get("sha256", {}).get(arch)
    if isinstance(sha256, dict):  # one download per tool, not one for all of a source
        sha256 = sha256.get(name)
    digest = module_digest(folder, version, f"{package} {variables} {go_file} {sha256}")
    if raw.get("stand_in"):
        digest = hashlib.sha256((HERE / raw["stand_in"]).read_bytes()).hexdigest()[:16]
    return Tool(
        name=name,
        source=source["name"],
        version=version,
        release=Release(
            url=source["release"].format(**words),
            sha256=sha256,
            published_checksum=source["published_checksum"].format(**words),
            member=raw["member"].format(**words) if "member" in raw else None,
        ),
        go=GoBuild(folder, package, variables, tuple(go_file) if go_file else None) if built else None,
        ask=tuple(raw.get("ask", ())),
        answer=raw.get("answer", "").format(**words),
        beside=raw.get("beside"),
        stand_in=HERE / raw["stand_in"] if raw.get("stand_in") else None,
        digest=digest,
    )


def parse(text: str, arch: str) -> Pins:
    """The pins of `text` (TOML, see pins.toml); PinError for what is missing or of the wrong shape."""
    try:
        raw = tomllib.loads(text)
        tools = {
            name: _tool(name, tool, source, arch) for source in raw["source"] for name, tool in source["tools"].items()
        }
        return Pins(
            arch=arch,
            go_version=raw["go"]["version"],
            go_toolchain_h1=raw["go"]["toolchain_h1"][arch],
            uv_version=raw["uv"]["version"],
            uv_sha256=tuple(raw["uv"]["sha256"]),
            tools=tools,
            debian_packages=dict(raw["debian"]["packages"]),
            idle_units=tuple(raw["debian"]["idle_units"]),
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise PinError(
            f"tools/pins.toml: {type(error).__name__} {error}: compare with the comments in the file"
        ) from error


@cache
def load() -> Pins:
    """The committed pins for this machine."""
    return parse((HERE / "pins.toml").read_text(), architecture())
