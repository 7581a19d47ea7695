"""``samegate doctor``: what is wrong with the nodes under the load balancer, each finding with its way out. Pure.

One function a fault, from the view to its findings; nothing is asked here. A node whose agent does not tell what a check needs is passed over, and
:func:`silent_agents` tells of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from lbnode.command.answer import FINE, FOUND_SOMETHING, Answer, Cell, Table, Tone, row, toned
from lbnode.command.pages import Agent, MachineFacts, of_role
from lbnode.command.view import View
from lbnode.model import address_order
from lbnode.roles.surroundings import BGP_PORT, PROXY_MODE_PORT, edge_refusal, worker_refusal
from lbnode.translate.sysctls import SYSCTLS_OF, WORKER_NEEDS

#: Clocks that NTP keeps differ by milliseconds; at seconds, certificates and tokens of the future, and logs that cannot be put in order, begin.
CLOCK_SECONDS = 2.0
#: Beyond this share of its table connection tracking is about to drop new connections (nf_conntrack: "table full, dropping packet").
CONNTRACK_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong on a node (or ``cluster``), and the way out."""

    where: str
    what: str
    way_out: str


Check = Callable[[View], Iterator[Finding]]


def roles(view: View) -> Iterator[Finding]:
    """There has to be a node of each role, and Nodes have to be Ready."""
    for role, selector in (("edge", view.settings.edge_node_selector), ("worker", view.settings.worker_node_selector)):
        labels = " ".join(f"{k}={v}" for k, v in sorted(selector.items()))
        nodes = [n for n in view.snapshot.nodes.values() if n.matches(selector)]
        if not nodes:
            yield Finding(
                "cluster", f"no Node is a samegate {role} node", f"Label one: kubectl label node NODE {labels}"
            )
        for node in nodes:
            if node.ready != "True":
                yield Finding(
                    node.name,
                    f"the Node's Ready condition is {node.ready}",
                    "Look at its kubelet: kubectl describe node " + node.name,
                )


def silent_agents(view: View) -> Iterator[Finding]:
    """Every edge and worker node has an agent that answers, and one controller leads."""
    for agent in view.agents:
        if agent.status is None:
            yield Finding(
                agent.called,
                f"its {agent.role} agent does not answer: {agent.silence}",
                "kubectl -n samegate-system get pods -o wide, and the log of the pod on this node"
                if agent.pod
                else f"No pod runs there: kubectl -n samegate-system describe daemonset samegate-{agent.role} (taints, image)",
            )
        elif agent.role != "controller" and agent.machine is None:
            yield Finding(
                agent.called,
                "its agent is too old to tell what its node is: most checks pass it over",
                "Roll the agents' image forward",
            )
    controllers = of_role(view.agents, "controller")
    if controllers and not any(c.status is not None and c.status.leads for c in controllers):
        yield Finding(
            "cluster",
            "no controller leads: new Services get no address",
            "kubectl -n samegate-system get lease samegate-controller, and the controllers' logs",
        )


def agent_errors(view: View) -> Iterator[Finding]:
    """An agent whose last pass ended with an error, whose settings were refused, that is not ready, or that warns."""
    for agent in view.agents:
        said = agent.status
        if said is None:
            continue
        if said.settings_error:
            yield Finding(
                agent.called,
                f"it refuses the settings and keeps the last good ones: {said.settings_error}",
                "Mend them, pulumi up",
            )
        if said.last_error:
            # What the agents raise names its way out.
            yield Finding(
                agent.called, f"its last pass ended with: {said.last_error}", "As it says; then look at the agent's log"
            )
        for reason in said.not_ready:
            yield Finding(agent.called, f"edge nodes must not send here: {reason}", "docs/runbook.md has the reasons")
        for warning in said.warnings:
            yield Finding(agent.called, warning, "As it says")


def kernel_modules(view: View) -> Iterator[Finding]:
    """Modules that are needed and neither loaded nor seen at work."""
    for agent, machine in _machines(view):
        for name, state in sorted(machine.modules.items()):
            if state == "absent":
                yield Finding(
                    agent.node,
                    f"kernel module {name} is not loaded",
                    f"On the node: modprobe {name}, and a line {name} in /etc/modules-load.d/samegate.conf",
                )


def sysctls(view: View) -> Iterator[Finding]:
    """Sysctls that are not as the role needs them. Edge agents set theirs; on workers the forwarding belongs to the pod network."""
    for agent, machine in _machines(view, "sysctls"):
        wanted = SYSCTLS_OF[machine.dataplane] if agent.role == "edge" else WORKER_NEEDS
        for name, value in sorted(wanted.items()):
            have = machine.sysctls.get(name)
            if have == value:
                continue
            does = (
                "something sets it against the agent" if agent.role == "edge" else "no packet reaches a pod without it"
            )
            yield Finding(
                agent.node,
                f"sysctl {name} is {have if have is not None else 'not there'}, wanted {value}: {does}",
                f"On the node: sysctl -w {name}={value}, and look through /etc/sysctl.d",
            )


