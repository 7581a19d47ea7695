"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler as processes in the control namespace."""

from __future__ import annotations

import shutil

import tools
from lab import netns, processes, topology
from lab.credentials import CA, KUBECONFIGS, KUBELET_CLIENT, PKI, TOKENS
from lab.processes import Daemon

ETCD_DATA = topology.STATE / "etcd"
_ETCD_CLIENT = "http://127.0.0.1:2379"
_ETCD_PEER = "http://127.0.0.1:2380"


def daemons() -> tuple[Daemon, ...]:
    """The four programs, in the order they start."""
    return (_etcd(), _apiserver(), _controller_manager(), _scheduler())


def _etcd() -> Daemon:
    argv = (
        str(tools.locate("etcd").resolve()),
        f"--data-dir={ETCD_DATA}",
        # The lab's cluster is thrown away with the lab: no write has to reach the disk.
        "--unsafe-no-fsync",
        f"--listen-client-urls={_ETCD_CLIENT}",
        f"--advertise-client-urls={_ETCD_CLIENT}",
        f"--listen-peer-urls={_ETCD_PEER}",
        f"--initial-advertise-peer-urls={_ETCD_PEER}",
        f"--initial-cluster=default={_ETCD_PEER}",
        "--log-level=warn",
    )
    return Daemon("etcd", topology.CONTROL, argv)


def _apiserver() -> Daemon:
    argv = (
        str(tools.locate("kube-apiserver").resolve()),
        f"--etcd-servers={_ETCD_CLIENT}",
        f"--bind-address={topology.CONTROL_ADDRESS}",
        f"--advertise-address={topology.CONTROL_ADDRESS}",
        f"--secure-port={topology.API_PORT}",
        f"--tls-cert-file={PKI / 'apiserver.crt'}",
        f"--tls-private-key-file={PKI / 'apiserver.key'}",
        f"--client-ca-file={CA}",
        f"--token-auth-file={TOKENS}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={topology.SERVICE_NETWORK},{topology.SERVICE_NETWORK6}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={PKI / 'service-account.pub'}",
        f"--service-account-signing-key-file={PKI / 'service-account.key'}",
        f"--kubelet-client-certificate={PKI / f'{KUBELET_CLIENT}.crt'}",
        f"--kubelet-client-key={PKI / f'{KUBELET_CLIENT}.key'}",
        f"--kubelet-certificate-authority={CA}",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged",
        "--profiling=false",
    )
    return Daemon("kube-apiserver", topology.CONTROL, argv, reads=(TOKENS, PKI / "apiserver.crt"))


def _controller_manager() -> Daemon:
    argv = (
        str(tools.locate("kube-controller-manager").resolve()),
        f"--kubeconfig={KUBECONFIGS / 'controller-manager.kubeconfig'}",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={PKI / 'service-account.key'}",
        f"--root-ca-file={CA}",
        f"--cluster-cidr={topology.POD_NETWORK},{topology.POD_NETWORK6}",
        "--allocate-node-cidrs=false",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--profiling=false",
    )
    return Daemon("kube-controller-manager", topology.CONTROL, argv)


def _scheduler() -> Daemon:
    argv = (
        str(tools.locate("kube-scheduler").resolve()),
        f"--kubeconfig={KUBECONFIGS / 'scheduler.kubeconfig'}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--profiling=false",
    )
    return Daemon("kube-scheduler", topology.CONTROL, argv)


def trouble() -> str | None:
    """The first program that is not running as wanted, or None."""
    for daemon in daemons():
        if reason := processes.trouble(daemon):
            return f"{daemon.name}: {reason}"
    return None


def start() -> None:
    """Start what does not run; what the cluster stores stays."""
    for daemon in daemons():
        if processes.trouble(daemon) is not None:
            processes.start(daemon)


def ready() -> bool:
    """Whether the API server answers /readyz with ok."""
    url = f"{topology.API_SERVER}/readyz"
    argv = ["curl", "--silent", "--fail", "--max-time", "3", "--cacert", str(CA), url]
    return netns.run(topology.CONTROL, argv, check=False).stdout == "ok"


def ready_trouble() -> str | None:
    """Why the API server does not serve yet, or None.

    Raises RuntimeError when a program has ended, with the end of its log: waiting would not help.
    """
    for daemon in daemons():
        if processes.pid_of(daemon.name) is None:
            lines = daemon.log.read_text(errors="replace").splitlines() if daemon.log.is_file() else []
            raise RuntimeError(f"{daemon.name} has ended; its log {daemon.log} ends: {' | '.join(lines[-2:])}")
    return None if ready() else "no answer from /readyz"


def stop_api_server(*, grace_seconds: float = 0.0) -> None:
    """End the API server alone: what the nodes and the load balancer do without it is under test."""
    processes.stop(_apiserver().name, grace_seconds=grace_seconds)


def start_api_server() -> None:
    """Start the API server again."""
    processes.start(_apiserver())


def remove() -> None:
    """Stop the control plane and delete what it stores."""
    for daemon in reversed(daemons()):
        processes.stop(daemon.name, grace_seconds=0)
    shutil.rmtree(ETCD_DATA, ignore_errors=True)
