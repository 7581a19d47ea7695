"""What the active probe of a Service asks, read from the Service's annotations, and which pods of a node it is asked of.

Readiness says what a pod thinks of itself, on the way that its author chose; an active probe asks the pod the way a client does. It is asked
only for Services that opt in by ``samegate.dev/probe``. A mistake in the annotations costs the probe and nothing else: the Service is served as if
it had none, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from lbnode.facts import Rejection
from lbnode.model import IPAddress, Protocol, ServiceName
from lbnode.objects import Endpoint, EndpointSliceObject, ServiceObject, ServicePort
from lbnode.settings import ActiveProbes

PROBE_ANNOTATION = "samegate.dev/probe"
PORT_ANNOTATION = "samegate.dev/probe-port"
PATH_ANNOTATION = "samegate.dev/probe-path"
STATUS_ANNOTATION = "samegate.dev/probe-status"
PAYLOAD_ANNOTATION = "samegate.dev/probe-payload"
EXPECT_ANNOTATION = "samegate.dev/probe-expect"
#: Annotations that take the place of a value of ``activeProbes`` in the settings.
PACE_ANNOTATIONS: Mapping[str, str] = {
    "samegate.dev/probe-interval-ms": "interval_ms",
    "samegate.dev/probe-timeout-ms": "timeout_ms",
    "samegate.dev/probe-rise": "rise",
    "samegate.dev/probe-fall": "fall",
    "samegate.dev/probe-low-watermark": "low_watermark",
    "samegate.dev/probe-high-watermark": "high_watermark",
}
#: A request target is one line; RFC 9112 section 3 asks for at least 8000 bytes, and a health check needs far fewer.
LONGEST_PATH_BYTES = 1024
#: Fits one packet of the smallest IPv6 MTU (RFC 8200 section 5: 1280 bytes) with its headers.
LONGEST_PAYLOAD_BYTES = 1024
#: As kubelet judges: "any code greater than or equal to 200 and less than 400 indicates success".
DEFAULT_STATUSES = ((200, 399),)
HEX_PREFIX = "hex:"


@dataclass(frozen=True, slots=True)
class TcpConnect:
    """A TCP connection opens."""


@dataclass(frozen=True, slots=True)
class HttpGet:
    """``GET path`` answers with a status in one of the ranges, both ends included."""

    path: str = "/"
    statuses: tuple[tuple[int, int], ...] = DEFAULT_STATUSES


@dataclass(frozen=True, slots=True)
class UdpExchange:
    """A datagram of ``payload`` is answered by one that begins with ``expect``; with nothing to expect any answer will do."""

    payload: bytes
    expect: bytes = b""


Question = TcpConnect | HttpGet | UdpExchange


@dataclass(frozen=True, slots=True)
class ActiveProbe:
    """The active probe of one Service: what is asked, on which of its ports, how often, and what counts as down."""

    question: Question
    port_name: str
    protocol: Protocol
    pace: ActiveProbes

    def __str__(self) -> str:
        asked = {TcpConnect: "tcp", HttpGet: "http", UdpExchange: "udp"}[type(self.question)]
        if isinstance(self.question, HttpGet):
            asked += f" GET {self.question.path}"
        where = f" on port {self.port_name}" if self.port_name else ""
        pace = self.pace
        return f"{asked}{where} each {pace.interval_ms} ms, timeout {pace.timeout_ms} ms, rise {pace.rise}, fall {pace.fall}"


@dataclass(frozen=True, slots=True)
class Backend:
    """The port of one pod, as a Service's active probe asks it."""

    service: ServiceName
    address: IPAddress
    port: int


class _Mistake(Exception):
    """An annotation breaks a rule; the text names value, rule and way out."""


def read_active_probe(service: ServiceObject, defaults: ActiveProbes) -> tuple[ActiveProbe | None, Rejection | None]:
    """The Service's active probe, or none when it asks for none; the rejection when what it asks cannot be understood."""
    given = {key: value for key, value in service.annotations.items() if key.startswith(PROBE_ANNOTATION)}
    if not given:
        return None, None
    try:
        return _active_probe(service, given, defaults), None
    except _Mistake as mistake:
        message = f"{mistake}. The Service is served without an active probe until then"
        return None, Rejection(service.name, "InvalidProbe", message)


def _active_probe(service: ServiceObject, given: Mapping[str, str], defaults: ActiveProbes) -> ActiveProbe:
    if PROBE_ANNOTATION not in given:
        raise _Mistake(f"{min(given)} does nothing without {PROBE_ANNOTATION}. Set that to tcp, http or udp")
    kind = given[PROBE_ANNOTATION].strip().lower()
    if kind not in _QUESTIONS:
        raise _Mistake(f"{PROBE_ANNOTATION} = {_shown(kind)}: there is no such probe. Use tcp, http or udp")
    own, ask = _QUESTIONS[kind]
    known = {PROBE_ANNOTATION, PORT_ANNOTATION, *PACE_ANNOTATIONS, *own}
    for annotation in sorted(given.keys() - known):
        fitting = [k for k, (annotations, _) in _QUESTIONS.items() if annotation in annotations]
        what = f"belongs to a probe of type {fitting[0]}, and this is {kind}" if fitting else "is no annotation of ours"
        raise _Mistake(f"{annotation} {what}. Remove it or mend its spelling")
    if not service.local:
        raise _Mistake(
            f"{PROBE_ANNOTATION} = {kind}: with externalTrafficPolicy Cluster every worker sends to pods on every other, whatever its own pods answer. "
            "Set externalTrafficPolicy to Local, or remove the annotation"
        )
    protocol = Protocol.UDP if kind == "udp" else Protocol.TCP
    port = _service_port(service, given.get(PORT_ANNOTATION), protocol)
    return ActiveProbe(ask(given), port.name, protocol, _pace(given, defaults))


