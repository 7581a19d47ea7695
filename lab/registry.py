"""The lab's image registry: Debian's docker-registry on the control address, over plain HTTP, inside the lab only."""

from __future__ import annotations

import json
import shutil
import urllib.parse
from pathlib import Path

from lab import netns, processes, topology
from lab.processes import Daemon, write_text

DIRECTORY = topology.STATE / "registry"
_CONFIGURATION = DIRECTORY / "config.json"


def configuration() -> str:
    """The registry's configuration (JSON, which is YAML)."""
    settings = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(DIRECTORY / "data")},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": topology.REGISTRY, "secret": "one registry, no need to share it"},
    }
    return json.dumps(settings, indent=1) + "\n"


def daemon() -> Daemon:
    """The registry as a process."""
    environment = {"OTEL_TRACES_EXPORTER": "none"}
    argv = ("docker-registry", "serve", str(_CONFIGURATION))
    return Daemon("registry", topology.CONTROL, argv, environment, reads=(_CONFIGURATION,))


def trouble() -> str | None:
    """Why the registry has to be started, or None."""
    if not _CONFIGURATION.is_file() or _CONFIGURATION.read_text() != configuration():
        return "not configured"
    return processes.trouble(daemon())


def start() -> None:
    """Start the registry; what it stores stays."""
    write_text(_CONFIGURATION, configuration())
    processes.start(daemon())


def answers() -> bool:
    """Whether it serves."""
    argv = ["curl", "--silent", "--fail", "--max-time", "2", f"http://{topology.REGISTRY}/v2/"]
    return netns.run(topology.CONTROL, argv, check=False).returncode == 0


def push(oci_archive: Path, name: str, *, tag: str = "latest") -> str:
    """Copy an OCI archive into the registry under `name`; returns "REGISTRY/NAME@sha256:DIGEST".

    Blobs and manifest go as they are, so the digest is that of the archive. Raises CommandError when skopeo fails.
    """
    digest_file = DIRECTORY / f"{urllib.parse.quote(name, safe='')}.digest"
    digest_file.parent.mkdir(parents=True, exist_ok=True)
    argv = [
        "skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests",
        "--dest-tls-verify=false", f"--digestfile={digest_file}",
        f"oci-archive:{oci_archive}", f"docker://{topology.REGISTRY}/{name}:{tag}",
    ]  # fmt: skip
    netns.run(topology.CONTROL, argv, timeout_seconds=300)
    digest = digest_file.read_text().strip()
    digest_file.unlink()
    return f"{topology.REGISTRY}/{name}@{digest}"


def digest_of(name: str, *, tag: str = "latest") -> str | None:
    """The digest behind a tag, or None when the registry has no such image."""
    argv = [
        "curl", "--silent", "--fail", "--max-time", "5", "--head",
        "--header", "Accept: application/vnd.oci.image.manifest.v1+json",
        f"http://{topology.REGISTRY}/v2/{name}/manifests/{tag}",
    ]  # fmt: skip
    answer = netns.run(topology.CONTROL, argv, check=False)
    for line in answer.stdout.splitlines():
        key, _, value = line.partition(":")
        if key.lower() == "docker-content-digest":
            return value.strip()
    return None


def remove() -> None:
    """Stop the registry and delete what it stores."""
    processes.stop(daemon().name, grace_seconds=1)
    shutil.rmtree(DIRECTORY, ignore_errors=True)
