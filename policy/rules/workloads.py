"""Pods, whoever brings them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from policy.model import Parameters, Resource

NAMESPACE = "samegate-system"
BPF_DIRECTORY = "/sys/fs/bpf"
_PREFIX = "kubernetes:"
_DIGEST = "@sha256:"


def pod_of(resource: Resource) -> Mapping[str, Any] | None:
    """The pod spec of a Kubernetes object that has one."""
    if not resource.type.startswith(_PREFIX):
        return None
    spec = resource.properties.get("spec")
    match resource.type.rsplit(":", 1)[1]:
        case "Pod":
            pod = spec
        case "CronJob":
            pod = (((spec or {}).get("jobTemplate") or {}).get("spec") or {}).get("template", {}).get("spec")
        case "Deployment" | "DaemonSet" | "StatefulSet" | "ReplicaSet" | "Job" | "ReplicationController":
            pod = ((spec or {}).get("template") or {}).get("spec")
        case _:
            pod = None
    return pod if isinstance(pod, Mapping) else None


def containers_of(resource: Resource) -> Iterator[Mapping[str, Any]]:
    """All containers of its pods, those that only start among them."""
    pod = pod_of(resource) or {}
    for key in ("initContainers", "containers", "ephemeralContainers"):
        yield from pod.get(key) or []


def images_by_digest(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """Images are named by digest.

    A tag can be moved under a running stack: two edge nodes would run different code, and nobody could say since when.
    """
    for container in containers_of(resource):
        if _DIGEST not in str(container.get("image")):
            yield f"container {container.get('name')} has the image {container.get('image')}. Write NAME@sha256:DIGEST"


def no_privileged_pods(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """No container is privileged, and no pod shares the node's processes.

    The agents need single capabilities, and nothing else that is deployed here needs more.
    """
    pod = pod_of(resource) or {}
    for key in ("hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{key} is on. Take it out"
    for container in containers_of(resource):
        if (container.get("securityContext") or {}).get("privileged"):
            yield f"container {container.get('name')} is privileged. Name the capabilities it needs"


def only_the_roles_capabilities(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """Capabilities are added only in our namespace, and only those of the agents' roles.

    NET_ADMIN in any other namespace could rewrite what the agents programmed. Those for loading programs into the kernel go with the mount of the
    node's BPF file system, which only the edge's agent with dataplane xdp has.
    """
    metadata = resource.properties.get("metadata") or {}
    ours = metadata.get("namespace") == NAMESPACE
    volumes = {
        volume.get("name")
        for volume in (pod_of(resource) or {}).get("volumes") or []
        if (volume.get("hostPath") or {}).get("path") == BPF_DIRECTORY
    }
    for container in containers_of(resource):
        allowed = set(parameters["capabilities"]) if ours else set()
        if ours and any(mount.get("name") in volumes for mount in container.get("volumeMounts") or []):
            allowed |= set(parameters["bpfCapabilities"])
        added = ((container.get("securityContext") or {}).get("capabilities") or {}).get("add") or []
        for capability in sorted(set(added) - allowed):
            yield (
                f"container {container.get('name')} adds {capability}; allowed are {', '.join(sorted(parameters['capabilities']))}, in {NAMESPACE} only, "
                f"and {', '.join(sorted(parameters['bpfCapabilities']))} there beside a mount of {BPF_DIRECTORY}. Take it out"
            )
