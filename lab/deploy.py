"""`python -m lab deploy | preview | destroy`: the Pulumi program on the lab's cluster, with the real engine and provider.

The engine runs in the control plane's namespace, where the API server is reached, on the stack `lab`. What a run adds to the committed
stacks/Pulumi.lab.yaml (the image's digest, a test's changes, the engine's salt) goes into a copy below .lab, beside a copy of Pulumi.yaml
that leads to the program.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import yaml

import tools
from image.build import build
from lab import credentials, leftovers, lock, netns, offloads, registry
from lab.processes import write_text
from lab.topology import CONTROL, EDGES, ROOT, STATE

STACK = "lab"
COMMITTED = ROOT / "stacks" / f"Pulumi.{STACK}.yaml"
DIRECTORY = STATE / "stack"
GENERATED = DIRECTORY / f"Pulumi.{STACK}.yaml"
KEPT = DIRECTORY / "agent.json"
"""What `deploy --agent` asked for: it holds for every run until the next `deploy`."""
EVENTS = DIRECTORY / "events.json"
IMAGE_ARCHIVE = STATE / "image" / "samegate.oci.tar"
NO_IMAGE = "samegate@sha256:" + "0" * 64
"""For a preview before anything is built."""
TIMEOUT_SECONDS = 1500.0
_SALT = "encryptionsalt"


class DeployError(RuntimeError):
    """The engine ended with an error; the message is what it said."""


@dataclass(frozen=True)
class Result:
    """What one run of the engine did: resources by operation (`create`, `update`, `same`...), and the stack's outputs."""

    operations: Mapping[str, int]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""

    @property
    def changed(self) -> int:
        """Resources that were not left as they were."""
        return sum(count for operation, count in self.operations.items() if operation not in ("same", "read"))


def deploy(image: str, changes: Mapping[str, Any] | None = None, bgp_keys: Mapping[str, str] | None = None) -> Result:
    """`pulumi up` with the image (NAME@sha256:DIGEST) for the agents, waiting until every Service has its address.

    `changes` is merged into the stack's configuration (keys with their prefix: `{"samegate:agent": {"logLevel": "debug"}}`), `bgp_keys` become its
    secret `samegate:bgpKeys`; neither outlives the call.

    Raises DeployError with what the engine said.
    """
    leftovers.remember_once()
    _configure(image, changes, bgp_keys)
    by_xdp = dataplane() == "xdp"
    if by_xdp:
        offloads.declare(EDGES)
    run = _engine("up", "--yes", "--skip-preview")
    if not by_xdp:
        # Until then an edge node may still have had the program.
        offloads.declare(())
    return Result(run.operations, outputs(), run.said)


def preview(image: str = NO_IMAGE, changes: Mapping[str, Any] | None = None, namespace: str | None = CONTROL) -> Result:
    """`pulumi preview`; with `namespace` None from where no cluster is reached."""
    _configure(image, changes, None)
    return _engine("preview", namespace=namespace)


def destroy() -> Result:
    """`pulumi destroy`: VIPs are withdrawn, then everything that `deploy` made is taken away."""
    run = _engine("destroy", "--yes", "--skip-preview")
    offloads.declare(())
    return run


def dataplane() -> str:
    """The data plane that the last run configured."""
    agent = yaml.safe_load(GENERATED.read_text())["config"].get("samegate:agent", {})
    return str(agent.get("dataplane", "ipvs"))


def outputs() -> dict[str, Any]:
    """The stack's outputs: addresses (by namespace/name), edgeNodes, peers, image."""
    said = _pulumi("stack", "output", "--json", "--stack", STACK)
    parsed: dict[str, Any] = json.loads(said)
    return parsed


def deployed() -> bool:
    """Whether the stack holds resources."""
    return (
        GENERATED.exists()
        and json.loads(_pulumi("stack", "export", "--stack", STACK))["deployment"].get("resources") is not None
    )


