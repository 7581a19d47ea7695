"""Stacks on the real engine with stand-in providers: a folder, a state and a PULUMI_HOME of their own, thrown away after.

`pulumi preview` of the project itself never meets the stand-ins: they are installed into the throw-away home only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import tools
from tests.providers.standin import cloud, sdk
from tools.pulumi_engine import plugin_folder, provider_version

ROOT = Path(__file__).resolve().parents[2]
WORLD = "SAMEGATE_SIMULATED_WORLD"
PACKAGES = ("aws", "gcp")
TIMEOUT_SECONDS = 600
SIMULATED_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "simulated",
    "AWS_SECRET_ACCESS_KEY": "simulated",
    "GOOGLE_APPLICATION_CREDENTIALS": str(Path(__file__).with_name("google_user.json")),
}


@dataclass(frozen=True)
class Done:
    """What one run of the engine did."""

    returncode: int
    said: str
    seconds: float
    steps: tuple[tuple[str, str], ...] = ()
    """(operation, name) of every resource that was not left as it was, in order; of a refresh, ``changes`` tells."""
    changes: Mapping[str, int] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        return sum(n for operation, n in self.changes.items() if operation not in ("same", "read"))


@dataclass
class Stack:
    """One stack of a program. ``configuration`` is its `config`, keys with their prefix."""

    folder: Path
    program: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def world_file(self) -> Path:
        return self.folder / "world.json"

    @property
    def world(self) -> cloud.World:
        return cloud.read(self.world_file)

    def prepare(self) -> Stack:
        """Install the stand-ins, and make the stack. Raises RuntimeError with what the engine said."""
        self.folder.mkdir(parents=True, exist_ok=True)
        home = self.folder / "pulumi-home"
        for package in PACKAGES:
            _install(home, package)
        # The real one, which needs no account: as the project itself has it.
        shared = plugin_folder(tools.cache_folder() / "pulumi", provider_version())
        target = plugin_folder(home, provider_version())
        if shared.exists() and not target.exists():
            # The engine passes over a folder that is a link.
            target.mkdir(parents=True)
            for file in shared.iterdir():
                (target / file.name).symlink_to(file)
        project = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())
        del project["stackConfigDir"]
        project["main"] = os.path.relpath(self.program, self.folder)
        project["runtime"]["options"]["virtualenv"] = os.path.relpath(ROOT / ".venv", self.folder)
        (self.folder / "Pulumi.yaml").write_text(yaml.safe_dump(project))
        done = self.pulumi("stack", "select", "--create", "test", "--secrets-provider", "passphrase")
        if done.returncode != 0:
            raise RuntimeError(done.said)
        return self

    def configure(self, configuration: Mapping[str, Any]) -> None:
        """Replace the stack's configuration, keeping its salt."""
        path = self.folder / "Pulumi.test.yaml"
        former = yaml.safe_load(path.read_text()) if path.exists() else {}
        path.write_text(yaml.safe_dump({**(former or {}), "config": dict(configuration)}))

    def preview(self, *arguments: str) -> Done:
        return self._engine("preview", *arguments)

    def up(self, *arguments: str) -> Done:
        return self._engine("up", "--yes", "--skip-preview", *arguments)

    def refresh(self, *arguments: str) -> Done:
        return self._engine("refresh", "--yes", "--skip-preview", *arguments)

    def destroy(self) -> Done:
        return self._engine("destroy", "--yes", "--skip-preview")

    def outputs(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.pulumi("stack", "output", "--json", "--stack", "test").said)
        return parsed

    def resources(self) -> list[dict[str, Any]]:
        """What the engine has in its state."""
        exported = json.loads(self.pulumi("stack", "export", "--stack", "test").said)
        found: list[dict[str, Any]] = exported["deployment"].get("resources") or []
        return found

    def recorded(self, package: str) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
        """(type, name) of each resource of the package that the state has, and of each that it has only as begun. Also while the engine runs."""
        checkpoints = list((self.folder / ".pulumi/stacks").glob("*/test.json"))
        latest = json.loads(checkpoints[0].read_text())["checkpoint"]["latest"] if checkpoints else {}
        begun = [operation["resource"] for operation in latest.get("pending_operations") or ()]
        made, pending = (
            {(r["type"], r["urn"].split("::")[-1]) for r in found if r["type"].startswith(f"{package}:")}
            for found in (latest.get("resources") or (), begun)
        )
        return made, pending

    def full_environment(self) -> dict[str, str]:
        path = os.environ.get("PATH", os.defpath)
        environment = tools.pulumi_environment(ROOT, {**os.environ, "PATH": path})
        environment.pop("PULUMI_CONFIG_PASSPHRASE_FILE", None)
        return environment | {
            "PULUMI_HOME": str(self.folder / "pulumi-home"),
            "PULUMI_BACKEND_URL": f"file://{self.folder}",
            "PULUMI_CONFIG_PASSPHRASE": "simulated",
            "PULUMI_DEBUG_COMMANDS": "true",
            "PYTHONPATH": str(ROOT),
            WORLD: str(self.world_file),
            **SIMULATED_CREDENTIALS,
            **self.environment,
        }

    def killed_up(self, when: Callable[[], bool]) -> None:
        """Kill the engine in the middle of an `up`, without a warning. AssertionError when the update ends before it is time, or it never is."""
        running = subprocess.Popen(
            self._command("up", "--yes", "--skip-preview", "--stack", "test"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self.full_environment(),
        )
        deadline = time.monotonic() + TIMEOUT_SECONDS
        try:
            while not when():
                assert running.poll() is None, running.communicate()[0]
                assert time.monotonic() < deadline, "the update does not come to the moment at which to kill it"
                time.sleep(0.2)
        finally:
            running.kill()
            running.communicate()

    def _command(self, *arguments: str) -> list[str]:
        return [str(tools.locate("pulumi")), *arguments, "--non-interactive", "--color", "never"]

    def pulumi(self, *arguments: str) -> Done:
        started = time.monotonic()
        done = subprocess.run(
            self._command(*arguments),
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.full_environment(),
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        said = (
            done.stdout
            if (done.returncode == 0 and "--json" in arguments) or arguments[:2] == ("stack", "export")
            else (done.stdout + done.stderr)
        )
        return Done(done.returncode, said, time.monotonic() - started)

    def _engine(self, command: str, *arguments: str) -> Done:
        events = self.folder / "events.json"
        events.unlink(missing_ok=True)
        done = self.pulumi(command, "--stack", "test", "--event-log", str(events), *arguments)
        lines = [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []
        steps = [
            (
                str(e["resourcePreEvent"]["metadata"]["op"]),
                str(e["resourcePreEvent"]["metadata"]["urn"]).split("::")[-1],
            )
            for e in lines
            if "resourcePreEvent" in e
        ]
        summary = next((e["summaryEvent"]["resourceChanges"] for e in reversed(lines) if "summaryEvent" in e), {})
        return Done(
            done.returncode,
            f"{cloud.HEADING}\n{done.said}",
            done.seconds,
            tuple(s for s in steps if s[0] not in ("same", "read", "refresh")),
            summary,
        )


def _install(home: Path, package: str) -> None:
    """Put the stand-in where the engine looks for the plugin of exactly the SDK's version."""
    version = sdk.sdk_version(package)
    folder = home / "plugins" / f"resource-{package}-v{version}"
    if folder.exists():
        return
    folder.mkdir(parents=True)
    executable = folder / f"pulumi-resource-{package}"
    executable.write_text(
        f"#!{sys.executable}\n"
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"from tests.providers.standin.__main__ import main\nmain({package!r})\n"
    )
    executable.chmod(0o755)


def throw_away(stack: Stack) -> None:
    """Remove everything of the stack."""
    shutil.rmtree(stack.folder, ignore_errors=True)
