"""Machines: who may forward, how they are reached and replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from policy.model import STACK, Finding, Parameters, Resource, Stack, readable

AWS_INSTANCE = "aws:ec2/instance:Instance"
AWS_TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"
AWS_INTERFACE = "aws:ec2/networkInterface:NetworkInterface"
GCP_INSTANCE = "gcp:compute/instance:Instance"
GCP_TEMPLATE = "gcp:compute/instanceTemplate:InstanceTemplate"
DAEMON_SET = "kubernetes:apps/v1:DaemonSet"
EDGE_DAEMON_SET = "samegate-edge"
REMOTE = ("command:remote:Command", "command:remote:CopyToRemote", "command:remote:CopyFile")


def is_edge(resource: Resource, parameters: Parameters) -> bool:
    """Whether a machine or interface is marked as an edge node's: by a tag on AWS, by a label on GCP."""
    wanted: Mapping[str, str] = parameters["awsTags"] if resource.type.startswith("aws:") else parameters["gcpLabels"]
    given = resource.properties.get("tags" if resource.type.startswith("aws:") else "labels") or {}
    return all(given.get(key) == value for key, value in wanted.items())


def only_edge_nodes_forward(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """Only edge nodes may send and take packets with addresses that are not their own.

    AWS's source/destination check and GCP's canIpForward are what stops a captured machine from speaking with any address, a VIP among them.
    """
    open_ = resource.properties.get("canIpForward") is True or resource.properties.get("sourceDestCheck") is False
    if open_ and not is_edge(resource, parameters):
        yield (
            "it may forward foreign addresses and is not marked as an edge node. Leave sourceDestCheck on and canIpForward off, "
            f"or mark it: tags {dict(parameters['awsTags'])}, labels {dict(parameters['gcpLabels'])}"
        )


def metadata_by_token(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """An EC2 instance gives its metadata only to those who ask with a token (IMDSv2).

    With IMDSv1 any request that can be bent to 169.254.169.254, by a proxy or an app on the node, reads the node's credentials.
    """
    options = resource.properties.get("metadataOptions") or {}
    # A launch template has them in a list of one in some SDK versions.
    if not isinstance(options, Mapping):
        options = options[0] if len(options) else {}
    if options.get("httpEndpoint") != "disabled" and options.get("httpTokens") != "required":
        yield "metadataOptions.httpTokens is not `required`. Set it"


def host_key_is_set(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """A machine that is reached over SSH is known by its host key.

    Without it whoever answers at the address gets the commands, a join token among them.
    """
    connection = resource.properties.get("connection") or {}
    while connection is not None and len(connection):
        if not connection.get("hostKey"):
            yield f"the connection to {connection.get('host')} names no hostKey. Give the line that `ssh-keyscan` prints, compared by hand"
        connection = connection.get("proxy") or {}


def enough_edge_nodes(stack: Stack, parameters: Parameters) -> Iterator[Finding]:
    """There are at least minimumNodes edge nodes, and on clouds in at least minimumZones zones.

    Below two a single failure takes every VIP; in one zone the loss of the zone does. On premises the stack's output `edgeNodes` counts; racks are
    not known here.
    """
    machines = readable(
        stack.of(AWS_INSTANCE, GCP_INSTANCE),
        lambda r: (is_edge(r, parameters), r.properties.get("availabilityZone") or r.properties.get("zone")),
    )
    edges = [(resource, zone) for resource, (edge, zone) in machines if edge]
    if edges:
        # A zone that is given by the subnet alone is not known here.
        zones = {zone for _, zone in edges if zone is not None}
        if len(edges) < parameters["minimumNodes"]:
            yield Finding(f"{len(edges)} edge node(s). Have at least {parameters['minimumNodes']:g}")
        if zones and len(zones) < parameters["minimumZones"]:
            yield Finding(
                f"all edge nodes are in {', '.join(sorted(zones))}. Spread them over {parameters['minimumZones']:g} zones"
            )
        return
    for _, names in readable(stack.of(STACK), lambda resource: resource.properties.get("edgeNodes")):
        if names is not None and len(names) < parameters["minimumNodes"]:
            yield Finding(
                f"{len(names)} edge node(s) in platform.edgeNodes. Have at least {parameters['minimumNodes']:g}"
            )


def edge_nodes_go_one_at_a_time(stack: Stack, parameters: Parameters) -> Iterator[Finding]:
    """Edge nodes are replaced one at a time.

    Machines need a chain of dependencies (without it the engine replaces them together; seen) and deleteBeforeReplace, since the new one takes
    the old one's address. The DaemonSet of edge agents has maxUnavailable 1 and no surge: two agents cannot share a node's ports.
    """
    marked = readable(stack.of(AWS_INSTANCE, GCP_INSTANCE), lambda r: is_edge(r, parameters))
    edges = sorted((r for r, edge in marked if edge), key=lambda r: r.name)
    waits = {resource.urn: resource.dependencies for resource in stack.resources}
    for number, one in enumerate(edges):
        if not one.delete_before_replace:
            yield Finding(
                f"{one.name} has no deleteBeforeReplace: its address is still taken when the new one comes. Set it",
                one.urn,
            )
        for other in edges[number + 1 :]:
            if not (_reaches(one.urn, other.urn, waits) or _reaches(other.urn, one.urn, waits)):
                yield Finding(
                    f"{one.name} and {other.name} could be replaced together. Let each edge node depend on the one before",
                    other.urn,
                )
    for resource, strategy in readable(stack.of(DAEMON_SET), _strategy):
        if strategy is not None and strategy != ("RollingUpdate", "1", "0"):
            yield Finding(
                f"{EDGE_DAEMON_SET} has updateStrategy {' '.join(strategy)}, not RollingUpdate with maxUnavailable 1 and maxSurge 0. Set these",
                resource.urn,
            )


def _strategy(resource: Resource) -> tuple[str, str, str] | None:
    if (resource.properties.get("metadata") or {}).get("name") != EDGE_DAEMON_SET:
        return None
    strategy = (resource.properties.get("spec") or {}).get("updateStrategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    return (
        strategy.get("type", "RollingUpdate"),
        _count(rolling.get("maxUnavailable", 1)),
        _count(rolling.get("maxSurge", 0)),
    )


def _count(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _reaches(start: str, end: str, waits: Mapping[str, frozenset[str]]) -> bool:
    """Whether ``start`` waits for ``end``, directly or through others."""
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        for urn in waits.get(ahead.pop(), frozenset()) - seen:
            if urn == end:
                return True
            seen.add(urn)
            ahead.append(urn)
    return False
