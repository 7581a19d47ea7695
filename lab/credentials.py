"""The lab's throw-away credentials: a certificate authority, certificates, static tokens, kubeconfigs, SSH keys.

All of it lives under `.lab` and dies with it. What exists stays, so that a repaired lab keeps its identity.
"""

from __future__ import annotations

import base64
import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from lab import netns, topology
from lab.processes import write_text

PKI = topology.STATE / "pki"
KUBECONFIGS = topology.STATE / "kubeconfig"
SSH = topology.STATE / "ssh"
TOKENS = PKI / "tokens.csv"
CA = PKI / "ca.crt"
_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
_OPENSSL_CONFIGURATION = "[req]\ndistinguished_name = name\nprompt = no\n[name]\n"
KUBELET_CLIENT = "apiserver-kubelet-client"
_DAYS = "365"

USERS: Mapping[str, tuple[str, str]] = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", "system:node-proxier"),
    **{node.name: (f"system:node:{node.name}", "system:nodes") for node in topology.NODES},
}
"""Kubeconfig name to user and group; the groups are those that Kubernetes' own RBAC bindings know."""

SERVING_NAMES: Mapping[str, tuple[str, ...]] = {
    "apiserver": (
        "DNS:kubernetes",
        "DNS:kubernetes.default",
        "DNS:kubernetes.default.svc",
        f"DNS:kubernetes.default.svc.{topology.CLUSTER_DOMAIN}",
        "DNS:localhost",
        "IP:127.0.0.1",
        f"IP:{topology.CONTROL_ADDRESS}",
        f"IP:{topology.API_SERVICE_ADDRESS}",
    ),
    **{f"kubelet-{node.name}": (f"DNS:{node.name}", f"IP:{node.address}") for node in topology.NODES},
}


def _files() -> list[Path]:
    pairs = ["ca", KUBELET_CLIENT, *SERVING_NAMES]
    certificates = [PKI / f"{name}{suffix}" for name in pairs for suffix in (".crt", ".key")]
    kubeconfigs = [KUBECONFIGS / f"{name}.kubeconfig" for name in USERS]
    keys = [SSH / name for name in ("id_ed25519", "ssh_host_ed25519_key", "config", "known_hosts")]
    return [*certificates, PKI / "service-account.key", TOKENS, *kubeconfigs, *keys]


def trouble() -> str | None:
    """The first file that is missing, or None."""
    for path in _files():
        if not path.is_file() or path.stat().st_size == 0:
            return f"{path.name} missing"
    return None


def make() -> None:
    """Make what is missing; when the authority itself is, everything anew."""
    for directory in (PKI, KUBECONFIGS, SSH):
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
    if not (PKI / "ca.crt").is_file() or not (PKI / "ca.key").is_file():
        for stale in PKI.iterdir():
            stale.unlink()
        for stale in KUBECONFIGS.glob("*.kubeconfig"):
            stale.unlink()
        extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        _openssl(*_request(), "-days", _DAYS, "-subj", "/CN=samegate-lab", *extensions, *_out("ca"))
        _settle("ca")
    for name, alternatives in SERVING_NAMES.items():
        _certificate(name, f"/CN={name}", f"subjectAltName={','.join(alternatives)}", "serverAuth")
    # What this user may do at the kubelets is bound in cluster.py; it is not one of system:masters.
    _certificate(KUBELET_CLIENT, f"/CN=kube-{KUBELET_CLIENT}", "basicConstraints=CA:FALSE", "clientAuth")
    if not (PKI / "service-account.key").is_file():
        key = PKI / "service-account.making"
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", str(key))
        _openssl("pkey", "-in", str(key), "-pubout", "-out", str(PKI / "service-account.pub"))
        key.replace(PKI / "service-account.key")
    _make_tokens()
    _make_ssh_keys()


def _openssl(*arguments: str) -> None:
    netns.run(None, ["openssl", *arguments])


