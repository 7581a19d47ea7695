"""GCP as far as samegate uses it: what its API refuses. Sources are named at each rule."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar

from tests.providers.standin import sdk
from tests.providers.standin.aws import API_SERVER
from tests.providers.standin.cloud import Object, Refused, World
from tests.providers.standin.replacement import gcp_create_only
from tests.providers.standin.rules import Check, Rules, check_version_step, minor_version


def _token(module: str, name: str) -> str:
    return f"gcp:{module}/{name[:1].lower()}{name[1:]}:{name}"


NETWORK, SUBNET, ROUTER, NAT, INTERFACE, PEER = (
    _token("compute", n) for n in ("Network", "Subnetwork", "Router", "RouterNat", "RouterInterface", "RouterPeer")
)
ADDRESS, INSTANCE, GROUP, MEMBERSHIP, CHECK, BACKEND, RULE, ROUTE, FIREWALL = (
    _token("compute", n)
    for n in (
        "Address",
        "Instance",
        "InstanceGroup",
        "InstanceGroupMembership",
        "RegionHealthCheck",
        "RegionBackendService",
        "ForwardingRule",
        "Route",
        "Firewall",
    )
)
HUB, SPOKE = _token("networkconnectivity", "Hub"), _token("networkconnectivity", "Spoke")
CLUSTER, POOL = _token("container", "Cluster"), _token("container", "NodePool")
ACCOUNT, MEMBER, ROLE = (
    _token("serviceaccount", "Account"),
    "gcp:projects/iAMMember:IAMMember",
    "gcp:projects/iAMCustomRole:IAMCustomRole",
)
RING, KEY = _token("kms", "KeyRing"), _token("kms", "CryptoKey")

APPLIANCES_PER_SPOKE, PEERS_PER_ROUTER, ROUTERS_PER_REGION = 8, 128, 5
"""Network Connectivity Center quotas and Cloud Router quotas (clouds.md D17, D18)."""
_NAME = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")


def _blocks(subnet: Object) -> list[str]:
    ranges = subnet.inputs.get("secondaryIpRanges") or []
    return [subnet.inputs["ipCidrRange"], *(r["ipCidrRange"] for r in ranges)]


def _subnet(world: World, made: Object) -> None:
    for other in world.of(SUBNET):
        if other.inputs["network"] != made.inputs["network"]:
            continue
        for block in _blocks(made):
            for theirs in _blocks(other):
                if ip_network(block).overlaps(ip_network(theirs)):
                    raise Refused("invalid", f"Invalid IPCidrRange: {block} conflicts with {theirs} of {other.name}")
    made.outputs["gatewayAddress"] = str(ip_network(made.inputs["ipCidrRange"])[1])


def _address(world: World, made: Object) -> None:
    if made.inputs.get("addressType") != "INTERNAL":
        made.outputs["address"] = f"192.0.2.{world.made % 250 + 1}"
        return
    subnet = RULES.resolve(world, made.inputs["subnetwork"], "subnetwork", (SUBNET,))
    block, given = ip_network(subnet.inputs["ipCidrRange"]), made.inputs.get("address")
    if given is None:
        given = str(block[50 + world.made % 100])
    if ip_address(given) not in block:
        raise Refused("invalid", f"Requested internal IP address {given} is outside the subnetwork CIDR range {block}")
    # Google keeps the first two and the last two (VPC documentation, unusable addresses).
    if ip_address(given) in (block[0], block[1], block[-2], block[-1]):
        raise Refused("invalid", f"IP address {given} is reserved by Google")
    if any(a.properties.get("address") == given for a in world.of(ADDRESS)):
        raise Refused("resourceInUseByAnotherResource", f"IP address {given} is in use")
    made.outputs["address"] = given


def _instance(world: World, made: Object) -> None:
    zone = made.inputs["zone"]
    for nic in made.inputs["networkInterfaces"]:
        subnet = RULES.resolve(world, nic["subnetwork"], "subnetwork", (SUBNET,))
        if zone.rpartition("-")[0] != subnet.inputs["region"]:
            raise Refused("invalid", f"zone {zone} is not of the subnetwork's region {subnet.inputs['region']}")
        address = nic.get("networkIp")
        if address and ip_address(address) not in ip_network(subnet.inputs["ipCidrRange"]):
            raise Refused("invalid", f"{address} is outside {subnet.inputs['ipCidrRange']}")
        for other in world.of(INSTANCE):
            if address and any(n.get("networkIp") == address for n in other.inputs["networkInterfaces"]):
                raise Refused("resourceInUseByAnotherResource", f"{address} is in use by {other.name}")
    if not made.inputs.get("canIpForward") and any(
        i["virtualMachine"] == made.outputs["selfLink"] for s in world.of(SPOKE) for i in _linked(s)
    ):
        raise Refused("failedPrecondition", "canIpForward is needed while the VM is in a spoke")
    made.outputs |= {"instanceId": str(world.number()), "cpuPlatform": "Simulated"}


def _linked(spoke: Object) -> list[dict[str, Any]]:
    return list((spoke.inputs.get("linkedRouterApplianceInstances") or {}).get("instances") or [])


def _spoke(world: World, made: Object) -> None:
    linked = _linked(made)
    if len(linked) > APPLIANCES_PER_SPOKE:
        raise Refused(
            "quotaExceeded", f"{APPLIANCES_PER_SPOKE} router appliance instances per spoke, {len(linked)} are given"
        )
    for entry in linked:
        machine = RULES.resolve(world, entry["virtualMachine"], "virtualMachine", (INSTANCE,))
        if not machine.inputs.get("canIpForward"):
            raise Refused(
                "failedPrecondition", f"{machine.name} has no canIpForward: it must be on before it joins a spoke"
            )
        if machine.inputs["zone"].rpartition("-")[0] != made.inputs["location"]:
            raise Refused("invalid", f"{machine.name} is not in the spoke's location {made.inputs['location']}")
        if not any(n.get("networkIp") == entry["ipAddress"] for n in machine.inputs["networkInterfaces"]):
            raise Refused("invalid", f"{entry['ipAddress']} is no address of {machine.name}")
        for other in world.of(SPOKE):
            if any(o["virtualMachine"] == entry["virtualMachine"] for o in _linked(other)):
                raise Refused("alreadyExists", f"{machine.name} is in the spoke {other.name} already")


def _router(world: World, made: Object) -> None:
    siblings = [
        r
        for r in world.of(ROUTER)
        if (r.inputs["network"], r.inputs.get("region")) == (made.inputs["network"], made.inputs.get("region"))
    ]
    if len(siblings) >= ROUTERS_PER_REGION:
        raise Refused("quotaExceeded", f"{ROUTERS_PER_REGION} Cloud Routers per network and region")
    keepalive = (made.inputs.get("bgp") or {}).get("keepaliveInterval")
    # SDK documentation of Router.bgp.keepaliveInterval: between 20 and 60.
    if keepalive is not None and not 20 <= keepalive <= 60:
        raise Refused("invalid", f"keepaliveInterval {keepalive} is not between 20 and 60")


def _interface(world: World, made: Object) -> None:
    router = RULES.resolve(world, made.inputs["router"], "router", (ROUTER,))
    address = made.inputs.get("privateIpAddress")
    if address is not None:
        subnet = RULES.resolve(world, made.inputs["subnetwork"], "subnetwork", (SUBNET,))
        if ip_address(address) not in ip_network(subnet.inputs["ipCidrRange"]):
            raise Refused("invalid", f"{address} is outside {subnet.inputs['ipCidrRange']}")
        if subnet.inputs["network"] != router.inputs["network"]:
            raise Refused("invalid", "router and subnetwork are of different networks")
        if any(a.properties.get("address") == address for a in world.of(ADDRESS)):
            raise Refused("resourceInUseByAnotherResource", f"{address} is in use")
    redundant = made.inputs.get("redundantInterface")
    if redundant and not any(
        i.inputs["name"] == redundant and i.inputs["router"] == made.inputs["router"] for i in world.of(INTERFACE)
    ):
        raise Refused("invalid", f"redundantInterface {redundant!r} does not exist on the router")


def _peer(world: World, made: Object) -> None:
    router = RULES.resolve(world, made.inputs["router"], "router", (ROUTER,))
    siblings = [p for p in world.of(PEER) if p.inputs["router"] == made.inputs["router"]]
    if len(siblings) >= PEERS_PER_ROUTER:
        raise Refused("quotaExceeded", f"{PEERS_PER_ROUTER} BGP peers per Cloud Router")
    if not any(
        i.inputs["name"] == made.inputs["interface"] and i.inputs["router"] == made.inputs["router"]
        for i in world.of(INTERFACE)
    ):
        raise Refused("invalid", f"interface {made.inputs['interface']!r} does not exist on the router")
    if made.inputs["peerAsn"] == router.inputs["bgp"]["asn"]:
        raise Refused("invalid", "peerAsn is the router's own")
    appliance = made.inputs.get("routerApplianceInstance")
    if appliance is not None:
        machine = RULES.resolve(world, appliance, "routerApplianceInstance", (INSTANCE,))
        if (made.inputs.get("bfd") or {}).get("sessionInitializationMode", "DISABLED") != "DISABLED":
            raise Refused("invalid", "BFD is not supported for router appliance peers")
        if not any(e["virtualMachine"] == machine.outputs["selfLink"] for s in world.of(SPOKE) for e in _linked(s)):
            raise Refused("failedPrecondition", f"{machine.name} is in no spoke")


def _group_member(world: World, made: Object) -> None:
    machine = RULES.resolve(world, made.inputs["instance"], "instance", (INSTANCE,))
    if machine.inputs["zone"] != made.inputs["zone"]:
        raise Refused("invalid", f"{machine.name} is not in the group's zone")


def _rule(world: World, made: Object) -> None:
    scheme, protocol = made.inputs.get("loadBalancingScheme", "EXTERNAL"), made.inputs.get("ipProtocol", "TCP")
    service = RULES.resolve(world, made.inputs["backendService"], "backendService", (BACKEND,))
    if service.inputs.get("loadBalancingScheme") != scheme:
        raise Refused("invalid", "forwarding rule and backend service have different schemes")
    # Cloud Load Balancing documentation, protocols: L3_DEFAULT goes with UNSPECIFIED and all ports.
    if protocol == "L3_DEFAULT" and (
        service.inputs.get("protocol") != "UNSPECIFIED" or not made.inputs.get("allPorts")
    ):
        raise Refused("invalid", "L3_DEFAULT needs a backend service of protocol UNSPECIFIED, and all ports")


def _route(world: World, made: Object) -> None:
    for subnet in world.of(SUBNET):
        for block in _blocks(subnet):
            if subnet.inputs["network"] == made.inputs["network"] and ip_network(made.inputs["destRange"]).subnet_of(
                ip_network(block)
            ):  # type: ignore[arg-type]
                raise Refused("invalid", f"{made.inputs['destRange']} is inside the subnet route {block}")
    hop = made.inputs.get("nextHopIlb")
    if hop is not None:
        rule = RULES.resolve(world, hop, "nextHopIlb", (RULE,))
        if rule.inputs.get("loadBalancingScheme") != "INTERNAL" or rule.inputs.get("ipProtocol") == "L3_DEFAULT":
            raise Refused("invalid", "a next hop is an internal rule that is not L3_DEFAULT")
        service = RULES.resolve(world, rule.inputs["backendService"], "backendService", (BACKEND,))
        groups = {b["group"] for b in service.inputs.get("backends") or []}
        for member in world.of(MEMBERSHIP):
            group = RULES.resolve(world, member.inputs["instanceGroup"], "instanceGroup", (GROUP,))
            machine = RULES.resolve(world, member.inputs["instance"], "instance", (INSTANCE,))
            if group.outputs["selfLink"] in groups and not machine.inputs.get("canIpForward"):
                raise Refused("invalid", f"{machine.name} has no canIpForward")


def _cluster(world: World, made: Object) -> None:
    if made.inputs.get("enableAutopilot") and made.inputs.get("datapathProvider") == "LEGACY_DATAPATH":
        raise Refused("invalid", "Autopilot clusters use the advanced data path")
    subnet = RULES.resolve(world, made.inputs["subnetwork"], "subnetwork", (SUBNET,))
    names = {r["rangeName"] for r in subnet.inputs.get("secondaryIpRanges") or []}
    policy = made.inputs.get("ipAllocationPolicy") or {}
    for key in ("clusterSecondaryRangeName", "servicesSecondaryRangeName"):
        if key in policy and policy[key] not in names:
            raise Refused("invalid", f"{key} {policy[key]!r} is no secondary range of {subnet.name}")
    if (version := made.inputs.get("minMasterVersion")) is not None:
        check_version_step("failedPrecondition", made.outputs.get("masterVersion"), version)
    endpoint, authority = os.environ.get(API_SERVER, "https://192.0.2.1 ").split(" ", 1)
    config = made.inputs.get("controlPlaneEndpointsConfig") or {}
    dns = {**(config.get("dnsEndpointConfig") or {}), "endpoint": endpoint.removeprefix("https://")}
    made.outputs |= {
        "endpoint": endpoint.removeprefix("https://"),
        "masterAuth": {"clusterCaCertificate": authority},
        "controlPlaneEndpointsConfig": {**config, "dnsEndpointConfig": dns},
        "masterVersion": version,
    }


def _pool(world: World, made: Object) -> None:
    master = RULES.resolve(world, made.inputs["cluster"], "cluster", (CLUSTER,)).outputs.get("masterVersion")
    version = made.inputs.get("version") or master
    # Kubernetes' version skew policy: a kubelet is never newer than the API server.
    if master is not None and minor_version(version) > minor_version(master):
        raise Refused(
            "invalid", f'Node version "{version}" must not have a greater minor version than master version "{master}"'
        )


class Gcp(Rules):
    """GCP."""

    package = "gcp"
    in_use = "resourceInUseByAnotherResource"
    checks: ClassVar[Mapping[str, Check]] = {
        SUBNET: _subnet,
        ADDRESS: _address,
        INSTANCE: _instance,
        SPOKE: _spoke,
        ROUTER: _router,
        INTERFACE: _interface,
        PEER: _peer,
        MEMBERSHIP: _group_member,
        RULE: _rule,
        ROUTE: _route,
        CLUSTER: _cluster,
        POOL: _pool,
    }
    references: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        SUBNET: {"network": (NETWORK,)},
        ROUTER: {"network": (NETWORK,)},
        NAT: {"router": (ROUTER,)},
        INTERFACE: {"router": (ROUTER,), "subnetwork": (SUBNET,)},
        PEER: {"router": (ROUTER,), "routerApplianceInstance": (INSTANCE,)},
        ADDRESS: {"subnetwork": (SUBNET,)},
        INSTANCE: {"networkInterfaces.subnetwork": (SUBNET,), "serviceAccount.email": (ACCOUNT,)},
        GROUP: {"network": (NETWORK,)},
        MEMBERSHIP: {"instanceGroup": (GROUP,), "instance": (INSTANCE,)},
        BACKEND: {"healthChecks": (CHECK,), "backends.group": (GROUP,), "network": (NETWORK,)},
        RULE: {"backendService": (BACKEND,), "network": (NETWORK,), "subnetwork": (SUBNET,)},
        ROUTE: {"network": (NETWORK,), "nextHopIlb": (RULE,)},
        FIREWALL: {"network": (NETWORK,), "sourceServiceAccounts": (ACCOUNT,), "targetServiceAccounts": (ACCOUNT,)},
        SPOKE: {"hub": (HUB,)},
        CLUSTER: {"network": (NETWORK,), "subnetwork": (SUBNET,), "databaseEncryption.keyName": (KEY,)},
        POOL: {"cluster": (CLUSTER,), "nodeConfig.serviceAccount": (ACCOUNT,)},
        KEY: {"keyRing": (RING,)},
        **{token: {} for token in (NETWORK, HUB, CHECK, ACCOUNT, MEMBER, ROLE, RING)},
    }

    def automatic_name(self, token: str) -> str | None:
        return None if token in (ACCOUNT, MEMBER, ROLE, MEMBERSHIP) else "name"

    def findings(self, token: str, inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
        name = inputs.get("name")
        if (
            isinstance(name, str)
            and "name" in sdk.resource_type(token).inputs
            and not _NAME.match(name)
            and name != sdk.UNKNOWN
        ):
            return [("name", f"{name!r} does not match (?:[a-z](?:[-a-z0-9]{{0,61}}[a-z0-9])?)")]
        return []

    def identifier(
        self, world: World, token: str, name: str, inputs: Mapping[str, Any], config: Mapping[str, Any]
    ) -> str:
        world.number()
        project = inputs.get("project") or config.get("project")
        if not project:
            raise Refused("projectRequired", "the provider has no project")
        kind = token.rsplit(":", 1)[1]
        if token == MEMBER:
            return f"{project}/{inputs['role']}/{inputs['member']}"
        if token == ROLE:
            return f"projects/{project}/roles/{inputs['roleId']}"
        if token == ACCOUNT:
            return f"projects/{project}/serviceAccounts/{inputs['accountId']}@{project}.iam.gserviceaccount.com"
        scope = inputs.get("zone") and f"zones/{inputs['zone']}"
        scope = scope or (f"regions/{inputs.get('region') or inputs.get('location') or config.get('region')}")
        plural = f"{kind[:1].lower()}{kind[1:]}s"
        parts = [
            inputs[key].rsplit("/", 1)[-1] for key in ("router", "keyRing", "cluster", "instanceGroup") if key in inputs
        ]
        leaf = inputs.get("name") or str(inputs.get("instance", name)).rsplit("/", 1)[-1]
        return f"projects/{project}/{scope}/{plural}/{'/'.join([*parts, leaf])}"

    def outputs(self, world: World, made: Object, config: Mapping[str, Any]) -> dict[str, Any]:
        known = sdk.resource_type(made.token).outputs
        project = str(made.inputs.get("project") or config.get("project"))
        email = f"{made.inputs.get('accountId')}@{project}.iam.gserviceaccount.com"
        all_ = {
            "selfLink": f"https://www.googleapis.com/compute/v1/{made.identifier}",
            "project": project,
            "region": config.get("region"),
            "email": email if made.token == ACCOUNT else None,
        }
        return {k: v for k, v in all_.items() if k in known and v is not None}

    def resolve(self, world: World, value: Any, path: str, tokens: tuple[str, ...]) -> Object:
        for present in world.objects.values():
            names = (
                present.identifier,
                present.outputs.get("selfLink"),
                present.outputs.get("email"),
                present.inputs.get("name") if present.token in (ROUTER, GROUP) else None,
            )
            if value in names and present.token in tokens:
                return present
        raise Refused("notFound", f"The resource '{value}' was not found ({path}: {' or '.join(tokens)})")

    def replaces(self, token: str, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        return gcp_create_only(token, name)

    def secrets(self, token: str) -> frozenset[str]:
        return super().secrets(token) | ({"md5AuthenticationKey"} if token == PEER else frozenset())

    def users(self, world: World, present: Object) -> list[str]:
        names = {present.identifier, present.outputs.get("selfLink"), present.outputs.get("email")} - {None}
        # Cloud Router keeps a session whose VM is being replaced, and a spoke its member; groups lose theirs with it.
        if present.token == INSTANCE:
            return []
        return sorted({user for name in names for user in world.users(str(name))})


RULES = Gcp()