def data_planes(view: View) -> Iterator[Finding]:
    """All edge nodes have one data plane: each chooses workers in its own way, and flows break on their way from one to the other."""
    found = {a.node: a.machine.dataplane for a in of_role(view.agents, "edge") if a.machine is not None}
    for node, dataplane in sorted(found.items()):
        if dataplane != view.settings.dataplane:
            yield Finding(
                node,
                f"its data plane is {dataplane}, the settings have {view.settings.dataplane}: flows that come from an edge node with the other one may break",
                "Wait for the pods to be replaced: kubectl -n samegate-system rollout status daemonset samegate-edge",
            )


def kernel_builds(view: View) -> Iterator[Finding]:
    """All edge nodes with IPVS run one kernel build: the size of the hash table is compiled in, and flows break between tables of two sizes."""
    builds = {
        a.node: f"{a.machine.kernel_release} {a.machine.kernel_build}".strip()
        for a in of_role(view.agents, "edge")
        if a.machine is not None and a.machine.kernel_release and a.machine.dataplane == "ipvs"
    }
    counts = Counter(builds.values())
    if len(counts) <= 1:
        return
    way_out = "Run one kernel build on all edge nodes; until then drain those that differ: samegate drain NODE"
    usual, number = counts.most_common(1)[0]
    if 2 * number <= len(builds):
        shown = "; ".join(f"{node}: {build}" for node, build in sorted(builds.items()))
        yield Finding("cluster", f"edge nodes run different kernels ({shown}): their hash tables may differ", way_out)
        return
    for node, build in sorted(builds.items()):
        if build != usual:
            what = f"its kernel is {build}, that of most edge nodes is {usual}: their hash tables may differ"
            yield Finding(node, what, way_out)


def path_mtu(view: View) -> Iterator[Finding]:
    """The fabric carries packets of ``fabricMtuBytes`` between edge nodes and workers, both ways."""
    wanted = view.settings.network.fabric_mtu_bytes
    for agent, machine in _machines(view):
        for peer, have in sorted(machine.path_mtu_bytes.items(), key=lambda p: address_order(p[0])):
            if have < wanted:
                yield Finding(
                    agent.node,
                    f"packets to {view.node_of(peer)} may be {have} bytes long, fabricMtuBytes says {wanted}: large transfers hang",
                    f"Raise the MTU of the devices and switches between them, or set network.fabricMtuBytes to {have}",
                )


def tunnels(view: View) -> Iterator[Finding]:
    """Every edge node's probes of every worker come back through the tunnel at full size."""
    for agent in of_role(view.agents, "edge"):
        for worker in agent.node_page.workers if agent.node_page is not None else ():
            if worker.healthy is False:
                yield Finding(
                    agent.node,
                    f"its probes of {worker.name} through the tunnel fail: {worker.probe or 'no reason is told'}",
                    "IP protocol 4 between them, MTU, and the worker's agent; docs/runbook.md, NoHealthyWorker",
                )


def proxy_mode(view: View) -> Iterator[Finding]:
    """The Service proxy leaves VIPs to IPVS on edge nodes, and delivers tunnelled packets on workers."""
    for agent, machine in _machines(view, "proxy_mode"):
        judge = edge_refusal if agent.role == "edge" else worker_refusal
        mode = machine.proxy_mode
        refused = judge(mode, frozenset(machine.proxy_devices))
        if refused is not None:
            what, _, way_out = refused[1].partition(". ")
            yield Finding(agent.node, f"{refused[0]}: {what}", way_out)
        elif mode is None and agent.role == "worker":
            yield Finding(
                agent.node,
                f"kube-proxy does not answer on 127.0.0.1:{PROXY_MODE_PORT}: nothing new is delivered to pods here",
                "Look at kube-proxy on the node; its metricsBindAddress has to be its default",
            )


def bgp_port(view: View) -> Iterator[Finding]:
    """No other BGP speaker on edge nodes: a router keeps one session for each neighbour's address."""
    for agent, machine in _machines(view):
        if agent.role == "edge" and machine.other_speaker:
            yield Finding(
                agent.node,
                f"something else listens on TCP port {BGP_PORT}: another BGP speaker",
                f"Find it: ss -ltnp sport = :{BGP_PORT}. Stop it, or peer it with other routers; samegate's BIRD does not need the port",
            )


