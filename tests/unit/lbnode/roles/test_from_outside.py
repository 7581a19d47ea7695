"""An edge node outside the cluster finds its settings in a file, or in the cluster's ConfigMap over a real connection."""

from __future__ import annotations

import asyncio
import base64
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
    """Answers for one ConfigMap and one Secret, which a test may change or take away."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] | None = WITH_VM
        self.keys: dict[str, bytes] | None = None
        self.asked: list[tuple[str, str]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.asked.append((self.path, self.headers.get("Authorization", "")))
                found: Any
                if self.path.endswith("/secrets/samegate-bgp-keys"):
                    # Kubernetes API reference, Secret: values of `data` are base64 (RFC 4648 section 4).
                    found, data = api.keys, {k: base64.b64encode(v).decode() for k, v in (api.keys or {}).items()}
                else:
                    found, data = api.settings, {"settings.json": json.dumps(api.settings)}
                body = {"metadata": {"name": "x"}, "data": data} if found else {"kind": "Status", "code": 404, "message": "not found"}  # fmt: skip
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


KEYED: dict[str, Any] = {
    **WITH_VM,
    "bgp": {"localAsn": 65010, "peers": [{**SETTINGS["bgp"]["peers"][0], "passwordKey": "tor"}]},
}


def _keys(outside: FromOutside) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in outside.key_directory.glob("*")}


def test_bgp_keys_come_from_the_clusters_secret_those_that_peers_name_and_for_their_owners_eyes(
    api: Api, kubeconfig: Path, tmp_path: Path
) -> None:
    api.settings, api.keys = KEYED, {"tor": b"se\xc3\xa7ret", "another": b"x"}
    outside = FromOutside(kubeconfig, "vm1", None, tmp_path / "kept", tmp_path / "none")
    assert _keys(outside) == {"tor": b"se\xc3\xa7ret"}
    assert [path.stat().st_mode & 0o777 for path in outside.key_directory.iterdir()] == [0o600]
    assert api.asked[-1] == ("/api/v1/namespaces/samegate-system/secrets/samegate-bgp-keys", "Bearer a-token")


def test_keys_are_kept_while_the_secret_cannot_be_read_and_go_when_no_peer_names_them(
    api: Api, kubeconfig: Path, tmp_path: Path
) -> None:
    def start() -> FromOutside:
        return FromOutside(kubeconfig, "vm1", None, tmp_path / "kept", tmp_path / "none")

    api.settings = KEYED
    assert _keys(start()) == {}, "an agent starts without them, and BIRD says what it misses"
    api.keys = {"tor": b"secret"}
    start()
    api.keys = None
    assert _keys(start()) == {"tor": b"secret"}
    api.settings = WITH_VM
    assert _keys(start()) == {}


def test_a_changed_key_is_taken(api: Api, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_outside, "COPY_SECONDS", 0.02)
    api.settings, api.keys = KEYED, {"tor": b"former"}
    outside = FromOutside(kubeconfig, "vm1", None, tmp_path / "kept", tmp_path / "none")

    async def follow() -> None:
        watching, *following = outside.tasks(lambda: None, lambda: None)
        watching.close()
        running = [asyncio.create_task(task) for task in following]
        api.keys = {"tor": b"new"}
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while (outside.key_directory / "tor").read_bytes() != b"new":
                    await asyncio.sleep(0.01)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    asyncio.run(follow())


def test_keys_that_somebody_else_brings_are_used_and_the_secret_is_not_asked_for(
    api: Api, kubeconfig: Path, tmp_path: Path
) -> None:
    api.settings, by_hand = KEYED, tmp_path / "bgp-keys"
    by_hand.mkdir()
    outside = FromOutside(kubeconfig, "vm1", None, tmp_path / "kept", by_hand)
    assert outside.key_directory == by_hand
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(KEYED))
    nowhere = tmp_path / "nowhere"
    assert FromOutside(kubeconfig, "vm1", path, tmp_path / "kept", nowhere).key_directory == nowhere
    assert not any("secrets" in asked for asked, _ in api.asked)


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
