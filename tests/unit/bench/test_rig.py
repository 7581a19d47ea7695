"""What is pure of the rig: reading ab(1), whose words here are copied from a run of it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from bench.rig import EdgeNode, RigError, rate_of

SAID = """\
Concurrency Level:      8
Time taken for tests:   0.247 seconds
Complete requests:      200
Failed requests:        0
Total transferred:      66400 bytes
HTML transferred:       20000 bytes
Requests per second:    808.62 [#/sec] (mean)
Time per request:       9.893 [ms] (mean)
"""


def test_the_rate_is_read_when_every_request_was_answered() -> None:
    assert rate_of(SAID, 200) == 808.62


@pytest.mark.parametrize(
    "said",
    [
        SAID.replace("Failed requests:        0", "Failed requests:        3"),
        SAID.replace("Complete requests:      200", "Complete requests:      199"),
        SAID.replace("Total", "Non-2xx responses:      200\nTotal"),
        "",
    ],
)
def test_a_run_with_unanswered_requests_is_no_measurement(said: str) -> None:
    with pytest.raises(RigError, match="200 requests"):
        rate_of(said, 200)


def test_machines_of_the_rack_have_addresses_of_their_own() -> None:
    edges = [EdgeNode(number, "tunnel", ip_address("203.0.113.1")) for number in range(1, 9)]  # type: ignore[arg-type]
    held = [a for edge in edges for a in (edge.address, edge.worker_address)]
    assert len(set(held)) == len(held)
