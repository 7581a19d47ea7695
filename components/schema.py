"""`python -m components.schema > stacks/schema.json`: what editors complete stack files with."""

from __future__ import annotations

import json

from components.settings import json_schema

if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1, sort_keys=True))
