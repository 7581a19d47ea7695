"""What puts the texts of :mod:`lbnode.dataplane.rules` into the kernel and reads them back.

Our chains are replaced in one transaction per table. kube-proxy and the agent take turns by the lock of the tools (legacy) or by the
kernel's transactions (nf_tables). The same text serves both backends of the ``iptables`` package: nf_tables where the kernel has it, else
the legacy tables, which need CAP_NET_RAW besides CAP_NET_ADMIN. See docs/adr/0004.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from lbnode.dataplane.rules import (
    CHAIN_PREFIX,
    TABLES,
    TRANSLATION_TABLES,
    SavedTable,
    TableText,
    families,
    jump,
    mark,
    parse,
    render,
    transaction,
)
from lbnode.dataplane.xtables import Outline, fingerprint, fingerprint_and_outline
from lbnode.errors import Bug, ConfigError, Retry
from lbnode.model import IPNetwork
from lbnode.packet_tables import PacketTable

_PROBE_CHAIN = "SAMEGATE-TRIAL"
_TIMEOUT_SECONDS = 20
_LOCK_WAIT_SECONDS = 5
#: Exit code of the legacy tools when another program held the lock or changed the table meanwhile.
_RESOURCE_PROBLEM = 4

Runner = Callable[[Sequence[str], str], "subprocess.CompletedProcess[str]"]


def _run(command: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)


class PacketFilter:
    """Our packet filter in the kernel, or our share of other ``tables``, for the families of ``pools``. ``former`` are pools of agents before
    this one.
    """

    def __init__(
        self,
        pools: Iterable[IPNetwork],
        run: Runner = _run,
        tables: tuple[str, ...] = TABLES,
        former: Iterable[IPNetwork] = (),
    ) -> None:
        self._families = families(pools)
        self._stale_families = tuple(v for v in families(former) if v not in self._families)
        self._tables = tables
        self._run = run
        self._backend: str | None = None
        # What the tables looked like when they were last read as text, what was read, and the digest that it came to.
        self._known: tuple[tuple[str | None, ...], Mapping[tuple[int, str], SavedTable], str | None] | None = None
        # Whether that was told by outlines only.
        self._is_outline = False

    def digest(self) -> str | None:
        """The digest of the table in force; ``None`` if there is none, or if it is not what was put there.

        Right after :meth:`replace` that is told by the tables' outlines, from the next time on by every word of every rule.

        Raises:
            Retry: the tool cannot tell now.
            ConfigError: the kernel or the privileges do not allow a packet filter.
        """
        before = self._fingerprints()
        if self._known is not None and self._known[0] == before:
            digest = self._known[2]
            if self._is_outline:
                self._known, self._is_outline = None, False
            return digest
        seen = {(v, t): self._saved(v, t) for v in self._families for t in self._tables}
        digests = {self._digest_of(saved) for saved in seen.values()}
        digest = digests.pop() if len(digests) == 1 else None
        # Only what stood still while it was read may be believed later: tables that change meanwhile may well change back.
        still = None not in before and before == self._fingerprints()
        self._known, self._is_outline = (before, seen, digest) if still else None, False
        return digest

    def _outlined(self, wanted: Mapping[tuple[int, str], TableText], digest: str) -> bool:
        """Whether chains, numbers of rules and marks in the kernel are those of ``wanted``, told without starting a program: new endpoints wait
        for this, on nodes that are busy with starting them.
        """
        # Of translation the order to kube-proxy's rules matters too.
        if not self._tells_fingerprints() or self._tables == TRANSLATION_TABLES:
            return False
        fingerprints, seen = [], {}
        for version, name in ((v, t) for v in self._families for t in self._tables):
            text, found = wanted.get((version, name)), fingerprint_and_outline(version, name, CHAIN_PREFIX)
            if text is None or found is None:
                return False
            marks, rules = (mark(text, digest),) * len(text.hooks), {c: len(r) for c, r in text.chains.items()}
            if found[1] != Outline(rules, marks):
                return False
            fingerprints.append(found[0])
            jumps = tuple(f"-A {hook} {jump(hook, text, digest)}" for hook in text.hooks)
            seen[version, name] = SavedTable(text, jumps, (digest, text.hash))
        self._known, self._is_outline = (tuple(fingerprints), seen, digest), True
        return True

    def _fingerprints(self) -> tuple[str | None, ...]:
        if not self._tells_fingerprints():
            return (None,)
        return tuple(fingerprint(v, t, CHAIN_PREFIX) for v in self._families for t in self._tables)

    def _tells_fingerprints(self) -> bool:
        return self._backend == "legacy" and all(self._is_there(v, t) for v in self._families for t in self._tables)

    def _digest_of(self, saved: SavedTable) -> str | None:
        if saved.marks is None or saved.marks[1] != saved.text.hash:
            return None
        return None if saved.overtaken and self._tables == TRANSLATION_TABLES else saved.marks[0]

    def accepts(self, rule: str) -> bool:
        """Whether the kernel takes a rule of this form, tried in a chain of our own that nothing jumps to. Raises as :meth:`digest`."""
        command = [
            self._command(self._families[0] if self._families else 4, "restore"),
            "--noflush",
            "--wait",
            str(_LOCK_WAIT_SECONDS),
        ]
        chain = f"*{TABLES[0]}\n:{_PROBE_CHAIN} - [0:0]\n"
        # Two transactions, because the legacy kernel sees only what is left at the end of one. A chain that stays behind is stale by its name.
        taken = self._call(command, f"{chain}-A {_PROBE_CHAIN} {rule}\nCOMMIT\n").returncode == 0
        self._call(command, f"{chain}-X {_PROBE_CHAIN}\nCOMMIT\n")
        return taken

    def replace(self, table: PacketTable) -> None:
        """Put what ``table`` says of our families in place of whatever we have. Raises as :meth:`digest`, and :class:`Bug` when it did not come out as written."""
        wanted = render(table)
        # The tools take a tenth of a second each: what stands as it was last read is not listed again, and a family is written in one go.
        seen = self._known[1] if self._known is not None and self._known[0] == self._fingerprints() else {}
        for version in self._families:
            changes = [
                transaction(name, text, seen.get((v, name)) or self._saved(v, name), table.digest)
                for (v, name), text in wanted.items()
                if v == version
            ]
            self._restore(version, "".join(changes))
        if not self._outlined(wanted, table.digest) and self.digest() != table.digest:
            raise Bug(
                "the packet filter reads back otherwise than it was written: compare `iptables-save` with lbnode.dataplane.rules.render"
            )

    def remove(self) -> None:
        """Take away our chains and the jumps to them. Raises as :meth:`digest`."""
        self._take_away(self._families)
        self.remove_stale()

    def remove_stale(self) -> None:
        """Take away what is there of families that only former pools had. Raises as :meth:`digest`."""
        self._take_away(self._stale_families)
        self._stale_families = ()

    def _take_away(self, versions: Iterable[int]) -> None:
        for version in versions:
            for name in self._tables:
                saved = self._saved(version, name)
                if saved.text.chains or saved.jumps:
                    self._restore(version, transaction(name, None, saved, ""))

    def _saved(self, version: int, table: str) -> SavedTable:
        command = self._command(version, "save")
        if self._backend == "legacy" and not self._is_there(version, table):
            return parse("")
        done = self._call([command, "-t", table])
        if done.returncode != 0:
            raise Retry(f"{command} -t {table}: {_last_line(done)}")
        return parse(done.stdout)

    @staticmethod
    def _is_there(version: int, table: str) -> bool:
        """Looking at a legacy table makes it, and connection tracking with ``nat``."""
        return table in _legacy_tables(_tool(version))

    def _restore(self, version: int, text: str) -> None:
        command = self._command(version, "restore")
        done = self._call([command, "--noflush", "--wait", str(_LOCK_WAIT_SECONDS)], text)
        if done.returncode == _RESOURCE_PROBLEM:
            raise Retry(f"{command}: {_last_line(done)}")
        if done.returncode != 0:
            raise ConfigError(
                command,
                f"the kernel refuses the packet filter: {_last_line(done)}",
                "Run `modprobe -a xt_CT xt_TCPMSS xt_conntrack xt_connmark xt_comment xt_tcpudp xt_nat xt_statistic xt_hashlimit xt_MASQUERADE` on the node, and name them in /etc/modules-load.d/samegate.conf",
            )

    def _command(self, version: int, verb: str) -> str:
        if self._backend is None:
            self._backend = self._choose()
        return f"{_tool(version)}-{self._backend}-{verb}"

    def _choose(self) -> str:
        """``nft`` or ``legacy``: the one that holds our chains already, else the first that works when tried."""
        tool = _tool(self._families[0] if self._families else 4)
        backends = [b for b in ("nft", "legacy") if shutil.which(f"{tool}-{b}-restore")]
        for backend in backends:
            # Looking at a legacy table makes it, so look only at one that is there.
            if backend == "legacy" and TABLES[0] not in _legacy_tables(tool):
                continue
            saved = self._call([f"{tool}-{backend}-save", "-t", TABLES[0]])
            if saved.returncode == 0 and parse(saved.stdout).text.chains:
                return backend
        said = []
        for backend in backends:
            trial = "\n".join(
                [
                    f"*{TABLES[0]}",
                    f":{_PROBE_CHAIN} - [0:0]",
                    f"-A {_PROBE_CHAIN} -j CT --notrack",
                    f"-F {_PROBE_CHAIN}",
                    f"-X {_PROBE_CHAIN}",
                    "COMMIT",
                    "",
                ]
            )
            done = self._call([f"{tool}-{backend}-restore", "--noflush", "--wait", str(_LOCK_WAIT_SECONDS)], trial)
            if done.returncode == 0:
                return backend
            said.append(f"{backend}: {_last_line(done)}")
        raise ConfigError(
            "the packet filter",
            "neither backend of iptables works here (" + "; ".join(said or ["the tools are not installed"]) + ")",
            "For nft the kernel needs nf_tables and nft_compat; for legacy ip_tables, iptable_raw and iptable_mangle (`modprobe` them on the node) "
            "and the container the capability NET_RAW and a writable /run/xtables.lock",
        )

    def _call(self, command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
        try:
            return self._run(command, text)
        except FileNotFoundError:
            raise ConfigError(
                command[0], "the tool is not installed", "Install the package iptables in the image"
            ) from None
        except subprocess.TimeoutExpired:
            raise Retry(f"{command[0]} did not end within {_TIMEOUT_SECONDS} s") from None


def _legacy_tables(tool: str) -> list[str]:
    try:
        return Path(f"/proc/net/{tool.removesuffix('tables')}_tables_names").read_text().split()
    except OSError:
        return []


def _tool(version: int) -> str:
    return "iptables" if version == 4 else "ip6tables"


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {done.returncode}"
