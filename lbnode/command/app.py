"""The command line of ``samegate``, also as ``kubectl samegate``.

Exit codes: 0 asked, and all is well; 1 asked, and something is not; 2 called wrongly, or the cluster cannot be asked.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from lbnode import __version__
from lbnode.command import bundle as bundles
from lbnode.command import doctor as doctors
from lbnode.command import drain as drains
from lbnode.command import explain as explanations
from lbnode.command import overview
from lbnode.command import routes as host_routes
from lbnode.command import why as reasons
from lbnode.command.answer import NOT_ASKED, Answer
from lbnode.command.api import Api
from lbnode.command.terminal import show
from lbnode.command.view import NAMESPACE, look
from lbnode.errors import SamegateError
from lbnode.kube import operator_client

#: Longer than drain.withdrawSeconds and the routers' reconvergence together.
DRAIN_TIMEOUT_SECONDS = 60.0

app = typer.Typer(
    help="What samegate does in a cluster, and why. It asks with your kubeconfig, and changes nothing but by drain and undrain.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Kubeconfig = Annotated[
    Path | None,
    typer.Option("--kubeconfig", help="A kubeconfig file; else KUBECONFIG, else ~/.kube/config.", metavar="FILE"),
]
Context = Annotated[
    str | None, typer.Option("--context", help="A context of it; else the current one.", metavar="NAME")
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Where samegate is installed.", metavar="NAME")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
NodeName = Annotated[str, typer.Argument(metavar="NODE")]
Wait = Annotated[bool, typer.Option("--wait", help="Until it is in force.")]
Seconds = Annotated[float, typer.Option("--timeout", help="What --wait waits at most, in seconds.", min=0)]

Asking = Callable[[Api], Awaitable[Answer]]


def _answer(kubeconfig: Path | None, context: str | None, as_json: bool, asking: Asking) -> None:
    """Ask, show, and end with the answer's code."""

    async def ask() -> Answer:
        client, called = operator_client(kubeconfig, context)
        api = Api(client, called)
        try:
            return await asking(api)
        finally:
            await api.close()

    try:
        answer = asyncio.run(ask())
    except SamegateError as error:
        print(f"samegate: {error}", file=sys.stderr)
        raise typer.Exit(NOT_ASKED) from None
    show(answer, as_json=as_json)
    raise typer.Exit(answer.code)


@app.command()
def status(
    kubeconfig: Kubeconfig = None, context: Context = None, namespace: Namespace = NAMESPACE, as_json: AsJson = False
) -> None:
    """Addresses, who announces them and why not, sessions, agents."""

    async def asking(api: Api) -> Answer:
        return overview.status(await look(api, namespace))

    _answer(kubeconfig, context, as_json, asking)


@app.command()
def why(
    vip: Annotated[str, typer.Argument(metavar="VIP", help="An address, or NAMESPACE/NAME of a Service.")],
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = NAMESPACE,
    as_json: AsJson = False,
) -> None:
    """What has to hold for an address, and what fails first."""

    async def asking(api: Api) -> Answer:
        return reasons.why(await look(api, namespace), vip)

    _answer(kubeconfig, context, as_json, asking)


@app.command()
def explain(
    source: Annotated[
        str, typer.Argument(metavar="SRC:PORT", help="The client, e.g. 192.0.2.7:40000 or [2001:db8::7]:40000.")
    ],
    target: Annotated[str, typer.Argument(metavar="VIP:PORT")],
    protocol: Annotated[str | None, typer.Option("--protocol", help="tcp or udp, where a Service has both.")] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = NAMESPACE,
    as_json: AsJson = False,
) -> None:
    """Which worker and pods a new connection gets, and why."""
    if protocol is not None and protocol.upper() not in ("TCP", "UDP"):
        print(f"samegate: --protocol {protocol}: not served. Write tcp or udp", file=sys.stderr)
        raise typer.Exit(NOT_ASKED)

    async def asking(api: Api) -> Answer:
        return explanations.explain(await look(api, namespace), source, target, protocol and protocol.upper())

    # What is no address is told without asking anybody.
    try:
        explanations.endpoint(source), explanations.endpoint(target)
    except SamegateError as error:
        print(f"samegate: {error}", file=sys.stderr)
        raise typer.Exit(NOT_ASKED) from None
    _answer(kubeconfig, context, as_json, asking)


@app.command()
def drain(
    node: NodeName,
    wait: Wait = False,
    undo: Annotated[bool, typer.Option("--undo", help="The same as undrain.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if an address is announced by nobody else.")] = False,
    timeout: Seconds = DRAIN_TIMEOUT_SECONDS,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = NAMESPACE,
    as_json: AsJson = False,
) -> None:
    """Take a node out of service; live connections go on."""

    async def asking(api: Api) -> Answer:
        return await drains.drain(
            api, lambda: look(api, namespace), node, undo=undo, wait=wait, force=force, timeout_seconds=timeout
        )

    _answer(kubeconfig, context, as_json, asking)


@app.command()
def undrain(
    node: NodeName,
    wait: Wait = False,
    timeout: Seconds = DRAIN_TIMEOUT_SECONDS,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = NAMESPACE,
    as_json: AsJson = False,
) -> None:
    """Bring a drained node back."""
    drain(node, wait, True, False, timeout, kubeconfig, context, namespace, as_json)


@app.command()
def routes(
    kubeconfig: Kubeconfig = None, context: Context = None, namespace: Namespace = NAMESPACE, as_json: AsJson = False
) -> None:
    """The host routes that routers should have."""

    async def asking(api: Api) -> Answer:
        return host_routes.routes(await look(api, namespace))

    _answer(kubeconfig, context, as_json, asking)


@app.command()
def bundle(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; else samegate-TIME.tar.gz here.", metavar="FILE")
    ] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = NAMESPACE,
    as_json: AsJson = False,
) -> None:
    """One archive for support, without secrets."""

    async def asking(api: Api) -> Answer:
        return await bundles.bundle(api, namespace, output)

    _answer(kubeconfig, context, as_json, asking)


@app.command()
def doctor(
    kubeconfig: Kubeconfig = None, context: Context = None, namespace: Namespace = NAMESPACE, as_json: AsJson = False
) -> None:
    """What is wrong with the nodes, each with the way out."""

    async def asking(api: Api) -> Answer:
        return doctors.doctor(await look(api, namespace))

    _answer(kubeconfig, context, as_json, asking)


@app.command()
def version() -> None:
    """The version of this command."""
    print(__version__)


def main() -> None:
    """Run the command under the name that it was called by."""
    called = Path(sys.argv[0]).name
    app(prog_name="kubectl samegate" if called == "kubectl-samegate" else "samegate")
