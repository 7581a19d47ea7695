"""Which cluster a stack means, and whether it answers."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from components.onprem.cluster import ApiServer, answers, api_server, read_kubeconfig
from components.settings import OnPrem
from lbnode.errors import ConfigError

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: rack1
contexts:
- {name: rack1, context: {cluster: one, user: admin}}
- {name: rack2, context: {cluster: two, user: admin}}
- {name: broken, context: {cluster: absent, user: admin}}
clusters:
- {name: one, cluster: {server: "https://198.51.100.10:6443"}}
- {name: two, cluster: {server: "https://api.rack2.example.com"}}
"""


def _settings(file: str | None) -> OnPrem:
    return OnPrem(kubeconfig_file=file, edge_nodes=("edge1",))


def test_the_current_context_names_the_server() -> None:
    assert api_server(KUBECONFIG, None) == ApiServer("198.51.100.10", 6443)


def test_a_chosen_context_wins_and_https_has_port_443() -> None:
    assert api_server(KUBECONFIG, "rack2") == ApiServer("api.rack2.example.com", 443)


def test_an_unknown_context_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="broken, rack1, rack2"):
        api_server(KUBECONFIG, "rack3")


@pytest.mark.parametrize("text", ["", "just words", "[1, 2]", "{unclosed", "current-context: x"])
def test_a_text_that_is_no_kubeconfig_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        api_server(text, None)


def test_a_context_without_a_server_is_refused() -> None:
    with pytest.raises(ConfigError, match="no server"):
        api_server(KUBECONFIG, "broken")


def test_the_file_is_read_relative_to_the_project(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("text")
    assert read_kubeconfig(_settings("k"), tmp_path, None) == "text"


def test_a_file_that_does_not_exist_yet_is_no_error_before_the_first_up(tmp_path: Path) -> None:
    assert read_kubeconfig(_settings("k"), tmp_path, None) is None


def test_the_secret_is_used_where_no_file_is_named(tmp_path: Path) -> None:
    assert read_kubeconfig(_settings(None), tmp_path, "secret text") == "secret text"


@pytest.mark.parametrize(("file", "secret"), [("k", "secret text"), (None, None)])
def test_a_cluster_named_twice_or_not_at_all_is_refused(tmp_path: Path, file: str | None, secret: str | None) -> None:
    with pytest.raises(ConfigError, match="exactly one") as caught:
        read_kubeconfig(_settings(file), tmp_path, secret)
    assert "secret text" not in str(caught.value)


def test_a_listening_server_answers_and_a_closed_port_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answers(ApiServer("127.0.0.1", port))
    assert not answers(ApiServer("127.0.0.1", port), timeout_seconds=0.5)
