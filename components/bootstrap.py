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


GCE_CREDENTIAL = ("/usr/bin/python3", "/etc/samegate/credential.py")
"""What the kubeconfig of an edge VM runs; its first-boot script writes the file."""


def gce_edge_node(image: str, node_name: str, kubeconfig: str) -> str:
    """Start-up script of an edge VM outside the cluster: kernel modules, then agent and BIRD as containers under systemd (docs/outside-edges.md).

    ``node_name`` is its name in ``outsideEdges``. The script holds no settings of the load balancer: the agent reads those from the ConfigMap, with
    the credential of the VM's service account (:data:`GCE_CREDENTIAL`). It runs at each boot, and then finds everything as it is.
    """
    agent = (
        "--volume /var/lib/samegate:/var/lib/samegate --volume /proc/sys/net:/host/proc/sys/net --volume /run/xtables.lock:/run/xtables.lock "
        # The image has no authorities of the public, and one of these has signed for the API server's name.
        f"--volume {_AUTHORITIES}:{_AUTHORITIES}:ro --env SSL_CERT_FILE={_AUTHORITIES}"
    )
    files = {
        "/etc/systemd/system/samegate-modules.service": modules_unit("samegate-edge.service"),
        "/etc/systemd/system/samegate-image.service": _IMAGE_UNIT,
        "/etc/systemd/system/samegate-bird.service": _container_unit(
            "bird",
            "--entrypoint /usr/local/bin/bird-supervisor",
            f"{image} /run/samegate",
            ("samegate-image.service",),
            (),
        ),
        "/etc/systemd/system/samegate-edge.service": _container_unit(
            "edge",
            agent,
            f"{image} run edge --kubeconfig /etc/samegate/kubeconfig --node {node_name}",
            ("samegate-modules.service", "samegate-image.service"),
            # Not required: what befalls BIRD is no reason to end the agent.
            ("samegate-bird.service",),
        ),
        "/etc/samegate/kubeconfig": kubeconfig,
        GCE_CREDENTIAL[1]: _METADATA_CREDENTIAL,
        "/etc/samegate/fetch-image": _fetch_image(image),
    }
    # RFC 4648 text: whatever is in the files, the shell sees nothing of it.
    writes = "\n".join(
        f"install -D -m 0600 /dev/stdin {path} < <(base64 -d <<< {base64.b64encode(text.encode()).decode()})"
        for path, text in files.items()
    )
    units = " ".join(f"samegate-{name}.service" for name in ("modules", "image", "bird", "edge"))
    return (
        "#!/bin/bash\nset -euo pipefail\n"
        f"{writes}\n"
        "systemctl daemon-reload\n"
        f"systemctl enable {units}\n"
        # Fetching takes as long as it takes; the script of a boot need not.
        f"systemctl start --no-block {units}\n"
    )


_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""Debian's and Ubuntu's bundle (package ca-certificates)."""

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

_IMAGE_UNIT = """[Unit]
Description=Image of samegate
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /etc/samegate/fetch-image

[Install]
WantedBy=multi-user.target
"""


def _fetch_image(image: str) -> str:
    """A shell script that ends once podman and the image are there. Google's registries are asked with the VM's own credential."""
    registry = image.split("/")[0]
    login = ""
    # Nobody else's registry, however alike its name, is shown the VM's token.
    if registry == "gcr.io" or registry.endswith((".gcr.io", ".pkg.dev")):
        of_credential = "import json, sys; print(json.load(sys.stdin)['status']['token'])"
        # By standard input: an argument is visible to every process of the machine.
        login = (
            f'{" ".join(GCE_CREDENTIAL)} | python3 -c "{of_credential}" '
            f"| podman login --username oauth2accesstoken --password-stdin {registry} && "
        )
    return f"""#!/bin/sh
set -u
until command -v podman >/dev/null; do
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y podman || sleep 5
done
# A machine that boots without its registry has what it ran last.
podman image exists {image} && exit 0
until {login}podman pull --quiet {image}; do
    sleep 5
done
"""


def _container_unit(name: str, options: str, arguments: str, requires: Sequence[str], wants: Sequence[str]) -> str:
    """A container on the host's network with the privileges of the pod (docs/standalone.md, under a container engine)."""
    return f"""[Unit]
Description=samegate {name}
Wants={" ".join(("network-online.target", *wants))}
Requires={" ".join(requires)}
After={" ".join(("network-online.target", *requires, *wants))}
# Before the program has written settings and rights into the cluster the agent ends with an error, and some time they are there.
StartLimitIntervalSec=0

[Service]
ExecStartPre=/usr/bin/mkdir -p /run/samegate /var/lib/samegate
ExecStartPre=/usr/bin/touch /run/xtables.lock
ExecStart=/usr/bin/podman run --rm --replace --pull never --name samegate-{name} --network host --read-only --cap-drop ALL --cap-add NET_ADMIN \\
  --security-opt no-new-privileges --volume /run/samegate:/run/samegate --volume /etc/samegate:/etc/samegate:ro \\
  {options} \\
  {arguments}
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
