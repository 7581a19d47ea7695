"""An edge node outside the cluster finds its settings in a file, or in the cluster's ConfigMap over a real connection."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml

from lbnode.errors import ConfigError
from lbnode.roles import from_outside
from lbnode.roles.from_outside import FromOutside
from tests.unit.lbnode.kube_objects import SETTINGS

VM = {"name": "vm1", "addresses": ["198.18.0.13"]}
WITH_VM = SETTINGS | {"outsideEdges": [VM]}
WAIT_SECONDS = 20.0


class Api:
    """Answers for one ConfigMap, which a test may change or take away."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] | None = WITH_VM
        self.asked: list[tuple[str, str]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.asked.append((self.path, self.headers.get("Authorization", "")))
                found = api.settings
                data = {"settings.json": json.dumps(found)}
                body = {"metadata": {"name": "samegate-settings"}, "data": data} if found else {"kind": "Status", "code": 404, "message": "not found"}  # fmt: skip
                text = json.dumps(body).encode()
                self.send_response(200 if found else 404)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def api() -> Iterator[Api]:
    served = Api()
    yield served
    served.stop()


@pytest.fixture
def kubeconfig(api: Api, tmp_path: Path) -> Path:
    file = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "rack",
        "contexts": [{"name": "rack", "context": {"cluster": "rack", "user": "vm1"}}],
        "clusters": [{"name": "rack", "cluster": {"server": f"http://127.0.0.1:{api.server.server_port}"}}],
        "users": [{"name": "vm1", "user": {"token": "a-token"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(file))
    return path


def test_settings_come_from_the_clusters_config_map_and_say_where_the_node_is(
    api: Api, kubeconfig: Path, tmp_path: Path
) -> None:
    outside = FromOutside(kubeconfig, "vm1", None, tmp_path / "kept")
    assert (outside.node_name, outside.node_address) == ("vm1", ip_address("198.18.0.13"))
    assert outside.settings.bgp.local_asn == SETTINGS["bgp"]["localAsn"]
    assert api.asked == [("/api/v1/namespaces/samegate-system/configmaps/samegate-settings", "Bearer a-token")]
    assert asyncio.run(outside.is_removed()) is False


def test_an_agent_starts_with_the_settings_it_kept_while_the_api_server_says_nothing(
    api: Api, kubeconfig: Path, tmp_path: Path
) -> None:
    FromOutside(kubeconfig, "vm1", None, tmp_path / "kept")
    api.settings = None
    assert FromOutside(kubeconfig, "vm1", None, tmp_path / "kept").settings.outside_edges[0].name == "vm1"
    with pytest.raises(ConfigError, match=r"settings: ConfigMap samegate-system/samegate-settings cannot be read"):
        FromOutside(kubeconfig, "vm1", None, tmp_path / "never")


def test_a_changed_config_map_is_taken_and_one_without_this_node_is_not(
    api: Api, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_outside, "COPY_SECONDS", 0.02)
    outside = FromOutside(kubeconfig, "vm1", None, tmp_path / "kept")

    async def follow() -> None:
        changed = asyncio.Event()
        _, *following = (tasks := outside.tasks(lambda: None, changed.set))
        tasks[0].close()  # the objects, which nobody serves here
        running = [asyncio.create_task(task) for task in following]
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                api.settings = WITH_VM | {"logLevel": "debug"}
                await changed.wait()
                assert (outside.settings.log_level, outside.settings_error) == ("debug", "")
                changed.clear()
                api.settings = SETTINGS | {"logLevel": "error"}
                await changed.wait()
                assert outside.settings.log_level == "debug", "the last good ones stay in force"
                assert "node vm1: is not among outsideEdges (none)" in outside.settings_error
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    asyncio.run(follow())


def test_settings_of_a_file_need_no_config_map(api: Api, kubeconfig: Path, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(WITH_VM))
    assert FromOutside(kubeconfig, "vm1", path, tmp_path / "kept").node_address == ip_address("198.18.0.13")
    assert api.asked == []
    with pytest.raises(ConfigError, match=r"node vm9: is not among outsideEdges \(vm1\). Add it there"):
        FromOutside(kubeconfig, "vm9", path, tmp_path / "kept")


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "cannot be read"), ("[", "cannot be read"), ("kind: Config\n", "kubeconfig")],
)
def test_a_kubeconfig_that_cannot_be_used_is_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        FromOutside(path, "vm1", tmp_path / "settings.json", tmp_path / "kept")
    with pytest.raises(ConfigError, match="cannot be read"):
        FromOutside(tmp_path / "nowhere", "vm1", tmp_path / "settings.json", tmp_path / "kept")
