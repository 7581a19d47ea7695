"""The command line of ``samegate``, also as ``kubectl samegate``.

Exit codes: 0 asked, and all is well; 1 asked, and something is not; 2 called wrongly, or the cluster cannot be asked.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

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
from lbnode.kube.client import operator_client

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
Node = Annotated[str, typer.Argument(metavar="NODE")]
Wait = Annotated[bool, typer.Option("--wait", help="Until it is in force.")]
Seconds = Annotated[float, typer.Option("--timeout", help="What --wait waits at most, in seconds.", min=0)]
Undo = Annotated[bool, typer.Option("--undo", help="The same as undrain.")]
Force = Annotated[bool, typer.Option("--force", help="Even if an address is announced by nobody else.")]
Source = Annotated[
    str, typer.Argument(metavar="SRC:PORT", help="The client, e.g. 192.0.2.7:40000 or [2001:db8::7]:40000.")
]
Transport = Annotated[
    str | None, typer.Option("--protocol", help="tcp or udp, where a Service has both.", metavar="NAME")
]
VipPort = Annotated[str, typer.Argument(metavar="VIP:PORT")]
Vip = Annotated[str, typer.Argument(metavar="VIP", help="An address, or NAMESPACE/NAME of a Service.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="The file; else samegate-TIME.tar.gz here.", metavar="FILE")
]


def _verb(asking: Callable[..., Awaitable[Answer]]) -> Callable[..., None]:
    """A command of an asking function, with the options that every verb has behind its own."""

    def command(
        kubeconfig: Kubeconfig = None,
        context: Context = None,
        namespace: Namespace = NAMESPACE,
        as_json: AsJson = False,
        **own: Any,
    ) -> None:
        async def ask() -> Answer:
            client, called = operator_client(kubeconfig, context)
            api = Api(client, called)
            try:
                return await asking(api, namespace, **own)
            finally:
                await api.close()

        try:
            answer = asyncio.run(ask())
        except SamegateError as error:
            print(f"samegate: {error}", file=sys.stderr)
            raise typer.Exit(NOT_ASKED) from None
        show(answer, as_json=as_json)
        raise typer.Exit(answer.code)

    # typer reads options off the signature; the first two of the function are not the caller's.
    of_verb = list(inspect.signature(asking, eval_str=True).parameters.values())[2:]
    of_all = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*of_verb, *of_all)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__name__, command.__doc__ = asking.__name__, asking.__doc__
    return app.command()(command)


@_verb
async def status(api: Api, namespace: str) -> Answer:
    """Addresses, who announces them and why not, sessions, agents."""
    return overview.status(await look(api, namespace))


@_verb
async def why(api: Api, namespace: str, vip: Vip) -> Answer:
    """What has to hold for an address, and what fails first."""
    return reasons.why(await look(api, namespace), vip)


@_verb
async def explain(api: Api, namespace: str, source: Source, target: VipPort, protocol: Transport = None) -> Answer:
    """Which worker and pods a new connection gets, and why."""
    # What is no address is told without asking anybody.
    flow = explanations.arguments(source, target, protocol)
    return explanations.explain(await look(api, namespace), flow)


@_verb
async def drain(
    api: Api,
    namespace: str,
    node: Node,
    wait: Wait = False,
    undo: Undo = False,
    force: Force = False,
    timeout: Seconds = DRAIN_TIMEOUT_SECONDS,
) -> Answer:
    """Take a node out of service; live connections go on."""
    return await _drain(api, namespace, node, undo=undo, wait=wait, force=force, timeout_seconds=timeout)


@_verb
async def undrain(
    api: Api,
    namespace: str,
    node: Node,
    wait: Wait = False,
    timeout: Seconds = DRAIN_TIMEOUT_SECONDS,
) -> Answer:
    """Bring a drained node back."""
    return await _drain(api, namespace, node, undo=True, wait=wait, timeout_seconds=timeout)


async def _drain(api: Api, namespace: str, node: str, **how: Any) -> Answer:
    return await drains.drain(api, lambda: look(api, namespace), node, **how)


@_verb
async def routes(api: Api, namespace: str) -> Answer:
    """The host routes that routers should have."""
    return host_routes.routes(await look(api, namespace))


@_verb
async def doctor(api: Api, namespace: str) -> Answer:
    """What is wrong with the nodes, each with the way out."""
    return doctors.doctor(await look(api, namespace))


@_verb
async def bundle(api: Api, namespace: str, output: Output = None) -> Answer:
    """One archive for support, without secrets."""
    return await bundles.bundle(api, namespace, output)


@app.command()
def version() -> None:
    """The version of this command."""
    print(__version__)


def main() -> None:
    """Run the command under the name that it was called by."""
    called = Path(sys.argv[0]).name
    app(prog_name="kubectl samegate" if called == "kubectl-samegate" else "samegate")
