"""The report for people: a table on a terminal, one line a key elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab.report.catalogue import Value
from lab.report.measurement import Finding


def shown(value: Value) -> str:
    """A value in a few words."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(item)}" for name, item in value.items())
    if isinstance(value, list | tuple | set):
        return " ".join(map(shown, value)) if value else "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "-" if value is None else str(value)


def measured(finding: Finding) -> str:
    """What was measured, or why it could not be."""
    return finding.error if finding.error is not None else shown(finding.value)


def control(finding: Finding) -> str:
    """The negative control: what it was and what came of it."""
    if finding.control is None:
        return ""
    return f"{finding.control.what}: {shown(finding.control.value)}" + (
        "" if finding.control.shows else " (shows nothing)"
    )


def line(finding: Finding) -> str:
    """One line for a log."""
    text = f"{'met ' if finding.met else 'MISS'} {finding.key} = {measured(finding)} (must: {finding.must}; {finding.seconds:g} s)"
    return text + (f" [control: {control(finding)}]" if finding.control else "")


def table(findings: Iterable[Finding]) -> Table:
    """All findings."""
    made = Table(title="samegate on the rack", show_lines=True)
    for name in ("key", "measured", "must", "met", "control"):
        made.add_column(name, overflow="fold")
    for finding in findings:
        met = "[green]yes[/]" if finding.met else "[bold red]no[/]"
        made.add_row(
            f"{finding.key}\n[dim]{escape(finding.what)}[/]",
            escape(measured(finding)),
            escape(finding.must),
            met,
            escape(control(finding)),
        )
    return made


def print_table(findings: Iterable[Finding]) -> None:
    Console().print(table(findings))
