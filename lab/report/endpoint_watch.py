"""When a Service gained its first usable endpoint, or lost the last, by the API server's own notifications."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import tools
from lab import cluster, netns, topology


class EndpointWatch:
    """Follows the EndpointSlices of one Service while the `with` block runs. `events`: (time, number of usable endpoints)."""

    def __init__(self, service: str, namespace: str) -> None:
        self.service, self.namespace = service, namespace
        self.events: list[tuple[float, int]] = []
        self._slices: dict[str, int] = {}

    def __enter__(self) -> EndpointWatch:
        argv = [
            str(tools.locate("kubectl")), f"--kubeconfig={cluster.kubeconfig}", "get", "endpointslices", "-n", self.namespace,
            "-l", f"kubernetes.io/service-name={self.service}", "--watch", "--output-watch-events", "-o", "json",
        ]  # fmt: skip
        self._process = netns.popen(topology.CONTROL, argv, stderr=subprocess.DEVNULL)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def _read(self) -> None:
        if self._process.stdout is None:
            raise RuntimeError("kubectl was started without its output")
        descriptor = self._process.stdout.fileno()
        parts = (part.decode() for part in iter(lambda: os.read(descriptor, 65536), b""))
        for event in documents(parts):
            piece = event["object"]
            name = piece["metadata"]["name"]
            self._slices[name] = 0 if event["type"] == "DELETED" else usable(piece)
            self.events.append((time.monotonic(), sum(self._slices.values())))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def emptied_at(self, since: float) -> float | None:
        """When the last usable endpoint went, from `since` on."""
        return next((at for at, count in self.events if at >= since and count == 0), None)

    def filled_at(self, since: float) -> float | None:
        """When the first usable endpoint came, from `since` on."""
        return next((at for at, count in self.events if at >= since and count > 0), None)


def usable(piece: dict[str, Any]) -> int:
    """Endpoints of a slice that may get traffic: ready ones, and serving ones that terminate (they count while no other is ready)."""
    conditions = [endpoint.get("conditions", {}) for endpoint in piece.get("endpoints") or []]
    return sum(1 for c in conditions if c.get("ready") or c.get("serving"))


def documents(parts: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON documents in a stream of text that is cut anywhere."""
    decoder, text = json.JSONDecoder(), ""
    for part in parts:
        text += part
        while text := text.lstrip():
            try:
                document, end = decoder.raw_decode(text)
            except json.JSONDecodeError:
                break
            yield document
            text = text[end:]
