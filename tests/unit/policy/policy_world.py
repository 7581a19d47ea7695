"""A stack that keeps every rule, and for each rule minimal changes that break it: the same for the rules by themselves and for the real engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

World = dict[str, Any]
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""How the engine writes a string that is not known at preview (pulumi's sdk/go/common/resource/plugin/rpc.go)."""
GOLDEN = Path(__file__).resolve().parents[2] / "golden/routers"
IMAGE = "registry.example.com/app@sha256:" + "ab" * 32
TAGS = {"samegate.dev/stack": "test"}
EDGE_TAGS = {**TAGS, "samegate.dev/role": "edge"}
LABELS = {"samegate-stack": "test"}

SETTINGS: dict[str, Any] = {
    "pools": [{"name": "public", "cidrs": ["203.0.113.0/26"], "aggregate": None}],
    "bgp": {
        "localAsn": 65010,
        "peers": [{"name": "tor1", "holdTimeSeconds": 9, "bfd": {"intervalMs": 300}, "gracefulRestart": None}],
    },
    "network": {"nodeCidrs": ["10.0.0.0/16"], "podCidrs": ["10.244.0.0/16"], "serviceCidrs": ["10.96.0.0/16"]},
}


def _pod(namespace: str, **container: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"template": {"spec": {"containers": [{"name": "web", "image": IMAGE, **container}]}}},
    }


