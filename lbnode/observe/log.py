"""Structured logs: one JSON object a line, UTC, an event word, and never a secret.

Redaction is a processor that every line passes, not a call to remember. It also takes the lines of libraries that log by themselves.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

HIDDEN = "(hidden)"
#: Names of fields that are never shown. ``key`` alone is not among them: keys of services and of settings are no secrets.
SECRET_NAMES = re.compile(
    r"password|passwd|secret|token|credential|authorization|private_?key|md5_?key|bgp_?key(?!_?name)", re.IGNORECASE
)
#: Secrets inside text: BIRD's password statement, HTTP's Authorization, PEM, and JSON web tokens.
SECRET_TEXTS = (
    re.compile(r'(password\s+")[^"\n]*(?=")'),
    re.compile(r"((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE),
    re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|\Z)", re.DOTALL),
    re.compile(r"()\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"),
)
#: Libraries that tell each request at level info.
CHATTY = ("httpx", "httpx2", "httpcore", "lightkube", "asyncio")


def redact(value: Any) -> Any:
    """``value`` without secrets: fields by their name, text by what it holds; containers are copied, never changed."""
    if isinstance(value, str):
        for pattern in SECRET_TEXTS:
            value = pattern.sub(rf"\g<1>{HIDDEN}", value)
        return value
    if isinstance(value, bytes):
        return redact(value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {
            k: HIDDEN if isinstance(k, str) and SECRET_NAMES.search(k) and v not in (None, "") else redact(v)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item) for item in value]
    return value


def _redacted(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return dict(redact(event))


def configure_logging(level: str = "info", stream: TextIO | None = None, **context: str) -> None:
    """Send all logs of the process to ``stream`` (standard error by default) as JSON lines.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        context: fields of every line, such as ``role`` and ``node``.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    target = stream if stream is not None else sys.stderr
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with(context),
    ]
    # A traceback becomes text before it is redacted: it may hold what an argument held.
    last: list[Any] = [
        structlog.processors.format_exc_info,
        _redacted,
        structlog.processors.JSONRenderer(default=str, ensure_ascii=True),
    ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def _with(context: Mapping[str, str]) -> Any:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**event, **context}

    return add
