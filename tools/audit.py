"""Asks a vulnerability service about every Python package that is locked, and tells whether it answered.

pip-audit calls a run clean in which it could not ask about a single package: behind a mirror, which serves packages and no
advisories, it prints "No known vulnerabilities found". So its answer is read, and what was not asked is not called clean.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: pip-audit's two services; each needs its own site to be reachable.
SERVICES = ("pypi", "osv")
TIMEOUT_SECONDS = 15


@dataclass(frozen=True)
class Vulnerability:
    """A published weakness of a locked package, and the versions that mend it (none: there is none yet)."""

    package: str
    version: str
    identifier: str
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        way_out = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no version mends it yet"
        return f"{self.package} {self.version}: {self.identifier}, {way_out}"


@dataclass(frozen=True)
class Audit:
    """What the service said. `unasked` is a reason per package that it was not, or could not be, asked about."""

    clean: tuple[str, ...] = ()
    vulnerable: tuple[Vulnerability, ...] = ()
    unasked: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """`vulnerable`, else `unknown` if anything was not asked, else `clean`."""
        return "vulnerable" if self.vulnerable else "clean" if self.clean and not self.unasked else "unknown"


def parse(answer: str, words: str = "") -> Audit:
    """pip-audit's JSON as a value; `words` is what it said beside it, the reason if there is no JSON."""
    try:
        dependencies = list(json.loads(answer)["dependencies"])
    except (ValueError, KeyError, TypeError):
        last = [line.strip() for line in words.splitlines() if line.strip()][-1:]
        return Audit(unasked=(f"pip-audit gave no answer: {last[0][:300] if last else 'and no reason'}",))
    return Audit(
        tuple(each["name"] for each in dependencies if "skip_reason" not in each and not each["vulns"]),
        tuple(
            Vulnerability(each["name"], each["version"], found["id"], tuple(found["fix_versions"]))
            for each in dependencies
            for found in each.get("vulns", ())
        ),
        tuple(each["skip_reason"] for each in dependencies if "skip_reason" in each),
    )


def ask(environment: Path, lock: Path, service: str) -> Audit:
    """Ask `service` about what `lock` pins, with the pip-audit in `environment`; installs and changes nothing."""
    command: Sequence[str] = (
        *(str(environment / "bin/pip-audit"), "--vulnerability-service", service, "--timeout", str(TIMEOUT_SECONDS)),
        *("--disable-pip", "--require-hashes", "--requirement", str(lock)),
        *("--format", "json", "--progress-spinner", "off"),
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return parse(done.stdout, done.stderr)


def lines(lock: str, audit: Audit) -> list[str]:
    """What to print of the audit of `lock`."""
    said = [f"{lock}: {len(audit.clean)} packages without a known weakness"]
    said += [f"  {each}" for each in audit.vulnerable]
    if audit.unasked:
        more = f" (and {len(audit.unasked) - 1} more)" if len(audit.unasked) > 1 else ""
        said.append(f"  NOT audited, so nothing is known: {audit.unasked[0]}{more}")
    return said