def build_and_push(labels: Mapping[str, str] | None = None) -> str:
    """Build the image, push it to the lab's registry; NAME@sha256:DIGEST."""
    archive = IMAGE_ARCHIVE if not labels else IMAGE_ARCHIVE.with_name("labelled.oci.tar")
    build(archive, labels, lambda line: print(line, file=sys.stderr, flush=True))
    return registry.push(archive, "samegate")


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: mappings are merged, everything else is replaced, None removes a key."""
    result = deepcopy(dict(base))
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = deepcopy(value)
    return result


def _configure(image: str, changes: Mapping[str, Any] | None, bgp_keys: Mapping[str, str] | None) -> None:
    """Write the run's copy of the stack file, and make the stack if there is none."""
    document = yaml.safe_load(COMMITTED.read_text())
    kept = {"samegate:agent": json.loads(KEPT.read_text())} if KEPT.exists() else {}
    document["config"] = merged(document["config"], kept)
    former = yaml.safe_load(GENERATED.read_text()) if GENERATED.exists() else {}
    kubeconfig = credentials.KUBECONFIGS / "admin.kubeconfig"
    document["config"]["samegate:platform"]["kubeconfigFile"] = str(kubeconfig.relative_to(ROOT))
    document["config"] = merged(document["config"], {**(changes or {}), "samegate:image": image})
    # Apps keep the image that they were first deployed with: so a rollout of the agent rolls nothing else.
    app_image = next(
        (
            app["images"]["samegate"]
            for app in (former or {}).get("config", {}).get("samegate:apps", ())
            if "images" in app
        ),
        image,
    )
    if app_image == NO_IMAGE:
        app_image = image
    for app in document["config"]["samegate:apps"]:
        app.setdefault("images", {"samegate": app_image})
    if _SALT in (former or {}):
        # With another salt every secret in the state would count as changed.
        document[_SALT] = former[_SALT]
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    partial = GENERATED.with_suffix(".partial")
    partial.write_text(yaml.safe_dump(document, sort_keys=False))
    partial.rename(GENERATED)
    project = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())
    del project["stackConfigDir"]
    project["main"] = os.path.relpath(ROOT, DIRECTORY)
    project["runtime"]["options"]["virtualenv"] = os.path.relpath(
        ROOT / project["runtime"]["options"]["virtualenv"], DIRECTORY
    )
    (DIRECTORY / "Pulumi.yaml").write_text(yaml.safe_dump(project, sort_keys=False))
    _pulumi("stack", "select", "--create", STACK, "--secrets-provider", "passphrase")
    _recover()
    for name, key in (bgp_keys or {}).items():
        # By standard input: an argument is visible to every process of the machine.
        _pulumi("config", "set", "--secret", "--path", f"samegate:bgpKeys.{name}", stdin=key)


def _engine(command: str, *arguments: str, namespace: str | None = CONTROL) -> Result:
    EVENTS.unlink(missing_ok=True)
    try:
        # `up` and `down` stay away while the engine runs.
        with lock.held(alone=False):
            said = _pulumi(command, "--stack", STACK, "--event-log", str(EVENTS), *arguments, namespace=namespace)
    except lock.Busy as error:
        raise DeployError(str(error)) from None
    return Result(operations(EVENTS.read_text()), said=said)


def _recover() -> None:
    """Make a stack usable that a killed run has left locked, or with operations of unknown outcome."""
    if not any((STATE / "pulumi-state").rglob("locks/**/*.json")):
        return
    _pulumi("cancel", "--yes", "--stack", STACK)
    exported = json.loads(_pulumi("stack", "export", "--stack", STACK))
    if exported["deployment"].get("pending_operations"):
        # What was being created is either there, and then taken over by server-side apply, or it is created now.
        _pulumi("refresh", "--yes", "--skip-preview", "--clear-pending-creates", "--stack", STACK)


def operations(events: str) -> dict[str, int]:
    """Resources by operation, from the engine's event log (one JSON object a line).

    Raises DeployError if the log has no summary: the engine did not finish.
    """
    for line in reversed(events.splitlines()):
        summary = json.loads(line).get("summaryEvent")
        if summary is not None:
            return {str(name): int(count) for name, count in summary["resourceChanges"].items()}
    raise DeployError(
        "the engine's event log has no summary: the run did not finish. Run it again: python -m lab deploy"
    )


def _pulumi(*arguments: str, stdin: str | None = None, namespace: str | None = CONTROL) -> str:
    environment = {**tools.pulumi_environment(ROOT, state=STATE), "NO_COLOR": "1", "PULUMI_DEBUG_COMMANDS": "true"}
    command = [str(tools.locate("pulumi")), *arguments, "--non-interactive", "--color", "never"]
    done = netns.run(
        namespace,
        command,
        input=stdin,
        check=False,
        timeout_seconds=TIMEOUT_SECONDS,
        environment=environment,
        cwd=DIRECTORY,
    )
    if done.returncode != 0:
        raise DeployError(
            f"pulumi {arguments[0]} ended with {done.returncode}:\n{(done.stdout + done.stderr).strip()[-6000:]}"
        )
    return done.stdout


def keep_for_agent(settings: Mapping[str, Any]) -> None:
    """Deploy the agent with these settings from now on, beside those of the committed stack file."""
    write_text(KEPT, json.dumps(settings))


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, like return=via-edge")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def main(arguments: list[str]) -> int:
    """`deploy [--image REF] [--agent KEY=VALUE]`, `preview` and `destroy`."""
    parser = argparse.ArgumentParser(
        prog="python -m lab", description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("deploy", help="build and push the image, pulumi up")
    up.add_argument("--image", help="NAME@sha256:DIGEST; without it the image is built and pushed first")
    up.add_argument("--json", action="store_true")
    up.add_argument(
        "--agent",
        action="append",
        default=[],
        type=_assignment,
        metavar="KEY=VALUE",
        help="a setting of samegate:agent, its value as JSON or plain text (return=via-edge); all runs keep it until the next `deploy`",
    )
    commands.add_parser("preview", help="pulumi preview")
    commands.add_parser("destroy", help="pulumi destroy")
    options = parser.parse_args(arguments)
    try:
        if options.command == "deploy":
            keep_for_agent(dict(options.agent))
            result = deploy(options.image or build_and_push())
        elif options.command == "preview":
            result = preview()
        else:
            result = destroy()
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if getattr(options, "json", False):
        print(json.dumps({"operations": result.operations, "outputs": result.outputs}, indent=1))
    else:
        print(result.said.strip())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
