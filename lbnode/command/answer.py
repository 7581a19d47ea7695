"""What a verb answers, as values: tables and lines for people, JSON for machines, and an exit code. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

#: Exit codes, as those of ``python -m lbnode``. 2 is for a wrong call, and for a cluster that cannot be asked.
FINE, FOUND_SOMETHING, NOT_ASKED = 0, 1, 2


class Tone(StrEnum):
    """How a cell is coloured on a terminal. The text alone says it too."""

    PLAIN = ""
    GOOD = "green"
    BAD = "red"
    DOUBT = "yellow"


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Table:
    """``empty`` stands in the place of a table without rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str = "none"


@dataclass(frozen=True, slots=True)
class Answer:
    """``parts`` are shown in order; ``notes`` are about the asking, and go to standard error."""

    data: Mapping[str, Any]
    parts: tuple[Table | Cell, ...]
    notes: tuple[str, ...] = ()
    code: int = FINE


def row(*cells: Cell | str) -> tuple[Cell, ...]:
    """A row in which plain text needs no :class:`Cell`."""
    return tuple(c if isinstance(c, Cell) else Cell(c) for c in cells)


def toned(text: str, good: bool | None) -> Cell:
    """Green, red, or neither where that is not known."""
    return Cell(text, Tone.DOUBT if good is None else Tone.GOOD if good else Tone.BAD)


def listed(names: Sequence[object], nothing: str = "-") -> str:
    """Names with commas between them."""
    return ", ".join(map(str, names)) or nothing


def plain_lines(part: Table | Cell) -> list[str]:
    """A part as lines without colour or frame, columns aligned, nothing cut off: for pipes and files."""
    if isinstance(part, Cell):
        return [part.text]
    if not part.rows:
        return [f"{part.title}: {part.empty}"]
    texts = [tuple(c.upper() for c in part.columns), *(tuple(c.text or "-" for c in r) for r in part.rows)]
    widths = [max(len(r[i]) for r in texts) for i in range(len(part.columns))]
    return [part.title, *("  ".join(t.ljust(w) for t, w in zip(r, widths, strict=True)).rstrip() for r in texts)]
