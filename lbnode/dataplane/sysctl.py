"""Sysctls as files, and a record of what they were before.

In a pod ``/proc/sys`` is read-only; the host's ``/proc/sys/net`` is mounted elsewhere, hence the base path. The record survives agents
and pods, and is worth nothing after a reboot, which the boot identifier tells.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from lbnode.errors import ConfigError, Retry

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PREFIX = "net."


class Sysctls:
    """The sysctls below ``net.``, in dotted form. ``base`` is where ``/proc/sys/net`` is to be found."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def path(self, name: str) -> Path:
        """Raises :class:`ConfigError` for a name outside ``net.``."""
        if not name.startswith(_PREFIX):
            raise ConfigError(f"sysctl {name}", "only those below net. are within reach", "Remove it from the settings")
        return self._base / name.removeprefix(_PREFIX).replace(".", "/")

    def read(self, names: Iterable[str]) -> dict[str, str]:
        """The values that exist, with tabs as single spaces."""
        found = {}
        for name in names:
            try:
                found[name] = " ".join(self.path(name).read_text().split())
            except FileNotFoundError:
                continue
            except OSError as error:
                raise Retry(f"cannot read sysctl {name}: {error.strerror}") from None
        return found

    def write(self, name: str, value: str) -> None:
        """Raises :class:`ConfigError` when the kernel has no such sysctl, or it is read-only here."""
        path = self.path(name)
        try:
            path.write_text(value)
        except FileNotFoundError:
            module = "ip_vs" if name.startswith("net.ipv4.vs.") else "the module that owns it"
            raise ConfigError(
                f"sysctl {name}", f"this kernel has none ({path})", f"Run `modprobe {module}` on the node"
            ) from None
        except PermissionError:
            raise ConfigError(
                f"sysctl {name}",
                f"{path} cannot be written",
                "Mount the host's /proc/sys/net writable, and run as uid 0",
            ) from None
        except OSError as error:
            if error.errno == 30:
                raise ConfigError(
                    f"sysctl {name}", f"{path} is read-only", "Mount the host's /proc/sys/net writable into the pod"
                ) from None
            raise Retry(f"cannot write {value!r} to sysctl {name}: {error.strerror}") from None


class Record:
    """What was there before us, by name, in a file that outlives agent and pod. The first value that is recorded stays."""

    def __init__(self, directory: Path | None, name: str) -> None:
        self._file = None if directory is None else directory / f"{name}.json"
        self._boot = _BOOT_ID.read_text().strip()
        self._values = self._load()

    def _load(self) -> dict[str, str]:
        if self._file is None:
            return {}
        try:
            raw = json.loads(self._file.read_text())
            return {str(k): str(v) for k, v in raw["before"].items()} if raw["boot"] == self._boot else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # A missing or damaged record only costs the way back.
            return {}

    @property
    def values(self) -> dict[str, str]:
        return dict(self._values)

    def keep(self, name: str, value: str) -> None:
        """Note ``value`` as what ``name`` was, unless something is noted already. On disk before this returns."""
        if name not in self._values:
            self.note(name, value)

    def note(self, name: str, value: str) -> None:
        """Note ``value`` in place of whatever is noted. On disk before this returns; an unchanged value is not written."""
        if self._values.get(name) == value:
            return
        self._values[name] = value
        self._write()

    def _write(self) -> None:
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_suffix(".new")
            temporary.write_text(json.dumps({"boot": self._boot, "before": self._values}, indent=1, sort_keys=True))
            temporary.replace(self._file)

    def drop(self, name: str) -> None:
        """Forget one name. On disk before this returns."""
        if self._values.pop(name, None) is not None:
            self._write()

    def forget(self) -> None:
        self._values = {}
        if self._file is not None:
            self._file.unlink(missing_ok=True)
