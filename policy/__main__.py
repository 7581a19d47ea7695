"""The policy pack, as the engine starts it: `pulumi preview --policy-pack policy`. To check a stack by hand: `make policy STACK=onprem`."""

from __future__ import annotations

import sys
from pathlib import Path

# The engine runs this folder as a program of its own, so that only the folder itself is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from policy.pack import serve

serve()
