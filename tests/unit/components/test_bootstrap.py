"""First-boot data: what the machines' own readers make of it."""

from __future__ import annotations

import base64
import email
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from components.bootstrap import EDGE_MODULES, GCE_CREDENTIAL, eks_edge_node, exec_kubeconfig, gce_edge_node

ROOT = Path(__file__).resolve().parents[3]
IMAGE = "registry.example.com/samegate@sha256:" + "ab" * 32


def _parts() -> dict[str, str]:
    text = eks_edge_node(
        "samegate",
        "https://api",
        "Q0E=",
        "172.20.0.0/16",
        {"samegate.dev/role": "edge"},
        "samegate.dev/edge=:NoSchedule",
    )
    # Python's own MIME reader is what cloud-init uses.
    return {part.get_content_type(): str(part.get_payload()) for part in email.message_from_string(text).walk()}


def test_nodeadm_finds_its_node_config() -> None:
    node = yaml.safe_load(_parts()["application/node.eks.aws"])
    assert (node["apiVersion"], node["kind"]) == ("node.eks.aws/v1alpha1", "NodeConfig")
    # EKS user guide, nodeadm: these four are the least.
    assert node["spec"]["cluster"] == {
        "name": "samegate",
        "apiServerEndpoint": "https://api",
        "certificateAuthority": "Q0E=",
        "cidr": "172.20.0.0/16",
    }
    assert "--node-labels=samegate.dev/role=edge" in node["spec"]["kubelet"]["flags"]
    assert "--register-with-taints=samegate.dev/edge=:NoSchedule" in node["spec"]["kubelet"]["flags"]


def test_the_kubelet_waits_for_the_kernel_modules() -> None:
    cloud = yaml.safe_load(_parts()["text/cloud-config"])
    unit = cloud["write_files"][0]["content"]
    assert "RequiredBy=kubelet.service" in unit
    assert "Before=kubelet.service" in unit
    assert all(module in unit for module in EDGE_MODULES)


def test_user_data_fits_what_ec2_takes_and_is_the_same_every_time() -> None:
    one = eks_edge_node("c", "https://api", "Q0E=" * 500, "172.20.0.0/16", {"b": "1", "a": "2"}, "t=:NoSchedule")
    other = eks_edge_node("c", "https://api", "Q0E=" * 500, "172.20.0.0/16", {"a": "2", "b": "1"}, "t=:NoSchedule")
    assert one == other
    # EC2 user guide, user data: 16 KB.
    assert len(one.encode()) < 16384


def _files(image: str = IMAGE, node: str = "samegate-edge1") -> dict[str, str]:
    """What the start script of an edge VM writes: path to content."""
    script = gce_edge_node(image, node, exec_kubeconfig("c", "https://api", "", GCE_CREDENTIAL))
    found = re.findall(r"/dev/stdin (\S+) < <\(base64 -d <<< ([A-Za-z0-9+/=]+)\)", script)
    return {path: base64.b64decode(text).decode() for path, text in found}


EDGE_UNIT, BIRD_UNIT = (f"/etc/systemd/system/samegate-{name}.service" for name in ("edge", "bird"))


def test_shells_accept_the_start_script_and_no_setting_of_the_load_balancer_is_in_it() -> None:
    script = gce_edge_node(IMAGE, "samegate-edge1", "{}")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for image in (IMAGE, GOOGLES):
        subprocess.run(["sh", "-n"], input=_files(image)["/etc/samegate/fetch-image"], text=True, check=True)
    assert not any("localAsn" in file or "cidrs" in file for file in _files().values())


def test_the_agent_of_a_vm_runs_as_the_page_about_outside_edge_nodes_says() -> None:
    page = (ROOT / "docs/outside-edges.md").read_text()
    (said,) = re.findall(r"^python3 -m lbnode (run edge --kubeconfig \S+ --node) vm1", page, re.MULTILINE)
    assert f"{IMAGE} {said} samegate-edge1\n" in _files()[EDGE_UNIT]
    assert {path for path in _files() if path in said} == {"/etc/samegate/kubeconfig"}


def test_bird_has_the_entry_point_that_standalone_containers_have() -> None:
    page = (ROOT / "docs/standalone.md").read_text()
    (entry, arguments) = re.findall(r"--name samegate-bird (--entrypoint \S+) IMAGE (\S+)", page)[0]
    command = _files()[BIRD_UNIT].replace(" \\\n ", "")
    assert entry in command
    assert command.index(entry) < command.index(f"{IMAGE} {arguments}\n")


def test_the_edge_agent_starts_only_after_its_kernel_modules_and_tries_again_for_ever() -> None:
    unit = _files()[EDGE_UNIT]
    assert "Requires=samegate-modules.service samegate-image.service" in unit
    # systemd.unit(5): 0 switches the limit of starts off.
    assert "StartLimitIntervalSec=0" in unit
    assert "Restart=always" in unit


def test_both_containers_have_the_privileges_of_the_pod() -> None:
    for unit in (_files()[EDGE_UNIT], _files()[BIRD_UNIT]):
        assert re.findall(r"--cap-\S+ \S+", unit) == ["--cap-drop ALL", "--cap-add NET_ADMIN"]
        assert "--security-opt no-new-privileges" in unit
        assert "--read-only" in unit
        assert "--privileged" not in unit


GOOGLES = "europe-docker.pkg.dev/project/repository/samegate@sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("registry", "shown"),
    [
        ("europe-docker.pkg.dev", True),
        ("gcr.io", True),
        ("eu.gcr.io", True),
        ("registry.example.com", False),
        ("notgcr.io", False),
        ("pkg.dev.example.com", False),
    ],
)
def test_only_googles_registries_are_shown_the_token_of_the_vm(registry: str, shown: bool) -> None:
    script = _files(f"{registry}/samegate@sha256:{'ab' * 32}")["/etc/samegate/fetch-image"]
    assert ("podman login" in script) == shown
    assert ("credential.py" in script) == shown


def test_the_credential_of_a_vm_is_what_clients_of_kubernetes_read(tmp_path: Path) -> None:
    # In the place of the metadata server: what Google's documentation says that it answers.
    opened = 'class Answer:\n    @staticmethod\n    def read(): return b\'{"access_token": "t", "expires_in": 3599}\'\n'
    instead = f"import urllib.request\n{opened}urllib.request.urlopen = lambda ask, timeout: Answer\n"
    program = tmp_path / "credential.py"
    program.write_text(instead + _files()["/etc/samegate/credential.py"])
    said = json.loads(subprocess.run([sys.executable, program], capture_output=True, text=True, check=True).stdout)
    assert (said["apiVersion"], said["kind"]) == ("client.authentication.k8s.io/v1", "ExecCredential")
    assert said["status"]["token"] == "t"
    expires = datetime.strptime(said["status"]["expirationTimestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert timedelta(minutes=58) < expires - datetime.now(UTC) < timedelta(hours=1)


def test_a_kubeconfig_names_no_token_and_no_authority_where_a_public_one_serves() -> None:
    config = json.loads(exec_kubeconfig("c", "https://api", "", ("python", "-m", "x"), "http://proxy"))
    assert config["clusters"][0]["cluster"] == {"server": "https://api", "proxy-url": "http://proxy"}
    assert config["users"][0]["user"].keys() == {"exec"}
