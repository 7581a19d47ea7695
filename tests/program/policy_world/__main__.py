"""Registers the resources of a file, whatever their types: as the engine sees them, without the providers that would make them.

They are registered as no provider's, by the engine's own protocol, since a component cannot say what it depends on.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pulumi
from google.protobuf import struct_pb2
from pulumi.runtime import get_root_resource
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.settings import get_monitor


def _struct(values: dict[str, Any]) -> struct_pb2.Struct:
    found = struct_pb2.Struct()
    found.update(values)
    return found


async def _register(world: dict[str, Any]) -> None:
    root = get_root_resource()
    assert root is not None
    parent, monitor = await root.urn.future(), get_monitor()
    urns: dict[str, str] = {}
    for name, resource in world["resources"].items():
        request = resource_pb2.RegisterResourceRequest(
            type=resource["type"],
            name=name,
            parent=parent,
            object=_struct(resource["properties"]),
            protect=resource.get("protect", False),
            deleteBeforeReplace=resource.get("deleteBeforeReplace", False),
            deleteBeforeReplaceDefined=True,
            dependencies=[urns[other] for other in resource.get("dependencies", ())],
            acceptSecrets=True,
        )
        answer = await asyncio.get_running_loop().run_in_executor(None, monitor.RegisterResource, request)
        urns[name] = answer.urn
        outputs = resource_pb2.RegisterResourceOutputsRequest(urn=answer.urn, outputs=_struct(resource["properties"]))
        await asyncio.get_running_loop().run_in_executor(None, monitor.RegisterResourceOutputs, outputs)


world = json.loads(Path(os.environ["POLICY_WORLD"]).read_text())
done = pulumi.Output.from_input(_register(world))
for key, value in world["outputs"].items():
    pulumi.export(key, pulumi.Output.all(done, value).apply(lambda both: both[1]))
