"""docs/upgrade.md, run as it stands: every block of every step, and what it says that you see.

Commands go to the lab's counterparts: kubectl and what runs on a node as written, `pulumi`, the build and the copy to the registry through
`lab.deploy`, which adds the lab's own stack file and state. A command that nobody knows here, or a step without a check, fails.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from lab import cluster, deploy, leftovers, registry, topology
from lab.machines import Machine
from lab.report.bench import Bench
from lab.report.lifecycle import apps_pinned
from tests.lab.conftest import CHECKOUT

GUIDE = CHECKOUT / "docs" / "upgrade.md"
NODE = topology.EDGES[1]
BLOCK = re.compile(r"^```sh( node)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One heading of the guide with its commands; `on_node` are those that run on the node."""

    title: str
    commands: tuple[tuple[bool, str], ...]


def steps(text: str) -> tuple[Step, ...]:
    """The steps of the guide, in order: `### NUMBER. TITLE`, and the lines of their `sh` blocks."""
    found = []
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0].split(". ", 1)[1]
        lines = [(bool(on_node), line) for on_node, block in BLOCK.findall(section) for line in block.splitlines()]
        found.append(Step(title, tuple(lines)))
    return tuple(found)


@dataclass
class Walk:
    """The rack as somebody walks through the guide on it: words of the guide with their values here, and files written."""

    bench: Bench
    words: dict[str, str]
    pinned: dict[str, object]
    image: str = ""
    files: dict[str, str] = field(default_factory=dict)
    last: deploy.Result = field(default_factory=lambda: deploy.Result({}))

    def run(self, on_node: bool, line: str) -> str:
        """What the command prints; KeyError for a command that has no counterpart here."""
        for word, value in self.words.items():
            line = re.sub(rf"\b{word}\b", value, line)
        if on_node:
            return Machine(NODE.name).run(line, 180).stdout
        argv, _, target = line.partition(" > ")
        said = COMMANDS[shlex.split(argv)[0]](self, shlex.split(argv)[1:])
        if target:
            self.files[target] = said
        return said

    def kubectl(self, arguments: list[str]) -> str:
        return cluster.kubectl(*arguments, timeout_seconds=330)

    def pulumi(self, arguments: list[str]) -> str:
        match arguments:
            case ["stack", "output", name, *_]:
                return str(deploy.outputs()[name])
            case ["config", "set", "-s", _, "samegate:image", image]:
                self.image = image
                return ""
            case ["preview", *_]:
                self.last = deploy.preview(self.image, self.pinned)
            case ["up", *_]:
                self.last = deploy.deploy(self.image, self.pinned)
            case ["destroy", *_]:
                self.last = deploy.destroy()
            case _:
                raise KeyError(f"pulumi {' '.join(arguments)}")
        return self.last.said

    def python(self, arguments: list[str]) -> str:
        match arguments:
            case ["-m", "image", "build", *_]:
                self.words["NEW_IMAGE"] = deploy.build_and_push({"dev.samegate.lab.guide": "next"})
                return self.words["NEW_IMAGE"]
            case ["-m", "image", "sbom"]:
                return deploy.IMAGE_ARCHIVE.with_name("labelled.cdx.json").read_text()
            case _:
                raise KeyError(f"python {' '.join(arguments)}")

    def skopeo(self, _arguments: list[str]) -> str:
        return str(registry.digest_of("samegate"))

    def scp(self, arguments: list[str]) -> str:
        source, (node, _, path) = arguments[0], arguments[1].partition(":")
        Machine(node).run(["tee", path], input=self.files[source])
        return ""


COMMANDS: dict[str, Callable[[Walk, list[str]], str]] = {
    "kubectl": Walk.kubectl,
    "pulumi": Walk.pulumi,
    "python": Walk.python,
    "skopeo": Walk.skopeo,
    "scp": Walk.scp,
}


def _all_run(image: str, said: str) -> None:
    assert set(said.split()) == {image}


def _kept(walk: Walk, said: list[str]) -> None:
    assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", said[0])
    assert '"pools"' in walk.files["samegate-settings.json"]


def _built(walk: Walk, said: list[str]) -> None:
    assert walk.words["NEW_IMAGE"] != walk.words["OLD_IMAGE"]
    assert '"bomFormat": "CycloneDX"' in said[1]
    assert walk.words["NEW_IMAGE"].endswith(f"@{said[2]}"), "the registry has what was built"


