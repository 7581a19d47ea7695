"""Following the API server through its bad days, over a scripted transport: nothing is ever cleared, everything is caught up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightkube import AsyncClient
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import Cluster, User

from lbnode.kube.watcher import SILENCE_SECONDS, Copy, Watcher
from lbnode.model import ServiceName

WEB = ServiceName("shop", "web")
KINDS = {"services": "Service", "endpointslices": "EndpointSlice", "nodes": "Node", "namespaces": "Namespace"}


def service(version: int, *, port: int = 80) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web", "resourceVersion": str(version)},
        "spec": {"ports": [{"port": port}]},
    }


def event(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


EXPIRED = event(
    "ERROR",
    {"kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired", "message": "too old resource version"},
)


class Script:
    """What the API server answers for Services: lists in turn (the last repeats), watches in turn (then silence)."""

    def __init__(
        self, lists: Sequence[list[dict[str, Any]] | int | httpx2.Response], watches: list[list[bytes]]
    ) -> None:
        self.lists = lists
        self.watches = watches
        self.listed = 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        resource = request.url.path.rsplit("/", 1)[-1]
        if resource == "kubernetes":
            return httpx2.Response(200, json={"metadata": {"namespace": "default", "name": "kubernetes"}})
        if request.url.params.get("watch") == "true":
            chunks = self.watches.pop(0) if resource == "services" and self.watches else None
            return httpx2.Response(200, content=_stream(chunks))
        items: list[dict[str, Any]] = []
        if resource == "services":
            answer = self.lists[min(self.listed, len(self.lists) - 1)]
            self.listed += 1
            if isinstance(answer, httpx2.Response):
                return answer
            if isinstance(answer, int):
                return httpx2.Response(answer, json={"kind": "Status", "code": answer, "message": "no"})
            items = answer
        if resource == "namespaces":
            items = [{"metadata": {"name": "shop", "labels": {"tier": "gold"}}}]
        return httpx2.Response(
            200,
            json={
                "kind": KINDS[resource] + "List",
                "apiVersion": "v1",
                "metadata": {"resourceVersion": "7"},
                "items": items,
            },
        )


async def _stream(chunks: list[bytes] | None) -> AsyncIterator[bytes]:
    for chunk in chunks or []:
        yield chunk
    if chunks is None:
        await asyncio.Event().wait()


def follow(script: Script, until: Callable[[Copy], bool], monkeypatch: pytest.MonkeyPatch, **options: bool) -> Copy:
    """Watch until the condition holds; fails after ten seconds."""
    monkeypatch.setattr("lbnode.kube.watcher.RETRY_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("lbnode.kube.watcher.LIST_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr("lbnode.kube.watcher.WATCH_INTERVAL_SECONDS", 0.01)
    seen = asyncio.Event()

    async def go() -> Copy:
        config = KubeConfig.from_one(cluster=Cluster(server="http://api.example"), user=User(token="t"))
        watcher = Watcher(AsyncClient(config=config, transport=httpx2.MockTransport(script)), seen.set, **options)
        running = asyncio.create_task(watcher.run())
        try:
            async with asyncio.timeout(10):
                while not (watcher.copy.synced and until(watcher.copy)):
                    await asyncio.sleep(0.01)
        finally:
            running.cancel()
        return watcher.copy

    return asyncio.run(go())


def port_is(port: int) -> Callable[[Copy], bool]:
    wanted = service(1, port=port)["spec"]["ports"]
    # What the API server says may have lost any of its keys on the way.
    return lambda copy: copy.services.get(WEB, {}).get("spec", {}).get("ports") == wanted


def test_it_lists_and_then_follows_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([[service(1)]], [[event("MODIFIED", service(8, port=81))], [event("DELETED", service(9, port=81))]])
    copy = follow(
        script, lambda copy: script.listed == 1 and WEB not in copy.services and copy.version > 3, monkeypatch
    )
    assert copy.services == {}


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "watched"])
def test_who_wrote_which_field_is_not_kept(listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    written = service(8, port=81)
    written["metadata"]["managedFields"] = [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}}]
    script = Script([[written]], []) if listed else Script([[service(1)]], [[event("MODIFIED", written)]])
    copy = follow(script, port_is(81), monkeypatch)
    assert copy.services[WEB]["metadata"] == {"namespace": "shop", "name": "web", "resourceVersion": "8"}


def test_an_expired_watch_lists_anew_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([[service(1)], [service(20, port=82)]], [[EXPIRED]])
    follow(script, port_is(82), monkeypatch)
    assert script.listed == 2


def test_a_cut_line_lists_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([[service(1)], [service(20, port=82)]], [[b'{"type": "MODIFIED", "obj']])
    follow(script, port_is(82), monkeypatch)
    assert script.listed == 2


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"7",
        b"",
        b"{}",
        b"\xff\xfe",
        b'{"type":"MODIFIED"}',
        b'{"type":"MODIFIED","object":7}',
        b'{"type":"MODIFIED","object":{"metadata":null}}',
        b'{"type":"MODIFIED","object":{"metadata":{"name":7}}}',
        b'{"type":"ERROR"}',
        b'{"type":"ERROR","object":7}',
        b'{"type":"ERROR","object":{"kind":"Status","code":"x"}}',
        b'{"type":"MODIFIED","object":' + b'{"metadata":' * 5000,
        b"[" * 100_000,
    ],
    ids=range(14),
)
def test_a_line_that_is_no_event_lists_anew(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([[service(1)], [service(20, port=82)]], [[line + b"\n"]])
    follow(script, port_is(82), monkeypatch)
    assert script.listed == 2


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), min_size=1, max_size=6))
def test_an_event_with_bytes_overwritten_never_ends_the_watcher(
    changes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = bytearray(event("MODIFIED", service(8, port=81)))
    for position, value in changes:
        line[position % len(line)] = value
    script = Script([[service(1)], [service(20, port=82)]], [[bytes(line), EXPIRED]])
    follow(script, port_is(82), monkeypatch)


@pytest.mark.parametrize("status", [200, 301, 404, 418, 500])
@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"<html>", b"[" * 100_000], ids=range(5))
def test_a_body_that_is_not_the_api_servers_is_tried_again(
    status: int, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(
        [
            [service(1)],
            httpx2.Response(status, content=body, headers={"content-type": "application/json"}),
            [service(30, port=83)],
        ],
        [[EXPIRED]],
    )
    follow(script, port_is(83), monkeypatch)
    assert script.listed == 3


def test_a_list_without_a_resource_version_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([httpx2.Response(200, json={"metadata": {}, "items": []}), [service(30, port=83)]], [])
    follow(script, port_is(83), monkeypatch)


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_refused_lists_are_tried_again_and_what_was_known_stays(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([[service(1)], status, status, [service(30, port=83)]], [[EXPIRED]])
    kept: list[bool] = []

    def until(copy: Copy) -> bool:
        kept.append(WEB in copy.services)
        return port_is(83)(copy)

    follow(script, until, monkeypatch)
    assert script.listed == 4
    assert all(kept)


def others(*names: str) -> list[dict[str, Any]]:
    return [{**service(1), "metadata": {"namespace": "shop", "name": n, "resourceVersion": "1"}} for n in names]


@pytest.mark.parametrize("left", [[], others("a")])
def test_a_list_that_lost_more_than_half_is_not_believed_at_once(
    left: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [service(1), *others("a", "b")]
    script = Script([full, left, [service(30, port=85), *others("a", "b")]], [[EXPIRED], [EXPIRED]])
    kept: list[bool] = []

    def until(copy: Copy) -> bool:
        kept.append(len(copy.services) == 3)
        return port_is(85)(copy)

    follow(script, until, monkeypatch)
    assert all(kept)


def test_a_second_list_that_lost_the_same_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([[service(1), *others("a", "b")], []], [[EXPIRED]])
    follow(script, lambda copy: copy.services == {}, monkeypatch)
    assert script.listed == 3


def test_a_list_that_lost_half_is_believed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([[service(1), *others("a")], others("a")], [[EXPIRED]])
    follow(script, lambda copy: WEB not in copy.services, monkeypatch)
    assert script.listed == 2


def test_a_silent_watch_is_taken_for_half_open_and_listed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbnode.kube.watcher.SILENCE_SECONDS", 0.05)
    script = Script([[service(1)], [service(20, port=84)]], [])
    follow(script, port_is(84), monkeypatch)
    assert script.listed >= 2


def test_half_open_connections_are_found_within_a_minute() -> None:
    longest_jitter = 1.2
    assert SILENCE_SECONDS * longest_jitter <= 60


def test_a_list_that_says_the_same_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbnode.kube.watcher.SILENCE_SECONDS", 0.05)
    script = Script([[service(1)]], [])
    versions: list[int] = []

    def until(copy: Copy) -> bool:
        versions.append(copy.version)
        return script.listed >= 4

    follow(script, until, monkeypatch)
    assert max(versions) == 3, "one change for each kind's first list"


def test_each_kind_remembers_when_it_was_last_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 100_000))
    monkeypatch.setattr("lbnode.kube.watcher.time.time", lambda: next(clock))
    seen: list[dict[str, float]] = []

    def until(copy: Copy) -> bool:
        seen.append(dict(copy.answered))
        return port_is(82)(copy)

    # A list, a change, and refusals, which are no answer.
    script = Script(
        [[service(1)], 503, 503, [service(20, port=82)]], [[event("MODIFIED", service(8, port=81)), EXPIRED]]
    )
    copy = follow(script, until, monkeypatch)
    assert copy.answered.keys() == {"services", "slices", "nodes"}
    assert copy.answered["services"] > copy.answered["nodes"]
    assert len({moment.get("services") for moment in seen} - {None}) <= 3, "the first list, one change, the last list"


def test_namespaces_are_read_only_by_who_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Listening(Script):
        def __call__(self, request: httpx2.Request) -> httpx2.Response:
            asked.append(request.url.path)
            return super().__call__(request)

    follow(Listening([[service(1)]], []), port_is(80), monkeypatch)
    assert not any(path.endswith("/namespaces") for path in asked)
    copy = follow(Listening([[service(1)]], []), port_is(80), monkeypatch, with_namespaces=True)
    assert "/api/v1/namespaces" in asked
    assert {n.name for n in copy.namespaces} == {"shop"}
