"""Names that objects get on their way to the provider."""

from __future__ import annotations

from components.naming import with_field_manager

OWNER = "pulumi.com/patchFieldManager"


def test_an_object_gets_an_owner_beside_its_own_annotations_and_is_not_changed_itself() -> None:
    manifest = {"kind": "Service", "metadata": {"name": "web", "annotations": {"a": "b"}}, "spec": {"x": 1}}
    named = with_field_manager(manifest)
    assert named["metadata"] == {"name": "web", "annotations": {"a": "b", OWNER: "samegate"}}
    assert named["spec"] == {"x": 1}
    assert manifest["metadata"] == {"name": "web", "annotations": {"a": "b"}}


def test_an_owner_that_the_manifest_names_stays() -> None:
    manifest = {"kind": "Service", "metadata": {"name": "web", "annotations": {OWNER: "mine"}}}
    assert with_field_manager(manifest) == manifest


def test_an_object_without_annotations_gets_them() -> None:
    for metadata in ({"name": "web"}, {"name": "web", "annotations": None}):
        assert with_field_manager({"metadata": metadata})["metadata"]["annotations"] == {OWNER: "samegate"}