def _edge_agents() -> dict[str, Any]:
    agents = _pod("samegate-system", securityContext={"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}})
    agents["metadata"]["name"] = "samegate-edge"
    agents["spec"]["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    return agents


_INSTANCE = {"metadataOptions": {"httpTokens": "required"}, "tags": EDGE_TAGS, "sourceDestCheck": False}
#: Name to type, inputs, and the options that differ from the default.
_RESOURCES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "settings": ("kubernetes:core/v1:ConfigMap", {"metadata": {"name": "samegate-settings"}, "data": {}}, {}),
    "agents": ("kubernetes:apps/v1:DaemonSet", _edge_agents(), {}),
    "web": ("kubernetes:apps/v1:Deployment", _pod("web"), {}),
    "vpc": ("aws:ec2/vpc:Vpc", {"cidrBlock": "10.0.0.0/16", "tags": TAGS}, {}),
    "subnet": ("aws:ec2/subnet:Subnet", {"cidrBlock": "10.0.1.0/24", "tags": TAGS}, {}),
    "interface": ("aws:ec2/networkInterface:NetworkInterface", {"sourceDestCheck": False, "tags": EDGE_TAGS}, {}),
    "edge-a": (
        "aws:ec2/instance:Instance",
        {**_INSTANCE, "availabilityZone": "eu-west-1a"},
        {"deleteBeforeReplace": True},
    ),
    "edge-b": (
        "aws:ec2/instance:Instance",
        {**_INSTANCE, "availabilityZone": "eu-west-1b"},
        {"deleteBeforeReplace": True, "dependencies": ["edge-a"]},
    ),
    "edge-c": (
        "gcp:compute/instance:Instance",
        {"zone": "europe-west1-b", "canIpForward": True, "labels": {**LABELS, "samegate-role": "edge"}},
        {"deleteBeforeReplace": True, "dependencies": ["edge-b"]},
    ),
    "workers": ("aws:ec2/launchTemplate:LaunchTemplate", {"metadataOptions": {"httpTokens": "required"}}, {}),
    "firewall": (
        "aws:ec2/securityGroup:SecurityGroup",
        {
            "tags": TAGS,
            "ingress": [
                {"protocol": "tcp", "fromPort": 443, "toPort": 443, "cidrBlocks": ["0.0.0.0/0"]},
                {"protocol": "tcp", "fromPort": 179, "toPort": 179, "cidrBlocks": ["10.0.0.0/16"]},
            ],
        },
        {},
    ),
    "eks": (
        "aws:eks/cluster:Cluster",
        {
            "tags": TAGS,
            "vpcConfig": {"endpointPrivateAccess": True, "endpointPublicAccess": False},
            "enabledClusterLogTypes": ["api", "audit", "authenticator"],
            "encryptionConfig": {"resources": ["secrets"]},
            "kubernetesNetworkConfig": {"serviceIpv4Cidr": "172.20.0.0/16"},
        },
        {"protect": True},
    ),
    "gke": (
        "gcp:container/cluster:Cluster",
        {
            "resourceLabels": LABELS,
            "privateClusterConfig": {"enablePrivateEndpoint": True, "enablePrivateNodes": True},
            "databaseEncryption": {"state": "ENCRYPTED"},
        },
        {"protect": True},
    ),
    "transit": (
        "aws:ec2transitgateway/transitGateway:TransitGateway",
        {"tags": TAGS, "transitGatewayCidrBlocks": ["10.1.0.0/24"]},
        {"protect": True},
    ),
    "connect": ("aws:ec2transitgateway/connect:Connect", {"tags": TAGS}, {}),
    "rules": (
        "gcp:compute/firewall:Firewall",
        {"sourceRanges": ["0.0.0.0/0"], "allows": [{"protocol": "tcp", "ports": ["80", "443"]}]},
        {},
    ),
    "join": ("command:remote:Command", {"connection": {"host": "10.0.0.9", "hostKey": "ssh-ed25519 AAAA"}}, {}),
}


def kept() -> World:
    """Resources by name, and the stack's outputs. Its routers are the generator's golden files, of every platform."""
    resources = {
        name: {"type": type_, "properties": deepcopy(properties), **options}
        for name, (type_, properties, options) in _RESOURCES.items()
    }
    world = {
        "resources": resources,
        "outputs": {
            "platform": "onprem",
            "edgeNodes": ["edge1", "edge2"],
            "routers": {f.name: {p.name: p.read_text() for p in f.iterdir()} for f in sorted(GOLDEN.iterdir())},
        },
    }
    say(world, lambda settings: None)
    return world


def say(world: World, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the agents' settings."""
    data = world["resources"]["settings"]["properties"]["data"]
    settings = json.loads(data.get("settings.json", "null")) or deepcopy(SETTINGS)
    change(settings)
    data["settings.json"] = json.dumps(settings)


@dataclass(frozen=True)
class Breach:
    """A minimal change, the rule that it breaks, and the resource that is told of it (None: the stack as a whole)."""

    rule: str
    what: str
    resource: str | None
    change: Callable[[World], object]

    def world(self) -> World:
        """The kept stack with the change."""
        world = kept()
        self.change(world)
        return world


def _put(resource: str, path: str, value: Any) -> Callable[[World], object]:
    def change(world: World) -> None:
        place = world["resources"][resource]
        *way, last = (int(key) if key.isdigit() else key for key in path.split("/"))
        for key in way:
            place = place[key]
        place[last] = value

    return change


def _loading_programs(resource: str, path: str = "/sys/fs/bpf") -> Callable[[World], object]:
    def change(world: World) -> None:
        pod = world["resources"][resource]["properties"]["spec"]["template"]["spec"]
        pod["volumes"] = [{"name": "bpf", "hostPath": {"path": path}}]
        pod["containers"][0]["volumeMounts"] = [{"name": "bpf", "mountPath": "/sys/fs/bpf"}]
        pod["containers"][0]["securityContext"] = {"capabilities": {"add": ["BPF", "PERFMON"]}}

    return change


def with_xdp() -> World:
    """The kept stack whose edge nodes forward by XDP."""
    world = kept()
    _loading_programs("agents")(world)
    return world


def _peer(**values: Any) -> Callable[[World], object]:
    return lambda world: say(world, lambda settings: settings["bgp"]["peers"][0].update(values))


def _pool(**values: Any) -> Callable[[World], object]:
    return lambda world: say(world, lambda settings: settings["pools"][0].update(values))


def _without(platform: str, *fragments: str) -> Callable[[World], object]:
    """A router's text without the lines that have one of the fragments."""

    def change(world: World) -> None:
        files = world["outputs"]["routers"][platform]
        for name, text in files.items():
            lines = text.splitlines(keepends=True)
            files[name] = "".join(line for line in lines if not any(fragment in line for fragment in fragments))

    return change


def _both_families_but(platform: str, without: str) -> Callable[[World], object]:
    """A router whose one session carries both families, in place of the golden ones, where one line of IPv6's is missing."""

    def change(world: World) -> None:
        for name, text in BOTH_FAMILIES[platform].items():
            assert text.count(without) == 1, (platform, without)
            world["outputs"]["routers"][platform] = {name: text.replace(without, "")}

    return change


#: One session for both families, the least that each platform must be told. From the platforms' manuals, by hand.
BOTH_FAMILIES: dict[str, dict[str, str]] = {
    "frr": {
        "frr.conf": """router bgp 65001
 neighbor EDGES peer-group
 neighbor EDGES remote-as 65010
 bgp listen range 198.51.100.0/24 peer-group EDGES
 address-family ipv4 unicast
  neighbor EDGES activate
  neighbor EDGES route-map IN in
  neighbor EDGES maximum-prefix 256
 exit-address-family
 address-family ipv6 unicast
  neighbor EDGES activate
  neighbor EDGES route-map IN6 in
  neighbor EDGES maximum-prefix 128
 exit-address-family
exit
"""
    },
    "eos": {
        "eos.conf": """router bgp 65001
   neighbor EDGES peer group
   neighbor EDGES maximum-routes 256
   bgp listen range 198.51.100.0/24 peer-group EDGES peer-filter AS
   address-family ipv4
      neighbor EDGES activate
      neighbor EDGES prefix-list IN in
   address-family ipv6
      neighbor EDGES activate
      neighbor EDGES prefix-list IN6 in
"""
    },
    "nx-os": {
        "nx-os.conf": """router bgp 65001
  neighbor 198.51.100.0/24
    remote-as 65010
    address-family ipv4 unicast
      prefix-list IN in
      maximum-prefix 256
    address-family ipv6 unicast
      prefix-list IN6 in
      maximum-prefix 128
"""
    },
    "bird": {
        "bird.conf": """protocol bgp edges {
  local as 65001;
  neighbor range 198.51.100.0/24 as 65010;
  ipv4 {
    import filter in4;
    import limit 256 action restart;
  };
  ipv6 {
    import filter in6;
    import limit 128 action restart;
  };
}
"""
    },
    "vyos": {
        "vyos.commands": """set protocols bgp listen range 198.51.100.0/24 peer-group EDGES
set protocols bgp peer-group EDGES address-family ipv4-unicast maximum-prefix 256
set protocols bgp peer-group EDGES address-family ipv4-unicast route-map import IN
set protocols bgp peer-group EDGES address-family ipv6-unicast maximum-prefix 128
set protocols bgp peer-group EDGES address-family ipv6-unicast route-map import IN6
"""
    },
    "junos": {
        "junos.set": """set protocols bgp group EDGES allow 198.51.100.0/24
set protocols bgp group EDGES import IN
set protocols bgp group EDGES family inet unicast accepted-prefix-limit maximum 256
set protocols bgp group EDGES family inet6 unicast accepted-prefix-limit teardown 100
set protocols bgp group EDGES family inet6 unicast accepted-prefix-limit maximum 128
"""
    },
}

_CONTAINER = "properties/spec/template/spec/containers/0"
BREACHES = (
    Breach("pools-apart", "a pool in the VPC", "vpc", _put("vpc", "properties/cidrBlock", "203.0.112.0/20")),
    Breach("pools-apart", "a pool in a subnet", "subnet", _put("subnet", "properties/cidrBlock", "203.0.113.0/28")),
    Breach(
        "pools-apart",
        "a pool in the pod range",
        "settings",
        lambda w: say(w, lambda s: s["network"].update(podCidrs=["203.0.113.0/24"])),
    ),
    Breach(
        "pools-apart",
        "a pool in the service range",
        "eks",
        _put("eks", "properties/kubernetesNetworkConfig/serviceIpv4Cidr", "203.0.113.0/24"),
    ),
    Breach("pools-fit-fabric", "more routes than Connect takes", "settings", _pool(cidrs=["198.18.0.0/20"])),
    Breach("pools-fit-fabric", "an aggregate on a cloud", "settings", _pool(aggregate={"length": 28})),
    Breach("bfd-on-premises", "a peer without BFD", "settings", _peer(bfd=None)),
    Breach("bfd-or-graceful-restart", "a peer with both", "settings", _peer(gracefulRestart={"restartSeconds": 20})),
    Breach("hold-time", "a hold time of two seconds", "settings", _peer(holdTimeSeconds=2)),
    Breach("hold-time", "no hold time", "settings", _peer(holdTimeSeconds=0)),
    Breach("only-edge-nodes-forward", "a worker's interface", "interface", _put("interface", "properties/tags", TAGS)),
    Breach(
        "only-edge-nodes-forward",
        "a worker's machine on GCP",
        "worker",
        lambda w: w["resources"].update(
            worker={"type": "gcp:compute/instance:Instance", "properties": {"canIpForward": True, "labels": LABELS}}
        ),
    ),
    *(
        Breach(
            "not-open-to-everybody",
            f"port {port} to everybody",
            "firewall",
            _put(
                "firewall",
                "properties/ingress/1",
                {"protocol": protocol, "fromPort": port, "toPort": port, "cidrBlocks": ["0.0.0.0/0"]},
            ),
        )
        for protocol, port in (("tcp", 179), ("udp", 3784), ("tcp", 22), ("tcp", 6443))
    ),
    Breach(
        "not-open-to-everybody",
        "every protocol to everybody over IPv6",
        "firewall",
        _put(
            "firewall",
            "properties/ingress/1",
            {"protocol": "-1", "fromPort": 0, "toPort": 0, "ipv6CidrBlocks": ["::/0"]},
        ),
    ),
    Breach(
        "not-open-to-everybody",
        "all TCP ports on GCP",
        "rules",
        _put("rules", "properties/allows/0", {"protocol": "tcp"}),
    ),
    Breach(
        "not-open-to-everybody",
        "EKS's API server to everybody",
        "eks",
        _put("eks", "properties/vpcConfig", {"endpointPrivateAccess": True}),
    ),
    Breach("images-by-digest", "an image by tag", "web", _put("web", f"{_CONTAINER}/image", "app:latest")),
    Breach(
        "no-privileged-pods",
        "a privileged container",
        "web",
        _put("web", f"{_CONTAINER}/securityContext", {"privileged": True}),
    ),
    Breach(
        "no-privileged-pods", "the node's processes", "web", _put("web", "properties/spec/template/spec/hostPID", True)
    ),
    Breach(
        "only-the-roles-capabilities",
        "a role's capability in another namespace",
        "web",
        _put("web", f"{_CONTAINER}/securityContext", {"capabilities": {"add": ["NET_ADMIN"]}}),
    ),
    Breach(
        "only-the-roles-capabilities",
        "another capability in our namespace",
        "agents",
        _put("agents", f"{_CONTAINER}/securityContext/capabilities/add", ["NET_ADMIN", "SYS_ADMIN"]),
    ),
    Breach(
        "only-the-roles-capabilities",
        "loading programs without the BPF file system",
        "agents",
        _put("agents", f"{_CONTAINER}/securityContext/capabilities/add", ["NET_ADMIN", "BPF"]),
    ),
    Breach(
        "only-the-roles-capabilities",
        "loading programs beside another mount of the same name",
        "agents",
        _loading_programs("agents", "/sys/fs"),
    ),
    Breach(
        "only-the-roles-capabilities",
        "loading programs in another namespace",
        "web",
        _loading_programs("web"),
    ),
    Breach(
        "private-endpoint",
        "EKS without a private endpoint",
        "eks",
        _put("eks", "properties/vpcConfig/endpointPrivateAccess", False),
    ),
    Breach(
        "private-endpoint",
        "GKE nodes with public addresses",
        "gke",
        _put("gke", "properties/privateClusterConfig/enablePrivateNodes", False),
    ),
    Breach(
        "control-plane-logs",
        "no audit log",
        "eks",
        _put("eks", "properties/enabledClusterLogTypes", ["api", "authenticator"]),
    ),
    Breach("control-plane-logs", "no logs on GKE", "gke", _put("gke", "properties/loggingService", "none")),
    Breach("secrets-encrypted", "EKS without a key", "eks", _put("eks", "properties/encryptionConfig", None)),
    Breach(
        "secrets-encrypted", "GKE without a key", "gke", _put("gke", "properties/databaseEncryption/state", "DECRYPTED")
    ),
    Breach(
        "metadata-by-token",
        "IMDSv1 on a machine",
        "edge-a",
        _put("edge-a", "properties/metadataOptions/httpTokens", "optional"),
    ),
    Breach("metadata-by-token", "IMDSv1 by default", "workers", _put("workers", "properties/metadataOptions", None)),
    Breach("required-tags", "a VPC of nobody", "vpc", _put("vpc", "properties/tags", {})),
    Breach("required-tags", "a GKE cluster of nobody", "gke", _put("gke", "properties/resourceLabels", None)),
    Breach("state-protected", "an unprotected cluster", "eks", _put("eks", "protect", False)),
    Breach(
        "host-key", "a machine known by its address only", "join", _put("join", "properties/connection/hostKey", "")
    ),
    Breach(
        "host-key",
        "a jump host known by its address only",
        "join",
        _put("join", "properties/connection/proxy", {"host": "10.0.0.1"}),
    ),
    Breach(
        "enough-edge-nodes",
        "one zone",
        None,
        lambda w: [
            w["resources"][f"edge-{n}"]["properties"].update({k: "eu-west-1a"})
            for n, k in (("a", "availabilityZone"), ("b", "availabilityZone"), ("c", "zone"))
        ],
    ),
    Breach(
        "enough-edge-nodes",
        "one edge node",
        None,
        lambda w: [w["resources"].pop(name) for name in ("edge-b", "edge-c")],
    ),
    Breach(
        "enough-edge-nodes",
        "one edge node on premises",
        None,
        lambda w: [w["resources"].pop(f"edge-{n}") for n in "abc"] + [w["outputs"].update(edgeNodes=["edge1"])],
    ),
    Breach("edge-nodes-one-at-a-time", "no chain", "edge-c", _put("edge-c", "dependencies", ["edge-a"])),
    Breach(
        "edge-nodes-one-at-a-time", "the address still taken", "edge-b", _put("edge-b", "deleteBeforeReplace", False)
    ),
    Breach(
        "edge-nodes-one-at-a-time",
        "agents two at a time",
        "agents",
        _put("agents", "properties/spec/updateStrategy/rollingUpdate/maxUnavailable", 2),
    ),
    *(
        Breach("router-import-filter", f"{platform} takes anything", None, _without(platform, *fragments))
        for platform, fragments in {
            "frr": ("SAMEGATE-IN in",),
            "bird": ("import filter samegate_in;",),
            "vyos": ("route-map import SAMEGATE-IN\n",),
            "nx-os": ("prefix-list SAMEGATE-VIPS in",),
            "ios-xe": ("prefix-list SAMEGATE-VIPS in",),
            "junos": ("group SAMEGATE-EDGES import",),
            "eos": ("prefix-list SAMEGATE-VIPS in",),
            "sonic": ("SAMEGATE-IN in",),
        }.items()
    ),
    *(
        Breach("router-prefix-limit", f"{platform} takes any number", None, _without(platform, *fragments))
        for platform, fragments in {
            "frr": ("EDGES maximum-prefix",),
            "bird": ("import limit 136",),
            "vyos": ("EDGES address-family ipv4-unicast maximum-prefix",),
            "nx-os": ("maximum-prefix 136",),
            "ios-xe": ("EDGES maximum-prefix",),
            "junos": ("group SAMEGATE-EDGES family inet unicast accepted-prefix-limit maximum",),
            "eos": ("EDGES maximum-routes",),
            "sonic": ("EDGES maximum-prefix",),
        }.items()
    ),
    *(
        Breach("router-import-filter", f"{platform} takes anything over IPv6", None, _both_families_but(platform, line))
        for platform, line in {
            "frr": "  neighbor EDGES route-map IN6 in\n",
            "eos": "      neighbor EDGES prefix-list IN6 in\n",
            "nx-os": "      prefix-list IN6 in\n",
            "bird": "    import filter in6;\n",
            "vyos": "set protocols bgp peer-group EDGES address-family ipv6-unicast route-map import IN6\n",
            "junos": "set protocols bgp group EDGES import IN\n",
        }.items()
    ),
    *(
        Breach(
            "router-prefix-limit", f"{platform} takes any number over IPv6", None, _both_families_but(platform, line)
        )
        for platform, line in {
            "frr": "  neighbor EDGES maximum-prefix 128\n",
            "eos": "   neighbor EDGES maximum-routes 256\n",
            "nx-os": "      maximum-prefix 128\n",
            "bird": "    import limit 128 action restart;\n",
            "vyos": "set protocols bgp peer-group EDGES address-family ipv6-unicast maximum-prefix 128\n",
            "junos": "set protocols bgp group EDGES family inet6 unicast accepted-prefix-limit maximum 128\n",
        }.items()
    ),
    Breach(
        "router-import-filter",
        "a router that nobody can read",
        None,
        lambda world: world["outputs"]["routers"].update(spine={"spine.conf": "anything"}),
    ),
)