def _request() -> list[str]:
    # A configuration of our own: the machine's may add extensions, and Debian's makes every certificate an authority.
    configuration = PKI / "openssl.cnf"
    if not configuration.is_file():
        write_text(configuration, _OPENSSL_CONFIGURATION)
    return ["req", "-x509", "-config", str(configuration), *_CURVE]


def _out(name: str) -> list[str]:
    return ["-keyout", str(PKI / f"{name}.key.making"), "-out", str(PKI / f"{name}.crt.making")]


def _settle(name: str) -> None:
    # The certificate last: it is what says that the pair is whole.
    for suffix in (".key", ".crt"):
        made = PKI / f"{name}{suffix}.making"
        made.chmod(0o600)
        made.replace(PKI / f"{name}{suffix}")


def _certificate(name: str, subject: str, extension: str, usage: str) -> None:
    if (PKI / f"{name}.crt").is_file() and (PKI / f"{name}.key").is_file():
        return
    issuer = ["-CA", str(PKI / "ca.crt"), "-CAkey", str(PKI / "ca.key"), "-days", _DAYS]
    extensions = ["-addext", extension, "-addext", f"extendedKeyUsage={usage}"]
    _openssl(*_request(), *issuer, "-subj", subject, *extensions, *_out(name))
    _settle(name)


def _make_tokens() -> None:
    complete = TOKENS.is_file() and all((KUBECONFIGS / f"{name}.kubeconfig").is_file() for name in USERS)
    if complete:
        return
    lines = []
    for name, (user, group) in USERS.items():
        token = secrets.token_hex(16)
        lines.append(f'{token},{user},{name},"{group}"')
        write_text(KUBECONFIGS / f"{name}.kubeconfig", kubeconfig(token, CA.read_text()), mode=0o600)
    write_text(TOKENS, "\n".join(lines) + "\n", mode=0o600)


def kubeconfig(token: str, authority: str) -> str:
    """A kubeconfig for the lab's cluster (JSON, which is YAML)."""
    cluster = {
        "server": topology.API_SERVER,
        "certificate-authority-data": base64.b64encode(authority.encode()).decode(),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
        "current-context": "lab",
    }
    return json.dumps(config, indent=1) + "\n"


def _make_ssh_keys() -> None:
    for name in ("id_ed25519", "ssh_host_ed25519_key"):
        if not (SSH / name).is_file():
            (SSH / f"{name}.pub").unlink(missing_ok=True)
            netns.run(
                None, ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "samegate-lab", "-f", str(SSH / name)]
            )
    kind, key, *_ = (SSH / "ssh_host_ed25519_key.pub").read_text().split()
    hosts = "".join(f"{node.address} {kind} {key}\n" for node in topology.NODES)
    write_text(SSH / "known_hosts", hosts)
    write_text(SSH / "config", ssh_config(SSH))


def ssh_config(directory: Path) -> str:
    """The ssh_config(5) through which the lab reaches its machines; connections are shared and kept for a while."""
    lines = []
    for node in topology.NODES:
        lines += [f"Host {node.name}", f"  HostName {node.address}"]
    lines += [
        "Host *",
        "  User root",
        f"  IdentityFile {directory / 'id_ed25519'}",
        "  IdentitiesOnly yes",
        f"  UserKnownHostsFile {directory / 'known_hosts'}",
        "  StrictHostKeyChecking yes",
        "  BatchMode yes",
        "  ConnectTimeout 5",
        "  ControlMaster auto",
        f"  ControlPath {directory}/%n.socket",
        "  ControlPersist 600",
        "  ServerAliveInterval 3",
        "  ServerAliveCountMax 3",
        "  LogLevel ERROR",
    ]
    return "\n".join(lines) + "\n"


def remove() -> None:
    """Forget all credentials."""
    for directory in (PKI, KUBECONFIGS, SSH):
        shutil.rmtree(directory, ignore_errors=True)
