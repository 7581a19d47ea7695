"""First-boot data: what the machines' own readers make of it."""

from __future__ import annotations

import base64
import email
import json
import re
import subprocess

import yaml

from components.bootstrap import EDGE_MODULES, eks_edge_node, exec_kubeconfig, gce_edge_node

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


def test_a_shell_accepts_the_start_script_and_no_setting_of_the_load_balancer_is_in_it() -> None:
    script = gce_edge_node(IMAGE, exec_kubeconfig("c", "https://api", "", ("python", "x")))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    files = [base64.b64decode(text).decode() for text in re.findall(r"<<< ([A-Za-z0-9+/=]+)\)", script)]
    assert sum(IMAGE in file for file in files) == 2
    assert not any("localAsn" in file or "cidrs" in file for file in files)


def test_the_edge_agent_starts_only_after_its_kernel_modules() -> None:
    script = gce_edge_node(IMAGE, "{}")
    files = [base64.b64decode(text).decode() for text in re.findall(r"<<< ([A-Za-z0-9+/=]+)\)", script)]
    unit = next(file for file in files if "run edge" in file)
    assert "Requires=samegate-modules.service" in unit
    assert "--cap-drop ALL --cap-add NET_ADMIN" in unit
    assert "--privileged" not in unit


def test_a_kubeconfig_names_no_token_and_no_authority_where_a_public_one_serves() -> None:
    config = json.loads(exec_kubeconfig("c", "https://api", "", ("python", "-m", "x"), "http://proxy"))
    assert config["clusters"][0]["cluster"] == {"server": "https://api", "proxy-url": "http://proxy"}
    assert config["users"][0]["user"].keys() == {"exec"}