def _service_port(service: ServiceObject, asked: str | None, protocol: Protocol) -> ServicePort:
    fitting = [p for p in service.ports if p.protocol == protocol.value]
    if asked is None:
        if not fitting:
            raise _Mistake(f"the Service has no {protocol} port to probe. Use a probe that fits its ports")
        return fitting[0]
    for port in fitting:
        if asked.strip() in (port.name, str(port.port)):
            return port
    listed = ", ".join(p.name or str(p.port) for p in fitting) or "none"
    raise _Mistake(
        f"{PORT_ANNOTATION} = {_shown(asked)}: no {protocol} port of the Service has this name or number. Use one of: {listed}"
    )


def _pace(given: Mapping[str, str], defaults: ActiveProbes) -> ActiveProbes:
    changes: dict[str, Any] = {}
    for annotation, name in PACE_ANNOTATIONS.items():
        if annotation in given:
            read = float if name.endswith("watermark") else _whole
            try:
                changes[name] = read(given[annotation])
            except ValueError:
                raise _Mistake(f"{annotation} = {_shown(given[annotation])}: not a number. Write one") from None
    try:
        return ActiveProbes.model_validate(defaults.model_dump() | changes)
    except ValidationError as error:
        finding = error.errors(include_url=False)[0]
        rule, _, way_out = finding["msg"].removeprefix("Value error, ").partition(". ")
        named = [a for a, name in PACE_ANNOTATIONS.items() if name in finding["loc"]]
        where = (
            f"{named[0]} = {_shown(given[named[0]])}: "
            if named
            else f"{', '.join(sorted(PACE_ANNOTATIONS.keys() & given))}: "
        )
        raise _Mistake(f"{where}{rule}. {way_out or 'Change the value'}") from None


def _whole(text: str) -> int:
    # int() would take blanks, underscores and digits of other scripts; its longest number is bounded by Python itself.
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError(text)
    return int(text)


def _http(given: Mapping[str, str]) -> HttpGet:
    path = given.get(PATH_ANNOTATION, "/")
    if not path.startswith("/") or len(path) > LONGEST_PATH_BYTES or not all("!" <= c <= "~" for c in path):
        raise _Mistake(
            f"{PATH_ANNOTATION} = {_shown(path)}: not a path of at most {LONGEST_PATH_BYTES} printable ASCII characters without blanks. "
            "Begin with / and encode the rest by percent signs"
        )
    return HttpGet(path, _statuses(given[STATUS_ANNOTATION]) if STATUS_ANNOTATION in given else DEFAULT_STATUSES)


def _statuses(text: str) -> tuple[tuple[int, int], ...]:
    ranges = []
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        try:
            ends = (_whole(low), _whole(high or low))
        except ValueError:
            ends = (0, 0)
        if not 100 <= ends[0] <= ends[1] <= 599:
            raise _Mistake(
                f"{STATUS_ANNOTATION} = {_shown(text)}: not a list of HTTP statuses from 100 to 599. Write it like 200 or 200-299,404"
            )
        ranges.append(ends)
    return tuple(ranges)


def _udp(given: Mapping[str, str]) -> UdpExchange:
    payload = _bytes(given, PAYLOAD_ANNOTATION)
    if not payload:
        raise _Mistake(f"{PROBE_ANNOTATION} = udp: an empty datagram is seldom answered. Give {PAYLOAD_ANNOTATION}")
    return UdpExchange(payload, _bytes(given, EXPECT_ANNOTATION))


def _bytes(given: Mapping[str, str], annotation: str) -> bytes:
    text = given.get(annotation, "")
    try:
        value = bytes.fromhex(text.removeprefix(HEX_PREFIX)) if text.startswith(HEX_PREFIX) else text.encode()
    except ValueError:
        raise _Mistake(
            f"{annotation} = {_shown(text)}: not hexadecimal digits in pairs after {HEX_PREFIX}. Write it like hex:0a0b, or plain text"
        ) from None
    if len(value) > LONGEST_PAYLOAD_BYTES:
        raise _Mistake(f"{annotation}: {len(value)} bytes are more than {LONGEST_PAYLOAD_BYTES}. Shorten it")
    return value


_QUESTIONS: Mapping[str, tuple[frozenset[str], Callable[[Mapping[str, str]], Question]]] = {
    "tcp": (frozenset(), lambda given: TcpConnect()),
    "http": (frozenset({PATH_ANNOTATION, STATUS_ANNOTATION}), _http),
    "udp": (frozenset({PAYLOAD_ANNOTATION, EXPECT_ANNOTATION}), _udp),
}


def local_backends(
    service: ServiceName, probe: ActiveProbe, slices: Iterable[EndpointSliceObject], node_name: str
) -> frozenset[Backend]:
    """The pods of the Service on a node that its kube-proxy may deliver to, in the port that the probe asks.

    The ready ones. While none is, all that serve or may come back, because kube-proxy delivers to serving terminating ones then and because the
    API calls pods unready when it was away.
    """
    found: dict[Backend, Endpoint] = {}
    for piece in slices:
        for port in piece.ports:
            if port.name == probe.port_name and port.protocol == probe.protocol.value:
                found |= {
                    Backend(service, e.addresses[0], port.port): e for e in piece.endpoints if e.node_name == node_name
                }
    ready = frozenset(b for b, e in found.items() if e.ready)
    return ready or frozenset(b for b, e in found.items() if e.serving or not e.terminating)


def _shown(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:57] + "..."
