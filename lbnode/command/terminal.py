"""Shows an answer: tables on a terminal, plain lines when piped, JSON when asked."""

from __future__ import annotations

import json
import sys
from typing import TextIO

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lbnode.command.answer import Answer, Cell, Table, plain_lines


def show(answer: Answer, *, as_json: bool, out: TextIO | None = None, err: TextIO | None = None) -> None:
    """Write the answer to standard output, and its notes to standard error."""
    out, err = out or sys.stdout, err or sys.stderr
    if as_json:
        print(json.dumps({**answer.data, "notes": list(answer.notes)}, indent=2, default=str), file=out)
        return
    console = Console(file=out, highlight=False)
    for index, part in enumerate(answer.parts):
        if console.is_terminal:
            console.print(_rich(part))
            continue
        # An empty line keeps tables apart for `awk` in paragraph mode.
        if index and isinstance(part, Table):
            print(file=out)
        print("\n".join(plain_lines(part)), file=out)
    out.flush()
    for note in answer.notes:
        print(f"note: {note}", file=err)


def _rich(part: Table | Cell) -> RichTable | Text:
    if isinstance(part, Cell):
        return Text(part.text, style=part.tone.value)
    if not part.rows:
        return Text(f"{part.title}: {part.empty}\n")
    table = RichTable(title=part.title, title_justify="left")
    for column in part.columns:
        table.add_column(column, overflow="fold")
    for cells in part.rows:
        table.add_row(*(Text(c.text or "-", style=c.tone.value) for c in cells))
    return table
