"""The Pulumi engine's surroundings: its environment for runs without Pulumi's cloud, and its Kubernetes plugin."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.cache import Cache, location
from tools.pins import Pins, load
from tools.progress import Progress

CHECKOUT = Path(__file__).absolute().parent.parent
PROVIDER = "pulumi-resource-kubernetes"
PASSPHRASE = "PULUMI_CONFIG_PASSPHRASE"  # noqa: S105 - a variable's name
PASSPHRASE_FILE = "PULUMI_CONFIG_PASSPHRASE_FILE"  # noqa: S105 - a variable's name


class PluginError(RuntimeError):
    """The engine refused its plugin; the text is what it said."""


def pulumi_environment(
    root: Path, base: Mapping[str, str] = os.environ, *, state: Path | None = None
) -> dict[str, str]:
    """The whole environment for `pulumi`: its state in pulumi-state below `state` (`root`/.lab), nothing of Pulumi's cloud.

    The passphrase is the caller's, if the environment has one, else generated once into pulumi-passphrase beside it (mode
    0600). Creates the folders it names.
    """
    cache = location(base)
    folder = state or root / ".lab"
    state = folder / "pulumi-state"
    state.mkdir(parents=True, exist_ok=True)
    home = cache / "pulumi"
    home.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in base.items() if name != "PULUMI_ACCESS_TOKEN"}
    environment |= {
        "PATH": f"{cache / 'bin' / 'current'}:{base.get('PATH', os.defpath)}",
        "SAMEGATE_CHECKOUT": str(CHECKOUT),
        "PULUMI_HOME": str(home),
        "PULUMI_BACKEND_URL": f"file://{state.absolute()}",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_IGNORE_AMBIENT_PLUGINS": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "PULUMI_CREDENTIAL_STORE": "plaintext",
        "PULUMI_DISABLE_REGISTRY_RESOLVE": "true",
    }
    if not base.get(PASSPHRASE) and not base.get(PASSPHRASE_FILE):
        environment.pop(PASSPHRASE, None)
        environment[PASSPHRASE_FILE] = str(passphrase_file(folder))
    return environment


def passphrase_file(folder: Path) -> Path:
    """The file in `folder` with a passphrase of its own, readable by its owner only; made when missing."""
    path = (folder / "pulumi-passphrase").absolute()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(secrets.token_urlsafe(24) + "\n")
        try:
            os.link(partial, path)  # unlike a rename, never over one that another run has used already
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    return path


def plugin_folder(home: Path, version: str) -> Path:
    """Where the engine keeps the Kubernetes plugin."""
    return home / "plugins" / f"resource-kubernetes-v{version}"


def install_plugin(pins: Pins, cache: Cache, progress: Progress, root: Path) -> bool:
    """Install the Kubernetes provider into PULUMI_HOME; False when this very one is there."""
    tool = pins.tools[PROVIDER]
    environment = pulumi_environment(root, {**os.environ, "SAMEGATE_CACHE": str(cache.root)})
    installed = plugin_folder(Path(environment["PULUMI_HOME"]), tool.version)
    mark = installed / ".samegate-digest"
    if mark.exists() and mark.read_text() == tool.digest:
        return False
    with (
        progress.step(f"Pulumi plugin kubernetes {tool.version}") as step,
        tempfile.TemporaryDirectory(dir=cache.bin) as scratch,
    ):
        shutil.copyfile(cache.current / PROVIDER, Path(scratch) / PROVIDER)
        (Path(scratch) / PROVIDER).chmod(0o755)
        command = ["plugin", "install", "resource", "kubernetes", tool.version, "--reinstall", "--file", scratch]
        done = subprocess.run(
            [str(cache.current / "pulumi"), *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=scratch,
        )
        if done.returncode != 0:
            raise PluginError(f"pulumi {' '.join(command[:5])} failed: {(done.stderr or done.stdout).strip()}")
        mark.write_text(tool.digest)
        step.result = "installed into PULUMI_HOME"
    return True


def engine_command(root: Path) -> tuple[Path, dict[str, str]]:
    """The engine's program and environment for the checkout at `root`."""
    cache = Cache(location())
    return cache.current / "pulumi", pulumi_environment(root)


def provider_version() -> str:
    """The version of the Kubernetes provider, which is that of its SDK."""
    return load().tools[PROVIDER].version
