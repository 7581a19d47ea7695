"""The stand-in language host, as the engine meets it: a process, a port on its standard output, gRPC."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, struct_pb2
from pulumi.runtime.proto import language_pb2, language_pb2_grpc

import tools

HOST = Path(tools.__file__).with_name("pulumi_language_python.py")
SECRET = "correct-horse-battery-staple"
DEADLINE_SECONDS = 20.0

#: Plays pulumi-language-python-exec: writes down what it was given, then ends as the program's name says.
EXECUTOR = """
import json, os, pathlib, sys, time
program = pathlib.Path(sys.argv[-1])
pathlib.Path("given.json").write_text(json.dumps({"argv": sys.argv[1:], "config": os.environ["PULUMI_CONFIG"],
    "secret_keys": os.environ["PULUMI_CONFIG_SECRET_KEYS"], "folder": os.getcwd()}))
if program.name == "sleep":
    pathlib.Path("sleeping").write_text(str(os.getpid()))
    time.sleep(600)
if program.name == "signal":
    os.kill(os.getpid(), 9)
sys.exit(int(program.name))
"""


@contextmanager
def a_host(tmp_path: Path) -> Iterator[tuple[Any, subprocess.Popen[str]]]:
    (tmp_path / "pulumi-language-python-exec").write_text(EXECUTOR)
    command = [sys.executable, "-P", str(HOST), "--folder", str(tmp_path), "127.0.0.1:1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        try:
            yield language_pb2_grpc.LanguageRuntimeStub(channel), process
        finally:
            channel.close()
            process.kill()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with a_host(tmp_path_factory.mktemp("host")) as (stub, _):
        yield stub


def run(stub: Any, folder: Path, entry_point: str, **fields: Any) -> Any:
    info = language_pb2.ProgramInfo(
        root_directory=str(folder),
        program_directory=str(folder),
        entry_point=entry_point,
        options=fields.pop("options", None),
    )
    request = language_pb2.RunRequest(project="p", stack="s", pwd=str(folder), parallel=7, info=info, **fields)
    return stub.Run(request, timeout=DEADLINE_SECONDS)


def given(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "given.json").read_text())  # type: ignore[no-any-return]


def test_a_program_that_ends_well_is_no_error(host: Any, tmp_path: Path) -> None:
    answer = run(host, tmp_path, "0")
    assert (answer.error, answer.bail) == ("", False)


def test_status_32_means_that_the_error_was_shown_already(host: Any, tmp_path: Path) -> None:
    answer = run(host, tmp_path, "32")
    assert (answer.error, answer.bail) == ("", True)


@pytest.mark.parametrize(("program", "error"), [("3", "exited with status 3"), ("signal", "was ended by signal 9")])
def test_any_other_end_is_an_error_that_tells_how(host: Any, tmp_path: Path, program: str, error: str) -> None:
    answer = run(host, tmp_path, program)
    assert not answer.bail
    assert answer.error == f"the Python program {error}"


def test_a_program_gets_its_stack_its_configuration_and_its_folder(host: Any, tmp_path: Path) -> None:
    host.Handshake(language_pb2.LanguageHandshakeRequest(engine_address="127.0.0.1:99"), timeout=DEADLINE_SECONDS)
    run(
        host, tmp_path, "0", dryRun=True, monitor_address="127.0.0.1:5", organization="o",
        config={"p:key": "value"}, configSecretKeys=["p:key"],
    )  # fmt: skip
    words = given(tmp_path)["argv"]
    switches = dict(zip(words[:-1:2], words[1:-1:2], strict=True))
    assert switches == {
        "--project": "p", "--stack": "s", "--parallel": "7", "--dry_run": "true", "--pwd": str(tmp_path),
        "--monitor": "127.0.0.1:5", "--engine": "127.0.0.1:99", "--organization": "o", "--root_directory": str(tmp_path),
    }  # fmt: skip
    assert json.loads(given(tmp_path)["config"]) == {"p:key": "value"}
    assert json.loads(given(tmp_path)["secret_keys"]) == ["p:key"]
    assert given(tmp_path)["folder"] == str(tmp_path)


def test_the_programs_own_environment_is_used(host: Any, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 32\n")
    python.chmod(0o755)
    options = struct_pb2.Struct()
    options["virtualenv"] = "venv"
    assert run(host, tmp_path, "0", options=options).bail


def test_a_missing_environment_is_named_with_the_way_out(host: Any, tmp_path: Path) -> None:
    options = struct_pb2.Struct()
    options["virtualenv"] = "absent"
    error = run(host, tmp_path, "0", options=options).error
    assert "'absent'" in error
    assert "python -m tools ensure" in error


def test_a_plugin_speaks_through_the_host_and_its_status_comes_last(host: Any, tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text(
        "import os, sys; print(os.environ['WORD'], sys.argv[1:], flush=True); print('oh', file=sys.stderr); sys.exit(5)"
    )
    request = language_pb2.RunPluginRequest(
        pwd=str(tmp_path), args=["a", "b"], env=["WORD=x=y", "broken"], kind="resource",
        info=language_pb2.ProgramInfo(root_directory=str(tmp_path), program_directory=str(tmp_path)),
    )  # fmt: skip
    answers = list(host.RunPlugin(request, timeout=DEADLINE_SECONDS))
    assert b"".join(each.stdout for each in answers) == b"x=y ['a', 'b']\n"
    assert b"".join(each.stderr for each in answers) == b"oh\n"
    assert [each.WhichOneof("output") for each in answers][-1] == "exitcode"
    assert answers[-1].exitcode == 5


def test_a_policy_pack_is_run_by_the_policy_sdk(host: Any, tmp_path: Path) -> None:
    fake = tmp_path / "venv" / "bin" / "python"
    fake.parent.mkdir(parents=True)
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    options = struct_pb2.Struct()
    options["virtualenv"] = "venv"
    host.Handshake(language_pb2.LanguageHandshakeRequest(engine_address="127.0.0.1:99"), timeout=DEADLINE_SECONDS)
    info = language_pb2.ProgramInfo(root_directory=str(tmp_path), program_directory=str(tmp_path), options=options)
    request = language_pb2.RunPluginRequest(pwd=str(tmp_path), kind="analyzer", info=info)
    answers = list(host.RunPlugin(request, timeout=DEADLINE_SECONDS))
    assert b"".join(each.stdout for each in answers).decode() == f"-u -m pulumi.policy 127.0.0.1:99 {tmp_path}\n"


def test_the_host_tells_its_version_and_requires_nothing(host: Any) -> None:
    import pulumi

    info = host.GetPluginInfo(empty_pb2.Empty(), timeout=DEADLINE_SECONDS)
    assert info.version == tools.load().tools["pulumi"].version
    assert not host.GetRequiredPackages(language_pb2.GetRequiredPackagesRequest(), timeout=DEADLINE_SECONDS).packages
    assert list(host.InstallDependencies(language_pb2.InstallDependenciesRequest(), timeout=DEADLINE_SECONDS)) == []
    found = host.GetProgramDependencies(language_pb2.GetProgramDependenciesRequest(), timeout=DEADLINE_SECONDS)
    assert "pulumi" in {each.name for each in found.dependencies}
    assert pulumi.__name__ == "pulumi"


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_host_quietly_and_what_it_runs_with_it(tmp_path: Path, number: int) -> None:
    with a_host(tmp_path) as (stub, process):
        info = language_pb2.ProgramInfo(program_directory=str(tmp_path), entry_point="sleep")
        running = stub.Run.future(language_pb2.RunRequest(pwd=str(tmp_path), info=info))
        wait_for(tmp_path / "sleeping")
        child = int((tmp_path / "sleeping").read_text())
        process.send_signal(number)
        output, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, output, errors) == (0, "", "")
        assert not alive(child)
        running.cancel()


def test_nothing_of_a_request_is_logged(tmp_path: Path) -> None:
    with a_host(tmp_path) as (stub, process):
        info = language_pb2.ProgramInfo(program_directory=str(tmp_path), entry_point="3")
        config = {"p:secret": SECRET}
        stub.Run(
            language_pb2.RunRequest(pwd=str(tmp_path), info=info, config=config, configSecretKeys=["p:secret"]),
            timeout=20,
        )
        absent = language_pb2.ProgramInfo(program_directory=str(tmp_path / "absent"))
        for pwd in (str(tmp_path), str(tmp_path / "absent")):
            request = language_pb2.RunPluginRequest(
                pwd=pwd, env=[f"PULUMI_CONFIG_PASSPHRASE={SECRET}", SECRET], info=absent
            )
            try:
                answers = b"".join(
                    each.stdout + each.stderr for each in stub.RunPlugin(request, timeout=DEADLINE_SECONDS)
                )
            except grpc.RpcError as error:
                answers = str(error).encode()
            assert SECRET.encode() not in answers
        process.terminate()
        output, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert SECRET not in output + errors
