"""What a machine reads at boot to become its node: pure functions of the topology, written to its share.

The share is a directory of the host that the machine mounts read-only (hostfs), at /lab/node.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import topology
from lab.topology import Node

HERE = "/lab/node"
PAUSE_TAG = "1"

KERNEL_MODULES = (
    # On demand works too; these are loaded at boot because a pod's first rule must not wait for the disk.
    "ip_vs",
    "ip_vs_mh",
    "ip_vs_rr",
    "ipip",
    "ip6_tunnel",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "iptable_raw",
    "iptable_mangle",
    "iptable_nat",
    "iptable_filter",
    "ip6table_raw",
    "ip6table_mangle",
    "ip6table_nat",
    "ip6table_filter",
    "veth",
    "bridge",
)


IPV6_SYSCTLS = {
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv6.fib_multipath_hash_policy": "1",
    # Every address is given by hand or by the container network, and nobody advertises routers here.
    "net.ipv6.conf.vec0.accept_ra": "0",
    "net.ipv6.conf.vec0.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    # As over IPv4. Nothing keeps an IPv6 router from sending redirects: believing none is all there is. Written to "all",
    # this setting does not reach a device that is there already.
    **{f"net.ipv6.conf.{device}.accept_redirects": "0" for device in ("all", "default", "vec0")},
}


def setup_script(node: Node) -> str:
    """The shell script that gives the machine its addresses, routes and pod network."""
    tors = " ".join(f"nexthop via {tor.router_id}" for tor in topology.TORS)
    tors6 = " ".join(f"nexthop via {tor.address6}" for tor in topology.TORS)
    others = [other for other in topology.NODES if other != node]
    hosts = "\n".join(f"{other.address} {other.name}" for other in topology.NODES)
    lines = [
        "set -eu",
        f"modprobe -a {' '.join(KERNEL_MODULES)}",
        # Until the first pod is back, the node has no route of its own to its pods: it must not tell others to ask a ToR for them.
        "for d in all default vec0; do sysctl -qw net.ipv4.conf.$d.send_redirects=0 net.ipv4.conf.$d.accept_redirects=0; done",
        "ip link set lo up",
        f"sysctl -qw {' '.join(f'{key}={value}' for key, value in IPV6_SYSCTLS.items())}",
        f"ip link set vec0 mtu {topology.MTU_BYTES} up",
        f"ip address replace {node.address}/{topology.RACK_NETWORK.prefixlen} dev vec0",
        f"ip route replace default {tors}",
        *(f"ip route replace {other.pod_network} via {other.address}" for other in others),
        f"ip -6 address replace {node.address6}/{topology.RACK_NETWORK6.prefixlen} dev vec0",
        f"ip -6 route replace default {tors6}",
        *(f"ip -6 route replace {other.pod_network6} via {other.address6}" for other in others),
        # Volatile, as /run is: results of pods that died with the machine are of no use, and a file that was half written when its power
        # was cut would keep the kubelet from ever removing its pod.
        "mkdir -p /var/lib/cni",
        "mountpoint -q /var/lib/cni || mount -t tmpfs -o size=16m,mode=755 cni /var/lib/cni",
        # What pods write is on the disk within a second or two, so that a machine that loses its power loses little.
        "sysctl -qw vm.dirty_writeback_centisecs=100 vm.dirty_expire_centisecs=200",
        "mkdir -p /etc/cni/net.d",
        f"cp {HERE}/pods.conflist /etc/cni/net.d/10-pods.conflist",
        f"printf '127.0.0.1 localhost\\n%s\\n' '{hosts}' > /etc/hosts",
    ]
    return "\n".join(lines) + "\n"


def pod_network(node: Node) -> dict[str, Any]:
    """CNI: a bridge with the node's own ranges, one a family; nothing is masqueraded, routes between nodes are static."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "mtu": topology.MTU_BYTES,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(node.pod_network)}], [{"subnet": str(node.pod_network6)}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            # Volatile, so that the addresses of pods that died with the machine are free again after a boot.
            "dataDir": "/run/cni",
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, portmap]}


def kubelet_configuration() -> dict[str, Any]:
    """KubeletConfiguration: authentication and authorization by the API server, and little work while idle."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True, "cacheTTL": "10m"},
            "x509": {"clientCAFile": f"{HERE}/ca.crt"},
        },
        "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "10m"}},
        "tlsCertFile": f"{HERE}/kubelet.crt",
        "tlsPrivateKeyFile": f"{HERE}/kubelet.key",
        "clusterDNS": [str(topology.DNS_SERVICE_ADDRESS)],
        "clusterDomain": topology.CLUSTER_DOMAIN,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        # The kernel has no cpuset controller, without which the kubelet cannot enforce its own limits.
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "registerNode": True,
        "serializeImagePulls": False,
        "maxPods": 60,
        "nodeStatusUpdateFrequency": "10s",
        "nodeStatusReportFrequency": "5m",
        "nodeLeaseDurationSeconds": 40,
        # Mounted ConfigMaps follow their objects at this pace; the default of a minute makes every test of settings wait that long.
        "syncFrequency": "15s",
        "fileCheckFrequency": "5m",
        "volumeStatsAggPeriod": "10m",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "20Mi"},
        "shutdownGracePeriod": "0s",
    }


def kube_proxy_configuration(node: Node) -> dict[str, Any]:
    """KubeProxyConfiguration: iptables mode, health port on the node's address."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": f"{topology.POD_NETWORK},{topology.POD_NETWORK6}",
        "clientConnection": {"kubeconfig": f"{HERE}/kube-proxy.kubeconfig"},
        "healthzBindAddress": f"{node.address}:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # The size of the table is the kernel's own; 0 leaves it.
        "conntrack": {"maxPerCore": 0, "min": 0},
    }


def containerd_configuration() -> str:
    """containerd's TOML: images come from the lab's registry only."""
    return f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{topology.REGISTRY}/pause:{PAUSE_TAG}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{HERE}/certs.d"
"""


def registry_hosts() -> str:
    """containerd's hosts.toml: the registry speaks plain HTTP."""
    return f"""server = "http://{topology.REGISTRY}"
[host."http://{topology.REGISTRY}"]
  capabilities = ["pull", "resolve"]
"""


def files(node: Node, secrets: Mapping[str, Path]) -> dict[str, str]:
    """Every file of the node's share: path to content. `secrets` are files to take as they are."""
    rendered = {
        "setup": setup_script(node),
        # The kubelet's --node-ip takes one of each family.
        "environment": f"NODE_NAME={node.name}\nNODE_ADDRESS={node.address},{node.address6}\n",
        "pods.conflist": _json(pod_network(node)),
        "kubelet.yaml": _json(kubelet_configuration()),
        "kube-proxy.yaml": _json(kube_proxy_configuration(node)),
        "containerd.toml": containerd_configuration(),
        f"certs.d/{topology.REGISTRY}/hosts.toml": registry_hosts(),
    }
    return rendered | {name: path.read_text() for name, path in secrets.items()}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"
