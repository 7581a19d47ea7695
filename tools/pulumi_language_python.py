"""A stand-in for `pulumi-language-python`, the process by which the Pulumi engine runs Python programs.

The engine starts it, reads a port from its standard output, and speaks `pulumirpc.LanguageRuntime` (Pulumi's
sdk/proto/pulumi/language.proto) with it. This one runs programs and policy packs of a ready environment; it installs
nothing and generates nothing. Where the official release can be had, its own host is used instead.

A request holds the whole environment, passphrase included: nothing of a request is ever logged.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

EXECUTOR = "pulumi-language-python-exec"
#: Its way to say that it has shown the error itself (sdk/python/cmd/pulumi-language-python-exec).
BAIL_STATUS = 32
#: Requests at a time: one Run, some RunPlugin (each a policy pack that lives as long as the update), and short ones.
WORKERS = 20
READ_BYTES = 1 << 16
STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Command:
    """A process to start: arguments, working directory, and what is added to the environment."""

    arguments: tuple[str, ...]
    folder: str | None
    environment: Mapping[str, str]


def interpreter(options: Mapping[str, Any], root: str) -> str:
    """The Python of a program: that of its `virtualenv` option (relative to its project), else the one running this."""
    chosen = options.get("virtualenv")
    if not chosen:
        return sys.executable
    python = Path(root or ".", str(chosen), "bin", "python")
    if not python.exists():
        raise FileNotFoundError(
            f"virtualenv {chosen!r} of Pulumi.yaml: {python} does not exist; run `python -m tools ensure`"
        )
    return str(python.absolute())


def program_command(request: Any, engine: str, executor: Path) -> Command:
    """The process that runs the program of a RunRequest."""
    info = request.info
    values = {
        "project": request.project,
        "stack": request.stack,
        "parallel": str(request.parallel),
        "dry_run": "true" if request.dryRun else "false",
        "pwd": request.pwd or info.program_directory,
        "monitor": request.monitor_address,
        "engine": engine,
        "organization": request.organization,
        "root_directory": info.root_directory,
    }
    python = interpreter(dict(info.options), info.root_directory or request.pwd)
    switches = [word for name, value in values.items() if value for word in (f"--{name}", value)]
    program = os.path.normpath(Path(info.program_directory or request.pwd or ".", info.entry_point or "."))
    secret_keys = list(request.configSecretKeys)
    return Command(
        (python, "-u", str(executor), *switches, program, *request.args),
        request.pwd or None,
        {
            "PULUMI_CONFIG": json.dumps(dict(request.config)),
            "PULUMI_CONFIG_SECRET_KEYS": json.dumps(secret_keys),
            **activated(python),
        },
    )


def plugin_command(request: Any, engine: str) -> Command:
    """The process of a RunPluginRequest: a policy pack ("analyzer"), or any other plugin written in Python."""
    folder = request.info.program_directory
    python = interpreter(dict(request.info.options), request.info.root_directory or folder)
    given = ((name, value) for name, equals, value in (each.partition("=") for each in request.env) if equals)
    if request.kind == "analyzer":
        arguments = (python, "-u", "-m", "pulumi.policy", engine, folder)
    else:
        arguments = (python, "-u", folder, *request.args)
    return Command(arguments, request.pwd or None, {**activated(python), **dict(given)})


def activated(python: str) -> dict[str, str]:
    """What activating the environment of `python` would set."""
    folder = Path(python).parent
    if not (folder.parent / "pyvenv.cfg").exists():
        return {}
    return {"VIRTUAL_ENV": str(folder.parent), "PATH": f"{folder}:{os.environ.get('PATH', os.defpath)}"}


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """The service. `engine` is the engine's address, from the command line or the handshake."""

    def __init__(self, engine: str, version: str, executor: Path) -> None:
        self._engine = engine
        self._version = version
        self._executor = executor
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def Handshake(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's names
        self._engine = request.engine_address or self._engine
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        return plugin_pb2.PluginInfo(version=self._version)

    def GetRequiredPackages(self, request: Any, context: Any) -> Any:  # noqa: N802
        # None: the plugins are there already, and the engine could not fetch one anyway.
        return language_pb2.GetRequiredPackagesResponse()

    def InstallDependencies(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        return iter(())

    def RuntimeOptionsPrompts(self, request: Any, context: Any) -> Any:  # noqa: N802
        return language_pb2.RuntimeOptionsResponse()

    def About(self, request: Any, context: Any) -> Any:  # noqa: N802
        return language_pb2.AboutResponse(executable=sys.executable, version=sys.version.split()[0])

    def GetProgramDependencies(self, request: Any, context: Any) -> Any:  # noqa: N802
        found = sorted({(each.name, each.version) for each in metadata.distributions()})
        return language_pb2.GetProgramDependenciesResponse(
            dependencies=[language_pb2.DependencyInfo(name=name, version=version) for name, version in found]
        )

    def Cancel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.stop()
        return empty_pb2.Empty()

    def Run(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            process = self._start(program_command(request, self._engine, self._executor), stdout=sys.stderr)
        except OSError as error:
            return language_pb2.RunResponse(error=str(error))
        context.add_callback(lambda: _end(process))
        return run_response(self._wait(process))

    def RunPlugin(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        try:
            process = self._start(plugin_command(request, self._engine), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            return
        context.add_callback(lambda: _end(process))
        for stream, chunk in chunks({"stdout": process.stdout, "stderr": process.stderr}):
            is_output = stream == "stdout"
            yield (
                language_pb2.RunPluginResponse(stdout=chunk)
                if is_output
                else language_pb2.RunPluginResponse(stderr=chunk)
            )
        yield language_pb2.RunPluginResponse(exitcode=self._wait(process))

    def stop(self) -> None:
        """End what runs, and wait for it a little."""
        with self._lock:
            running = list(self._running)
        for process in running:
            _end(process)
        for process in running:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def _start(self, command: Command, **streams: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command.arguments,
            cwd=command.folder,
            env={**os.environ, **command.environment},
            stdin=subprocess.DEVNULL,
            **streams,
        )
        with self._lock:
            self._running.add(process)
        return process

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        status = process.wait()
        with self._lock:
            self._running.discard(process)
        return status


def run_response(status: int) -> Any:
    """What a program's exit status means to the engine."""
    if status == 0:
        return language_pb2.RunResponse()
    if status == BAIL_STATUS:
        return language_pb2.RunResponse(bail=True)
    ended = f"was ended by signal {-status}" if status < 0 else f"exited with status {status}"
    return language_pb2.RunResponse(error=f"the Python program {ended}")


def chunks(streams: Mapping[str, IO[bytes] | None]) -> Iterator[tuple[str, bytes]]:
    """What comes out of `streams`, as it comes, until all have ended."""
    ready: queue.Queue[tuple[str, bytes]] = queue.Queue()

    def pump(name: str, stream: IO[bytes]) -> None:
        while chunk := os.read(stream.fileno(), READ_BYTES):
            ready.put((name, chunk))
        ready.put((name, b""))

    opened = {name: stream for name, stream in streams.items() if stream}
    for name, stream in opened.items():
        threading.Thread(target=pump, args=(name, stream), daemon=True).start()
    while opened:
        name, chunk = ready.get()
        if chunk:
            yield name, chunk
        else:
            del opened[name]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()


def serve(host: LanguageHost, announce: Callable[[int], None]) -> None:
    """Serve on a port of the loopback, tell it, and return after SIGINT or SIGTERM: quietly, the engine sends one each run."""
    server = grpc.server(futures.ThreadPoolExecutor(WORKERS))
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)
    port = server.add_insecure_port("127.0.0.1:0")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server.start()
    announce(port)
    ended.wait()
    host.stop()
    server.stop(0)


def main(arguments: Sequence[str]) -> int:
    """The engine's address is the last argument that is no switch."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--folder", type=Path, required=True, help="where pulumi-language-python-exec is")
    ours, theirs = parser.parse_known_args(arguments)
    engine = next((word for word in reversed(theirs) if not word.startswith("-")), "")
    serve(
        LanguageHost(engine, metadata.version("pulumi"), ours.folder / EXECUTOR), lambda port: print(port, flush=True)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
