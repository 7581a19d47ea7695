"""Logs: one JSON object a line, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from lbnode.observe import configure_logging, redact

SECRET = "correct-horse-battery"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", stream, role="edge", node="edge1")
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_its_event_level_utc_time_and_context(stream: io.StringIO) -> None:
    structlog.get_logger().warning("vip.withdrawn", vip=ip_address("203.0.113.1"), reason="NoReadyEndpoints")
    (line,) = lines(stream)
    assert line["event"] == "vip.withdrawn"
    assert line["level"] == "warning"
    assert (line["role"], line["node"], line["vip"], line["reason"]) == (
        "edge",
        "edge1",
        "203.0.113.1",
        "NoReadyEndpoints",
    )
    stamp = datetime.fromisoformat(line["timestamp"])
    assert stamp.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - stamp) < timedelta(minutes=1)


def test_lines_below_the_level_are_left_out(stream: io.StringIO) -> None:
    structlog.get_logger().debug("probe.answered")
    logging.getLogger("httpx").info("GET /api/v1/services")
    assert stream.getvalue() == ""


def test_text_of_several_lines_stays_one_line(stream: io.StringIO) -> None:
    structlog.get_logger().info("x", text="a\nb\u2028c")
    assert stream.getvalue().count("\n") == 1
    assert len(stream.getvalue().splitlines()) == 1


def test_libraries_log_the_same_way_and_are_redacted_too(stream: io.StringIO) -> None:
    logging.getLogger("some.library").warning("sent %s", f"Authorization: Bearer {SECRET}")
    (line,) = lines(stream)
    assert (line["level"], line["role"]) == ("warning", "edge")
    assert SECRET not in stream.getvalue()


def test_a_secret_in_a_traceback_is_hidden(stream: io.StringIO) -> None:
    try:
        raise ValueError(f'line 3: password "{SECRET}";')
    except ValueError:
        structlog.get_logger().exception("speaker.refused")
    (line,) = lines(stream)
    assert "ValueError" in line["exception"]
    assert SECRET not in stream.getvalue()


@pytest.mark.parametrize(
    "field",
    [
        "password",
        "bgp_password",
        "client_secret",
        "token",
        "Authorization",
        "private_key",
        "privateKey",
        "md5_key",
        "bgp_key",
    ],
)
def test_fields_named_like_secrets_are_hidden_at_any_depth(stream: io.StringIO, field: str) -> None:
    structlog.get_logger().info("x", **{field: SECRET}, deep={"list": [{field: SECRET}]})
    assert SECRET not in stream.getvalue()


@pytest.mark.parametrize("field", ["key", "vip", "peer", "bgp_key_name"])
def test_other_fields_are_shown(stream: io.StringIO, field: str) -> None:
    structlog.get_logger().info("x", **{field: "tcp://203.0.113.1:80"})
    assert lines(stream)[0][field] == "tcp://203.0.113.1:80"


@pytest.mark.parametrize(
    "text",
    [
        f'peer {{ password "{SECRET}"; }}',
        f"bearer {SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET} cut",
        f"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVz.{SECRET}",
    ],
)
def test_secrets_inside_text_are_hidden_and_the_rest_stays(text: str) -> None:
    shown = redact(f"before {text} after")
    assert SECRET not in shown
    assert shown.startswith("before ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_redacting_twice_is_redacting_once_and_the_value_itself_stays(value: Any) -> None:
    before = json.dumps(value, sort_keys=True)
    once = redact(value)
    assert redact(once) == once
    assert json.dumps(value, sort_keys=True) == before
