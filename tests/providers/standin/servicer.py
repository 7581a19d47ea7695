"""The stand-in as a resource provider of the real engine: Pulumi's gRPC protocol over a simulated cloud."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime import proto
from pulumi.runtime._grpc_settings import _GRPC_CHANNEL_OPTIONS
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, status_pb2
from pulumi.runtime.rpc import UNKNOWN

from tests.providers.standin import cloud, sdk
from tests.providers.standin.rules import Rules

ENGINE_CHECK_SECONDS = 1.0
_ADD, _DELETE, _UPDATE = (
    (proto.PropertyDiff.ADD, proto.PropertyDiff.ADD_REPLACE),
    (proto.PropertyDiff.DELETE, proto.PropertyDiff.DELETE_REPLACE),
    (proto.PropertyDiff.UPDATE, proto.PropertyDiff.UPDATE_REPLACE),
)


def _plain(struct: struct_pb2.Struct) -> dict[str, Any]:
    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: whole(v) for k, v in value.items()}
        if isinstance(value, list):
            return [whole(v) for v in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return {str(k): whole(v) for k, v in json_format.MessageToDict(struct).items() if v is not None}


def _struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    return json_format.ParseDict(dict(values), struct_pb2.Struct())


def _token(urn: str) -> str:
    return urn.split("::")[-2].split("$")[-1]


def _name(urn: str) -> str:
    return urn.split("::")[-1]


class Servicer(provider_pb2_grpc.ResourceProviderServicer):
    """Answers the engine. ``rules`` are those of one fabric; ``path`` is the file of the simulated world."""

    def __init__(self, rules: Rules, path: Path) -> None:
        self.rules, self.path = rules, path
        self.config: dict[str, Any] = {}

    async def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return proto.PluginInfo(version=sdk.sdk_version(self.rules.package))

    async def GetSchema(self, request: Any, context: Any) -> Any:
        return provider_pb2.GetSchemaResponse(
            schema=json.dumps({"name": self.rules.package, "version": sdk.sdk_version(self.rules.package)})
        )

    async def Handshake(self, request: Any, context: Any) -> Any:
        return await _refuse(context, grpc.StatusCode.UNIMPLEMENTED, "the older protocol suffices")

    async def CheckConfig(self, request: Any, context: Any) -> Any:
        return proto.CheckResponse(inputs=request.news)

    async def DiffConfig(self, request: Any, context: Any) -> Any:
        return proto.DiffResponse(changes=proto.DiffResponse.DIFF_NONE)

    async def Configure(self, request: Any, context: Any) -> Any:
        # What is no text is JSON to a provider.
        self.config = {
            k: json.loads(v) if isinstance(v, str) and v[:1] in "{[" else v for k, v in _plain(request.args).items()
        }
        return proto.ConfigureResponse(
            acceptSecrets=False, supportsPreview=True, acceptResources=False, acceptOutputs=False
        )

    async def Invoke(self, request: Any, context: Any) -> Any:
        return await _refuse(
            context, grpc.StatusCode.UNIMPLEMENTED, f"{request.tok}: the program must not look anything up"
        )

    async def Check(self, request: Any, context: Any) -> Any:
        token, inputs = _token(request.urn), _plain(request.news)
        try:
            found = sdk.findings(sdk.resource_type(token), inputs)
        except sdk.UnknownType as error:
            found = [("", str(error))]
        if not found:
            found = self.rules.findings(token, inputs)
        # As real providers do: a name that the cloud wants and the program left out is made from the logical one.
        if not found and (named := self.rules.automatic_name(token)) and named not in inputs:
            former = _plain(request.olds).get(named)
            inputs[named] = former or f"{_name(request.urn)}-{request.randomSeed.hex()[:7]}"
        if not found:
            inputs |= self.rules.added(token, inputs, self.config)
        failures = [proto.CheckFailure(property=name, reason=reason) for name, reason in found]
        return proto.CheckResponse(inputs=_struct(inputs), failures=failures)

    async def Diff(self, request: Any, context: Any) -> Any:
        token, old, new = _token(request.urn), _plain(request.old_inputs), _plain(request.news)
        details: dict[str, Any] = {}
        replaces: list[str] = []
        for name in sorted((old.keys() | new.keys()) - {"__defaults"}):
            if old.get(name) == new.get(name):
                continue
            replace = self.rules.replaces(token, name, old, new)
            kinds = _ADD if name not in old else _DELETE if name not in new else _UPDATE
            details[name] = proto.PropertyDiff(kind=kinds[replace], inputDiff=True)
            if replace:
                replaces.append(name)
        return proto.DiffResponse(
            changes=proto.DiffResponse.DIFF_SOME if details else proto.DiffResponse.DIFF_NONE,
            replaces=replaces,
            diffs=list(details),
            detailedDiff=details,
            hasDetailedDiff=True,
        )

    async def Create(self, request: Any, context: Any) -> Any:
        token, name, inputs = _token(request.urn), _name(request.urn), _plain(request.properties)
        if request.preview:
            return proto.CreateResponse(id="", properties=_struct(self._previewed(token, inputs)))

        def create(world: cloud.World) -> cloud.Object:
            made = self.rules.create(world, token, name, inputs, self.config)
            world.objects[made.identifier] = made
            return made

        made = await self._call(context, token, "create", name, create)
        return proto.CreateResponse(id=made.identifier, properties=_struct(self._outputs(made)))

    async def Update(self, request: Any, context: Any) -> Any:
        token, name, new = _token(request.urn), _name(request.urn), _plain(request.news)
        if request.preview:
            return proto.UpdateResponse(properties=_struct({**_plain(request.olds), **new}))

        def update(world: cloud.World) -> cloud.Object:
            return self.rules.update(world, world.get(request.id, token), new, self.config)

        changed = await self._call(context, token, "update", name, update)
        return proto.UpdateResponse(properties=_struct(self._outputs(changed)))

    async def Delete(self, request: Any, context: Any) -> Any:
        token, name = _token(request.urn), _name(request.urn)

        def delete(world: cloud.World) -> None:
            # What is gone already is what was asked for: real providers are silent, too.
            if (present := world.objects.get(request.id)) is not None:
                self.rules.delete(world, present)
                del world.objects[request.id]

        await self._call(context, token, "delete", name, delete)
        return empty_pb2.Empty()

    async def Read(self, request: Any, context: Any) -> Any:
        world = cloud.read(self.path)
        present = world.objects.get(request.id)
        if present is None:
            return provider_pb2.ReadResponse()
        inputs, secrets = _plain(request.inputs), self.rules.secrets(present.token)
        current = {
            # Only digests of secrets are kept: the engine's own value stands while the digest is the same.
            k: inputs.get(k) if k in secrets and cloud.sealed(inputs.get(k)) == v else v
            for k, v in present.inputs.items()
        }
        outputs = {**current, **present.outputs}
        return provider_pb2.ReadResponse(id=request.id, properties=_struct(outputs), inputs=_struct(current))

    async def Cancel(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def _previewed(self, token: str, inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: inputs.get(name, UNKNOWN) for name in sdk.resource_type(token).outputs} | inputs

    def _outputs(self, present: cloud.Object) -> dict[str, Any]:
        return {k: v for k, v in present.properties.items() if v is not None}

    async def _call(
        self, context: Any, token: str, operation: str, name: str, act: Callable[[cloud.World], Any]
    ) -> Any:
        """Do it in the world, unless a fault is due; asks again where a real provider would."""
        for attempt in range(cloud.ATTEMPTS):
            with cloud.opened(self.path) as world:
                world.log.append(f"{operation} {token} {name}")
                fault = cloud.due(world, token, operation, name)
                if fault in ("Throttled", "NotVisibleYet") and attempt + 1 < cloud.ATTEMPTS:
                    continue
                try:
                    if fault in (None, "CreatedButFailed", "Hang"):
                        done = act(world)
                    elif fault != "Lost":
                        raise cloud.Refused(fault, "injected by the test")
                except cloud.Refused as refusal:
                    await _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, f"[SIMULATED] {refusal}")
            if fault in ("Hang", "Lost"):
                await asyncio.sleep(3600)
            if fault == "CreatedButFailed":
                await _refuse_half_made(context, done.identifier, self._outputs(done), done.inputs)
            return done
        raise AssertionError("the last attempt either returns or raises")


async def _refuse(context: Any, code: grpc.StatusCode, message: str) -> Any:
    await context.abort(code, message)


async def _refuse_half_made(
    context: Any, identifier: str, outputs: Mapping[str, Any], inputs: Mapping[str, Any]
) -> None:
    """Tell the engine that the object is there but not as it should be: it keeps it in its state and updates it the next time."""
    detail = provider_pb2.ErrorResourceInitFailed(
        id=identifier, properties=_struct(outputs), inputs=_struct(inputs), reasons=["[SIMULATED] injected by the test"]
    )
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message="[SIMULATED] failed after it was made")
    status.details.add().Pack(detail)
    await context.abort_with_status(_Status(status))


class _Status(grpc.Status):  # type: ignore[misc]
    def __init__(self, status: Any) -> None:
        self.code = grpc.StatusCode.UNKNOWN
        self.details = status.message
        self.trailing_metadata = (("grpc-status-details-bin", status.SerializeToString()),)


def serve(rules: Rules, path: Path) -> None:
    """Answer the engine that started this process until either ends. Prints the port, which is what the engine waits for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", nargs="?")
    parser.parse_known_args()
    engine = os.getppid()

    async def run() -> None:
        server = grpc.aio.server(options=_GRPC_CHANNEL_OPTIONS)
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(Servicer(rules, path), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        # An engine that is killed ends nobody else.
        while os.getppid() == engine:
            await asyncio.sleep(ENGINE_CHECK_SECONDS)
        await server.stop(None)

    asyncio.run(run())
