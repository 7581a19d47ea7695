"""First-boot data of nodes, as text. Pure: the same values give the same bytes, because other bytes replace the node."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence

import yaml

EDGE_MODULES = ("ip_vs", "ip_vs_mh", "ip_vs_wlc", "ip_gre", "ipip", "nf_conntrack", "xt_mark", "xt_CT")
"""What an edge node needs of its kernel; loaded before the kubelet, so that no agent starts on half a kernel."""
_BOUNDARY = "samegate-boot-data"


def modules_unit(before: str, modules: Sequence[str] = EDGE_MODULES) -> str:
    """A systemd unit that loads the modules, or fails; the unit named by ``before`` then does not start."""
    return f"""[Unit]
Description=Kernel modules of samegate
Before={before}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/modprobe -a {" ".join(modules)}

[Install]
RequiredBy={before}
"""


def eks_edge_node(
    cluster: str, endpoint: str, certificate_authority: str, service_cidr: str, labels: Mapping[str, str], taint: str
) -> str:
    """User data of an Amazon Linux 2023 node: a NodeConfig for `nodeadm` and a cloud-config, as one MIME message.

    The shutdown grace lets the agent withdraw and keep forwarding before the machine goes (kubelet, graceful node shutdown).
    """
    node = {
        "apiVersion": "node.eks.aws/v1alpha1",
        "kind": "NodeConfig",
        "spec": {
            "cluster": {
                "name": cluster,
                "apiServerEndpoint": endpoint,
                "certificateAuthority": certificate_authority,
                "cidr": service_cidr,
            },
            "kubelet": {
                "config": {"shutdownGracePeriod": "60s", "shutdownGracePeriodCriticalPods": "50s"},
                "flags": [
                    "--node-labels=" + ",".join(f"{k}={v}" for k, v in sorted(labels.items())),
                    f"--register-with-taints={taint}",
                ],
            },
        },
    }
    cloud = {
        "write_files": [
            {
                "path": "/etc/systemd/system/samegate-modules.service",
                "content": modules_unit("kubelet.service"),
                "permissions": "0644",
            }
        ],
        "runcmd": [["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", "samegate-modules.service"]],
    }
    return _mime(
        ("application/node.eks.aws", yaml.safe_dump(node, sort_keys=False)),
        ("text/cloud-config", "#cloud-config\n" + yaml.safe_dump(cloud, sort_keys=False)),
    )


def gce_edge_node(image: str, kubeconfig: str) -> str:
    """First-boot script of an edge VM outside the cluster: kernel modules, then agent and BIRD as containers under systemd.

    It holds no settings of the load balancer: the agent reads those from the ConfigMap, with the credential of the VM's service account.
    """
    # RFC 4648 text: whatever is in the files, the shell sees nothing of it.
    files = {
        "/etc/systemd/system/samegate-modules.service": modules_unit("samegate-edge.service"),
        "/etc/systemd/system/samegate-bird.service": _container_unit(
            "bird", image, "/usr/local/bin/bird-supervisor /run/samegate"
        ),
        "/etc/systemd/system/samegate-edge.service": _container_unit(
            "edge", image, "run edge", requires=("samegate-modules.service", "samegate-bird.service")
        ),
        "/etc/samegate/kubeconfig": kubeconfig,
        "/etc/samegate/credential.py": _METADATA_CREDENTIAL,
    }
    writes = "\n".join(
        f"install -D -m 0600 /dev/stdin {path} < <(base64 -d <<< {base64.b64encode(text.encode()).decode()})"
        for path, text in files.items()
    )
    return (
        "#!/bin/bash\nset -euo pipefail\n"
        f"{writes}\n"
        "systemctl daemon-reload\n"
        "systemctl enable --now samegate-modules.service samegate-bird.service samegate-edge.service\n"
    )


_METADATA_CREDENTIAL = """\
import datetime, json, urllib.request
ask = urllib.request.Request(
    "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token",
    headers={"Metadata-Flavor": "Google"},
)
token = json.load(urllib.request.urlopen(ask, timeout=5))
expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=token["expires_in"])
print(json.dumps({
    "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "spec": {},
    "status": {"token": token["access_token"], "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ")},
}))
"""
"""The VM's token as an exec credential, by the standard library alone: it runs in the agent's image."""


def _container_unit(name: str, image: str, command: str, requires: Sequence[str] = ()) -> str:
    ordered = (
        f"Requires={' '.join(requires)}\nAfter=network-online.target {' '.join(requires)}\n"
        if requires
        else "After=network-online.target\n"
    )
    return f"""[Unit]
Description=samegate {name}
Wants=network-online.target
{ordered}
[Service]
ExecStartPre=/usr/bin/mkdir -p /run/samegate /var/lib/samegate
ExecStart=/usr/bin/podman run --rm --replace --name samegate-{name} --network host --read-only --cap-drop ALL --cap-add NET_ADMIN \\
  --security-opt no-new-privileges --volume /run/samegate:/run/samegate --volume /var/lib/samegate:/var/lib/samegate \\
  --volume /etc/samegate:/etc/samegate:ro --volume /proc/sys/net:/host/proc/sys/net --volume /run/xtables.lock:/run/xtables.lock \\
  --env KUBECONFIG=/etc/samegate/kubeconfig --env NODE_NAME=%H {image} {command}
ExecStop=/usr/bin/podman stop --time 40 samegate-{name}
Restart=always
RestartSec=1
TimeoutStopSec=60

[Install]
WantedBy=multi-user.target
"""


def _mime(*parts: tuple[str, str]) -> str:
    # By hand: email.mime adds headers that differ between Python versions, and every byte counts.
    body = "".join(
        f'--{_BOUNDARY}\nContent-Type: {kind}; charset="utf-8"\nMIME-Version: 1.0\n\n{text}\n' for kind, text in parts
    )
    return f'Content-Type: multipart/mixed; boundary="{_BOUNDARY}"\nMIME-Version: 1.0\n\n{body}--{_BOUNDARY}--\n'


def exec_kubeconfig(
    name: str, server: str, certificate_authority: str, command: Sequence[str], proxy_url: str | None = None
) -> str:
    """A kubeconfig whose credential is fetched at every use, so that its text never changes.

    ``certificate_authority`` is base64; empty for a server with a certificate of a public authority.
    """
    cluster = {"server": server}
    if certificate_authority:
        cluster["certificate-authority-data"] = certificate_authority
    if proxy_url is not None:
        cluster["proxy-url"] = proxy_url
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [
                {
                    "name": name,
                    "user": {
                        "exec": {
                            "apiVersion": "client.authentication.k8s.io/v1",
                            "command": command[0],
                            "args": list(command[1:]),
                            "interactiveMode": "Never",
                        }
                    },
                }
            ],
        },
        indent=1,
        sort_keys=True,
    )
