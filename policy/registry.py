"""All rules, in one place: name, check, what it is about, parameters. A name never changes, since configurations refer to it."""

from __future__ import annotations

from collections.abc import Mapping

from policy.model import ResourceRule, StackRule
from policy.rules import addresses, agent_settings, clusters, estate, exposure, nodes, routing, workloads

_EDGE: Mapping[str, object] = {"awsTags": {"samegate.dev/role": "edge"}, "gcpLabels": {"samegate-role": "edge"}}
_CLUSTERS = (exposure.EKS, exposure.GKE)

RULES: tuple[ResourceRule | StackRule, ...] = (
    StackRule("pools-apart", addresses.pools_are_apart),
    StackRule(
        "pools-fit-fabric",
        addresses.pools_fit_the_fabric,
        # AWS VPC quotas (Route Server: 100 in the FIB), Transit Gateway quotas (1,000 from an appliance); Cloud Router's unique prefixes are a
        # quota of the project, 250 in Google's example.
        {"routeServer": 100, "transitGatewayConnect": 1000, "cloudRouter": 250},
    ),
    StackRule("router-import-filter", routing.routers_filter_imports),
    StackRule("router-prefix-limit", routing.routers_limit_prefixes),
    StackRule("bfd-on-premises", routing.bfd_on_premises),
    ResourceRule("bfd-or-graceful-restart", agent_settings.bfd_or_graceful_restart, types=(agent_settings.CONFIG_MAP,)),
    ResourceRule(
        "hold-time",
        agent_settings.hold_time,
        {"minimumSeconds": 3, "maximumSeconds": 180},
        (agent_settings.CONFIG_MAP,),
    ),
    ResourceRule(
        "only-edge-nodes-forward",
        nodes.only_edge_nodes_forward,
        _EDGE,
        (nodes.AWS_INSTANCE, nodes.AWS_INTERFACE, nodes.GCP_INSTANCE, nodes.GCP_TEMPLATE),
    ),
    ResourceRule(
        "not-open-to-everybody",
        exposure.not_open_to_everybody,
        {"ports": [22, 179, 3784, 3785, 4784, 6443, 10250]},
        exposure.DOORS,
    ),
    ResourceRule("images-by-digest", workloads.images_by_digest),
    ResourceRule("no-privileged-pods", workloads.no_privileged_pods),
    ResourceRule(
        "only-the-roles-capabilities",
        workloads.only_the_roles_capabilities,
        {"capabilities": ["NET_ADMIN", "NET_RAW"], "bpfCapabilities": ["BPF", "PERFMON"]},
    ),
    ResourceRule("private-endpoint", clusters.private_endpoint, types=_CLUSTERS),
    ResourceRule(
        "control-plane-logs",
        clusters.control_plane_logs,
        {"eksLogTypes": ["api", "audit", "authenticator"]},
        _CLUSTERS,
    ),
    ResourceRule("secrets-encrypted", clusters.secrets_are_encrypted, types=_CLUSTERS),
    ResourceRule("metadata-by-token", nodes.metadata_by_token, types=(nodes.AWS_INSTANCE, nodes.AWS_TEMPLATE)),
    ResourceRule(
        "required-tags",
        estate.required_tags,
        {"awsTags": ["samegate.dev/stack"], "gcpLabels": ["samegate-stack"]},
        estate.TAGGED,
    ),
    ResourceRule(
        "state-protected",
        estate.state_is_protected,
        {
            "types": [
                "aws:eks/cluster:Cluster",
                "aws:kms/key:Key",
                "aws:ec2transitgateway/transitGateway:TransitGateway",
                "gcp:container/cluster:Cluster",
                "gcp:kms/cryptoKey:CryptoKey",
            ]
        },
    ),
    StackRule("enough-edge-nodes", nodes.enough_edge_nodes, {**_EDGE, "minimumNodes": 2, "minimumZones": 2}),
    StackRule("edge-nodes-one-at-a-time", nodes.edge_nodes_go_one_at_a_time, _EDGE),
    ResourceRule("host-key", nodes.host_key_is_set, types=nodes.REMOTE),
)