def _previewed(walk: Walk, said: list[str]) -> None:
    assert {name: count for name, count in walk.last.operations.items() if name != "same"} == {"update": 3}


def _rolled_out(walk: Walk, said: list[str]) -> None:
    assert "successfully rolled out" in said[1]
    assert "successfully rolled out" in said[2]
    _all_run(walk.words["NEW_IMAGE"], said[3])


def _announced(walk: Walk, said: list[str]) -> None:
    verdicts = [line.split() for line in said[0].splitlines()]
    assert len(verdicts) >= 2
    assert {verdict[-1] for verdict in verdicts} == {"True"}
    assert walk.last.changed == 0


def _rolled_back(walk: Walk, said: list[str]) -> None:
    assert "successfully rolled out" in said[2]
    _all_run(walk.words["OLD_IMAGE"], said[3])


def _withdrawn(walk: Walk, said: list[str]) -> None:
    for service in walk.bench.services():
        vip = service["status"]["loadBalancer"]["ingress"][0]["ip"]
        walk.bench.wait_announced(vip, walk.bench.edges - {NODE.name}, 30)


def _left_by_the_agent(walk: Walk, said: list[str]) -> None:
    assert said[2].count("-A ") >= 2, "the table is still there, or the next step proves nothing"


def _cleaned(walk: Walk, said: list[str]) -> None:
    assert "samegate's edge state is gone from this node" in said[1]
    assert said[2].strip() == ""


def _destroyed(walk: Walk, said: list[str]) -> None:
    assert said[1].strip() == ""
    assert said[2].strip() == ""
    before = leftovers.remembered()
    assert before is not None
    assert leftovers.differences(before, leftovers.snapshot()) == []


SEEN: dict[str, Callable[[Walk, list[str]], None]] = {
    "Keep the way back": _kept,
    "Build and push": _built,
    "Look before you leap": _previewed,
    "Roll out": _rolled_out,
    "See that everything is announced": _announced,
    "Roll back": _rolled_back,
    "Withdraw it": _withdrawn,
    "Take its agent away": _left_by_the_agent,
    "Clean it": _cleaned,
    "Destroy": _destroyed,
}


def test_every_step_of_the_guide_is_checked_and_every_command_has_a_counterpart() -> None:
    found = steps(GUIDE.read_text())
    assert [step.title for step in found] == list(SEEN)
    assert all(step.commands for step in found)
    unknown = {shlex.split(line)[0] for step in found for on_node, line in step.commands if not on_node} - set(COMMANDS)
    assert unknown == set()


def test_a_block_outside_of_any_step_would_not_be_run_so_there_is_none() -> None:
    text = GUIDE.read_text()
    assert len(BLOCK.findall(text)) == text.count("```") / 2
    assert sum(len(block.splitlines()) for _, block in BLOCK.findall(text)) == sum(
        len(step.commands) for step in steps(text)
    )


@pytest.fixture
def walk(bench: Bench) -> Iterator[Walk]:
    """Leaves the rack as it was found: the image of before, both edge nodes labelled and not drained."""
    image = str(deploy.outputs()["image"])
    pinned = apps_pinned(image)
    deploy.deploy(image, pinned)
    words = {"OLD_IMAGE": image, "NODE": NODE.name, "ADDRESS": str(NODE.address), "REGISTRY": topology.REGISTRY}
    yield Walk(bench, words, pinned, image)
    cluster.kubectl("label", "node", NODE.name, f"{topology.ROLE_LABEL}={NODE.role}", "--overwrite")
    Bench.undrain(NODE.name)
    deploy.deploy(image)


@pytest.mark.lab
@pytest.mark.slow
def test_the_guide_does_what_it_says_from_the_first_step_to_the_last(walk: Walk) -> None:
    for step in steps(GUIDE.read_text()):
        said = [walk.run(on_node, line) for on_node, line in step.commands]
        SEEN[step.title](walk, said)
        if step.title == "Clean it":
            # Back into service, so that `destroy` has two edge nodes to take away.
            cluster.kubectl("label", "node", NODE.name, f"{topology.ROLE_LABEL}={NODE.role}")
            Bench.undrain(NODE.name)
            walk.bench.settle(180)
