"""Says at the end of a run what each command on the real engine took; JUnit files have it as properties."""

from __future__ import annotations

from typing import Any

SECONDS = " seconds"
"""How the property of a test ends that is a duration."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    durations = [
        f"{name.removesuffix(SECONDS)}: {value} s"
        for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed"))
        for name, value in report.user_properties
        if name.endswith(SECONDS)
    ]
    if durations:
        terminalreporter.section("commands on the real engine with simulated clouds")
        for line in durations:
            terminalreporter.line(line)
