"""What agents, API servers and newer installations send is read, or refused by name; nothing else happens."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.command.bundle import clean
from lbnode.command.installed import read_settings
from lbnode.command.pages import Unreadable, read_node_page, read_status
from lbnode.errors import ConfigError
from tests.unit.lbnode.command.rack import RACK_SETTINGS, edge_page, edge_status
from tests.unit.lbnode.kube_objects import settings

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, inner in items for p in paths(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], by)
    return copy


@given(st.data(), JSON)
def test_a_page_with_any_value_in_any_place_is_read_or_refused(data: st.DataObject, value: Any) -> None:
    for page, read in ((edge_status("edge1"), read_status), (edge_page(), read_node_page)):
        broken = replaced(page, data.draw(st.sampled_from(paths(page))), value)
        with suppress(Unreadable):
            read(broken)


def test_a_refused_page_names_the_field() -> None:
    page = edge_status("edge1", vip={"announce": "perhaps"})
    with pytest.raises(Unreadable, match=r"vips\.203\.0\.113\.10\.announce"):
        read_status(page)


# pydantic hands true and false to ipaddress, which takes them for numbers.
@pytest.mark.filterwarnings("ignore:__int__ returned non-int:DeprecationWarning")
@given(st.data(), JSON)
def test_settings_with_any_value_in_any_place_are_read_without_it_or_refused(data: st.DataObject, value: Any) -> None:
    broken = replaced(RACK_SETTINGS, data.draw(st.sampled_from(paths(RACK_SETTINGS))), value)
    with suppress(ConfigError):
        read_settings(json.dumps(broken), "ConfigMap")


@given(st.text(max_size=8), JSON)
def test_an_unknown_key_changes_nothing_that_is_known(key: str, value: Any) -> None:
    known = settings().model_dump(by_alias=True)
    read, notes = read_settings(json.dumps({f"of the future {key}": value, **json.loads(settings().to_json())}), "it")
    assert read.model_dump(by_alias=True) == known
    assert len(notes) == 1


def test_settings_as_they_are_now_are_read_without_a_note() -> None:
    read, notes = read_settings(settings().to_json(), "it")
    assert (read, notes) == (settings(), [])


@given(JSON)
def test_cleaning_twice_is_cleaning_once(value: Any) -> None:
    assert clean(clean(value)) == clean(value)


@pytest.mark.parametrize(
    "value",
    [
        {"password": "s3cret"},
        {"metadata": {"annotations": {"example.com/api-token": "s3cret"}}},
        {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{'a': 's3cret'}"}},
        {"env": [{"name": "DB_PASSWORD", "value": "s3cret"}]},
        {"data": {"settings.json": '{"bgp": {"md5Key": "s3cret"}}'}},
        {"args": ["--header", "Authorization: Bearer s3crets3cret"]},
        ['  password "s3cret";'],
    ],
)
def test_a_secret_does_not_pass(value: Any) -> None:
    assert "s3cret" not in json.dumps(clean(value))


def test_what_is_no_secret_passes() -> None:
    value = {
        "name": "web",
        "spec": {"ports": [{"port": 80}]},
        "data": {"settings.json": '{"a": [1, 2]}'},
        "monkey": "banana",
    }
    cleaned = clean(value)
    assert json.loads(cleaned["data"].pop("settings.json")) == {"a": [1, 2]}
    del value["data"]["settings.json"]  # type: ignore[attr-defined]
    assert cleaned == value
