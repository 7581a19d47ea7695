"""`python -m monitoring`: writes docs/metrics.md and monitoring/dashboard.json anew."""

from __future__ import annotations

import json
from pathlib import Path

from monitoring.dashboard import dashboard
from monitoring.metrics_page import page

ROOT = Path(__file__).resolve().parent.parent


def written() -> dict[Path, str]:
    """Every file that is written from code, with its text."""
    return {
        ROOT / "docs/metrics.md": page(),
        ROOT / "monitoring/dashboard.json": json.dumps(dashboard(), indent=1, sort_keys=True) + "\n",
    }


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text)
        print(path.relative_to(ROOT))
