"""Apps are carried unchanged, but for the images' names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.app import load, load_balancers, with_images
from components.naming import logical_name, type_token
from lbnode.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
APPS = sorted(p.name for p in (ROOT / "apps").iterdir() if p.is_dir())
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "shop", "namespace": "shop"},
    "spec": {
        "template": {
            "spec": {
                "initContainers": [{"name": "a", "image": "samegate"}],
                "containers": [{"name": "b", "image": "other:1"}],
            }
        }
    },
}


def test_only_named_images_are_replaced() -> None:
    changed = with_images(DEPLOYMENT, {"samegate": "r/s@sha256:1"})
    pod = changed["spec"]["template"]["spec"]
    assert [c["image"] for c in (*pod["initContainers"], *pod["containers"])] == ["r/s@sha256:1", "other:1"]
    assert DEPLOYMENT["spec"]["template"]["spec"]["initContainers"][0]["image"] == "samegate"  # type: ignore[index]


@given(st.dictionaries(st.sampled_from(["kind", "spec", "data", "x"]), st.none() | st.text(max_size=3) | st.just({})))
def test_an_object_without_containers_stays_as_it_is(value: dict[str, object]) -> None:
    value = {k: v for k, v in value.items() if not (k == "spec" and isinstance(v, str))}
    assert with_images(value, {"samegate": "x"}) == value


@pytest.mark.parametrize("app", APPS)
def test_an_app_is_what_its_files_say_and_nothing_else(app: str) -> None:
    documents = [d for f in sorted((ROOT / "apps" / app).glob("*.yaml")) for d in yaml.safe_load_all(f.read_text())]
    assert list(load(ROOT / "apps" / app)) == documents


@pytest.mark.parametrize("app", APPS)
def test_an_app_asks_for_a_balanced_address_and_runs_restricted(app: str) -> None:
    objects = {logical_name(m): m for m in load(ROOT / "apps" / app)}
    assert load_balancers(tuple(objects.values())) == (f"Service/{app}/{app}",)
    assert objects[f"Service/{app}/{app}"]["spec"]["loadBalancerClass"] == "samegate.dev/lb"
    assert objects[f"Namespace/{app}"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert objects[f"Deployment/{app}/{app}"]["spec"]["replicas"] > 1


def test_a_folder_without_manifests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no \*\.yaml"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "not YAML"), ("kind: Service", "no kind or no metadata.name"), ("- 1", "plain Kubernetes")]
)
def test_a_file_that_holds_no_objects_is_refused_by_its_name(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load(tmp_path)
    assert "x.yaml" in str(caught.value)


def test_an_object_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    one = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n"
    (tmp_path / "x.yaml").write_text(one + "---\n" + one)
    with pytest.raises(ConfigError, match="Namespace/a is there twice"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("version", "kind", "token"),
    [
        ("v1", "Service", "kubernetes:core/v1:Service"),
        ("apps/v1", "DaemonSet", "kubernetes:apps/v1:DaemonSet"),
        ("rbac.authorization.k8s.io/v1", "Role", "kubernetes:rbac.authorization.k8s.io/v1:Role"),
    ],
)
def test_a_type_is_spelt_as_the_kubernetes_provider_spells_it(version: str, kind: str, token: str) -> None:
    assert type_token({"apiVersion": version, "kind": kind}) == token


def test_a_name_tells_objects_apart_that_share_kind_or_name() -> None:
    def named(kind: str, namespace: str | None, name: str) -> str:
        return logical_name(
            {"kind": kind, "metadata": {"name": name, **({"namespace": namespace} if namespace else {})}}
        )

    names = [
        named("Role", "a", "b-c"),
        named("Role", "a-b", "c"),
        named("RoleBinding", "a", "b-c"),
        named("ClusterRole", None, "b-c"),
    ]
    assert len(set(names)) == len(names)
    assert names[0] == "Role/a/b-c"
