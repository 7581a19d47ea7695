"""Managed clusters."""

from __future__ import annotations

from collections.abc import Iterator

from policy.model import Parameters, Resource
from policy.rules.exposure import EKS


def private_endpoint(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """A managed cluster's API server has a private endpoint, and its nodes have no public addresses.

    Agents and kubelets then reach it without leaving the network, also while the way to the internet is down.
    """
    properties = resource.properties
    if resource.type == EKS:
        if (properties.get("vpcConfig") or {}).get("endpointPrivateAccess") is not True:
            yield "vpcConfig.endpointPrivateAccess is off. Set it"
        return
    private = properties.get("privateClusterConfig") or {}
    endpoints = properties.get("controlPlaneEndpointsConfig") or {}
    by_name = (endpoints.get("dnsEndpointConfig") or {}).get("allowExternalTraffic") is not None
    if private.get("enablePrivateEndpoint") is not True and not by_name:
        yield "neither privateClusterConfig.enablePrivateEndpoint nor a DNS endpoint is set. Set one"
    if private.get("enablePrivateNodes") is not True:
        yield "privateClusterConfig.enablePrivateNodes is off: nodes would have public addresses. Set it"


def control_plane_logs(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """A managed cluster keeps its control plane's logs.

    Who changed a Service, and why a node was taken away, is in no other place afterwards.
    """
    if resource.type == EKS:
        missing = set(parameters["eksLogTypes"]) - set(resource.properties.get("enabledClusterLogTypes") or [])
        if missing:
            yield f"enabledClusterLogTypes lacks {', '.join(sorted(missing))}. Add them"
        return
    components = (resource.properties.get("loggingConfig") or {}).get("enableComponents")
    if resource.properties.get("loggingService") == "none" or (components is not None and not len(components)):
        yield "logging is off. Leave loggingService out, or name components in loggingConfig"


def secrets_are_encrypted(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """A managed cluster encrypts its Secrets with a key of yours.

    BGP keys are Secrets; a copy of the control plane's disk is then worth nothing by itself.
    """
    if resource.type == EKS:
        if "secrets" not in ((resource.properties.get("encryptionConfig") or {}).get("resources") or []):
            yield "encryptionConfig does not cover `secrets`. Set it with a key"
    elif (resource.properties.get("databaseEncryption") or {}).get("state") != "ENCRYPTED":
        yield "databaseEncryption.state is not ENCRYPTED. Set it with a key"
