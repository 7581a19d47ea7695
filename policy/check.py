"""`python -m policy.check STACK`: a preview with the policy pack, then a scan of state, plan, events and logs for secrets in clear text.

Changes nothing: neither resources nor the stack's state. Ends with 1 when a rule is broken, the preview fails, or a secret shows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tools
from policy.scan import SHORTEST_CHARACTERS, Leak, leaks, leaves

ROOT = Path(__file__).resolve().parent.parent
PACK = ROOT / "policy"
#: What says that the caller has a backend of their own; without any of these the checkout's own state is used.
BACKEND_VARIABLES = ("PULUMI_BACKEND_URL", "PULUMI_ACCESS_TOKEN", "PULUMI_HOME")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


class NotPossible(Exception):
    """The check cannot be made; the text says why and what to do."""


@dataclass(frozen=True)
class Outcome:
    """``preview`` is what the engine said, ``passed`` whether it was content; ``scanned`` names the texts that were looked through."""

    preview: str
    passed: bool
    leaks: tuple[Leak, ...]
    scanned: tuple[str, ...]
    secrets: int


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The engine's environment: the tools' own, with the caller's backend where there is one."""
    return tools.pulumi_environment(ROOT, base) | {name: base[name] for name in BACKEND_VARIABLES if name in base}


def engine(project: Path) -> Run:
    """Runs the pinned engine, or the one on PATH where `make tools` has not been used."""
    try:
        program = str(tools.locate("pulumi"))
    except tools.ToolMissing as error:
        if (found := shutil.which("pulumi")) is None:
            raise NotPossible(str(error)) from None
        program = found

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments, "--non-interactive", "--color", "never"],
            cwd=project,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def secrets_of(configuration: Mapping[str, Any]) -> dict[str, str]:
    """The secret texts in what `pulumi config --show-secrets --json` prints, by the path of each."""
    found: dict[str, str] = {}
    for name, entry in configuration.items():
        if entry.get("secret"):
            value = entry.get("objectValue", entry.get("value"))
            found |= dict(leaves(name, value))
    return {name: value for name, value in found.items() if len(value) >= SHORTEST_CHARACTERS}


def check(
    run: Run,
    stack: str,
    *,
    config_file: Path | None = None,
    rules: Path | None = None,
    logs: Sequence[Path] = (),
    more: Sequence[str] = (),
) -> Outcome:
    """Preview ``stack`` with the policy pack and scan what comes of it, and ``logs``.

    ``config_file`` stands for the stack's own; ``rules`` has levels and parameters of rules; ``more`` are further arguments of the preview.

    Raises:
        NotPossible: there is no such stack, or its secrets cannot be read.
    """
    where = ["--stack", stack, *([] if config_file is None else ["--config-file", str(config_file)])]
    configured = run("config", "--show-secrets", "--json", *where)
    if configured.returncode != 0:
        raise NotPossible(
            f"the configuration of stack {stack!r} cannot be read: {configured.stderr.strip()}. "
            f"Create the stack (pulumi stack init {stack}), or set PULUMI_CONFIG_PASSPHRASE"
        )
    secrets = secrets_of(json.loads(configured.stdout or "{}"))
    with tempfile.TemporaryDirectory(prefix="samegate-policy-") as scratch:
        events, plan = Path(scratch, "events.json"), Path(scratch, "plan.json")
        command = ["preview", *where, "--policy-pack", str(PACK), "--event-log", str(events)]
        command += ["--save-plan", str(plan)]
        if rules is not None:
            command += ["--policy-pack-config", str(rules)]
        done = run(*command, *more)
        said = done.stdout + done.stderr
        texts = {"preview": said, "events": _read(events), "plan": _read(plan)}
    exported = run("stack", "export", "--stack", stack)
    if exported.returncode == 0:
        texts["state"] = exported.stdout
    texts |= {str(log): _read(log) for log in logs}
    found = tuple(leak for where, text in texts.items() for leak in leaks(where, text, secrets))
    return Outcome(
        said, done.returncode == 0, found, tuple(where for where, text in texts.items() if text), len(secrets)
    )


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m policy.check", description="A preview with every policy check, and a scan for secrets."
    )
    parser.add_argument("stack")
    parser.add_argument("--project", type=Path, default=ROOT, help="the folder of Pulumi.yaml")
    parser.add_argument("--config-file", type=Path, help="in the place of the stack's own")
    parser.add_argument("--rules", type=Path, help="levels and parameters of rules (default: stacks/policy.STACK.json)")
    parser.add_argument("--log", type=Path, action="append", default=[], help="a further file to scan; may be repeated")
    parser.add_argument("preview", nargs="*", help="after `--`: further arguments of `pulumi preview`")
    given = parser.parse_args(arguments)
    default = ROOT / "stacks" / f"policy.{given.stack}.json"
    rules = given.rules or (default if default.exists() else None)
    try:
        outcome = check(
            engine(given.project),
            given.stack,
            config_file=given.config_file,
            rules=rules,
            logs=given.log,
            more=given.preview,
        )
    except NotPossible as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(outcome.preview)
    for leak in outcome.leaks:
        print(f"secret: {leak}")
    searched = f"{outcome.secrets} known secret(s) in {', '.join(outcome.scanned)}"
    print(f"Secrets in clear text: {len(outcome.leaks)} (looked for {searched}, and for what looks like one)")
    return 0 if outcome.passed and not outcome.leaks else 1


if __name__ == "__main__":
    sys.exit(main())