def sessions(view: View) -> Iterator[Finding]:
    """Every BGP session is established."""
    for agent in of_role(view.agents, "edge"):
        for peer, session in sorted(agent.status.sessions.items()) if agent.status is not None else ():
            if not session.established:
                yield Finding(
                    agent.node,
                    f"BGP session to {peer} is {session.state}: {session.last_error or 'no error is told'}",
                    "On the router: neighbour address and AS, BGP key, TCP 179 from the node; docs/runbook.md",
                )
            elif session.bfd and session.bfd != "Up":
                yield Finding(
                    agent.node,
                    f"BFD session to {peer} is {session.bfd}",
                    "On the router: BFD for this neighbour, UDP 3784",
                )


def clocks(view: View) -> Iterator[Finding]:
    """The nodes' clocks agree with each other, and this machine's with theirs."""
    ahead = {
        a.node: (a.clock_seconds, a.clock_error_seconds)
        for a in view.agents
        if a.clock_seconds is not None and a.role != "controller"
    }
    if not ahead:
        return
    middle = median(seconds for seconds, _ in ahead.values())
    for node, (seconds, error) in sorted(ahead.items()):
        if abs(seconds - middle) > CLOCK_SECONDS + error:
            word = "ahead of" if seconds > middle else "behind"
            yield Finding(
                node,
                f"its clock is {abs(seconds - middle):.1f} s {word} the other nodes'",
                "Have NTP run on it: chronyc tracking, or timedatectl",
            )
    if abs(middle) > CLOCK_SECONDS + max(error for _, error in ahead.values()):
        word = "behind" if middle > 0 else "ahead of"
        yield Finding(
            "this machine",
            f"its clock is {abs(middle):.1f} s {word} the nodes'",
            "Set it by NTP; tokens and certificates depend on it",
        )


def conntrack(view: View) -> Iterator[Finding]:
    """Connection tracking has room: kube-proxy delivers nothing without an entry."""
    for agent, machine in _machines(view):
        table = machine.conntrack
        if table is not None and table.max and table.count >= CONNTRACK_SHARE * table.max:
            yield Finding(
                agent.node,
                f"connection tracking holds {table.count} of {table.max} entries: the kernel drops new connections when it is full",
                f"On the node: sysctl -w net.netfilter.nf_conntrack_max={2 * table.max}, and kube-proxy's conntrack settings",
            )


#: What is looked at, in the order of the report.
CHECKS: tuple[tuple[str, Check], ...] = (
    ("nodes", roles),
    ("agents", silent_agents),
    ("agents' errors", agent_errors),
    ("kernel modules", kernel_modules),
    ("sysctls", sysctls),
    ("data planes", data_planes),
    ("kernel builds", kernel_builds),
    ("mtu", path_mtu),
    ("tunnels", tunnels),
    ("service proxy", proxy_mode),
    ("port 179", bgp_port),
    ("bgp sessions", sessions),
    ("clocks", clocks),
    ("connection tracking", conntrack),
)


def doctor(view: View, checks: Sequence[tuple[str, Check]] = CHECKS) -> Answer:
    """All findings; the exit code says whether there are any."""
    found = [(name, list(check(view))) for name, check in checks]
    rows = [
        row(name, toned("ok", True), "", "", "")
        if not findings
        else row(name, toned("FOUND", False), f.where, f.what, f.way_out)
        for name, findings in found
        for f in (findings or [Finding("", "", "")])
    ]
    count = sum(len(findings) for _, findings in found)
    told = f"{count} finding{'s' if count != 1 else ''}" if count else "nothing found"
    data = {
        "checks": [{"check": name, "ok": not findings} for name, findings in found],
        "findings": [{"check": name, **asdict(f)} for name, findings in found for f in findings],
        "looked_at": [f"{a.role} {a.called}" for a in _told(view.agents)],
    }
    table = Table("Checks", ("check", "state", "where", "what", "way out"), tuple(rows))
    seen = f"{told}; {len(_told(view.agents))} of {len(view.agents)} agents told what they know"
    parts = (table, Cell(seen, Tone.BAD if count else Tone.GOOD))
    return Answer(data, parts, view.notes, FOUND_SOMETHING if count else FINE)


def _machines(view: View, field: str | None = None) -> Iterator[tuple[Agent, MachineFacts]]:
    """The nodes that tell what they are, or this field of it."""
    for agent in view.agents:
        if agent.machine is not None and (field is None or field in agent.machine.model_fields_set):
            yield agent, agent.machine


def _told(agents: Sequence[Agent]) -> list[Agent]:
    return [a for a in agents if a.status is not None]
