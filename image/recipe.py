"""What the one image is made of: every name and pin of the recipe, and why it is there.

Changing anything here changes the hash that the cached layers are kept under.
"""

from __future__ import annotations

SUITE = "bookworm"
PYTHON = (3, 11)
"""The suite's Python; byte code is compiled by it while building."""

PLATFORM = "x86_64-manylinux_2_36"
"""Which wheels fit: Debian 12 has glibc 2.36."""

SOURCE_DATE_EPOCH = 1751328000
"""2025-07-01: the one time stamp of every file, so that the same input gives the same digest."""

DEBIAN_PACKAGES = {
    "base-files": "os-release, the licences of the distribution",
    "netbase": "/etc/protocols, which iptables reads",
    "python3.11": "runs the agent",
    "busybox": "a shell for the BIRD supervisor and for people; a tenth of coreutils",
    "bird2": "BGP and BFD in a process of their own",
    "nftables": "the packet filter",
    "iptables": "the packet filter on kernels without nf_tables families (a functional probe decides)",
    "libbpf1": "loads the XDP program, where dataplane xdp is chosen",
    "ipset": "the set of served ports, for iptables",
    "iproute2": "`ip`, for people who look into a pod",
}

PROGRAMS = frozenset(
    {
        "python3.11",
        "busybox",
        "ip",
        "bird",
        "birdc",
        "birdcl",
        "nft",
        "ipset",
        "xtables-legacy-multi",
        "xtables-nft-multi",
    }
)
"""The only programs left in bin and sbin, beside links to them. A list of what stays cannot forget a compiler or a set-user-id file."""

APPLETS = (
    "sh", "sleep", "cat", "ls", "ps", "kill", "pidof", "grep", "sed", "head", "tail", "env", "id", "mv", "cp", "rm", "mkdir", "timeout", "wget", "nc",
)  # fmt: skip

LINKS = {
    "usr/bin/python3": "python3.11",
    **{f"usr/bin/{applet}": "busybox" for applet in APPLETS},
    **{f"usr/sbin/{v}tables{s}": "xtables-legacy-multi" for v in ("ip", "ip6") for s in ("", "-save", "-restore")},
}

DROPPED = (
    "boot", "lib32", "libx32", "home", "var/cache", "var/lib/apt", "var/lib/dpkg", "var/log", "tmp",
    "etc/apt", "etc/dpkg", "etc/pam.d", "etc/security", "etc/cron.daily", "etc/skel", "etc/init.d", "etc/systemd", "etc/logrotate.d",
    "etc/rc0.d", "etc/rc1.d", "etc/rc2.d", "etc/rc3.d", "etc/rc4.d", "etc/rc5.d", "etc/rc6.d", "etc/rcS.d", "etc/default",
    # Written into the container by the kubelet; what mmdebstrap copies here belongs to the machine that builds.
    "etc/resolv.conf", "etc/hostname", "etc/fstab",
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/perl5", "usr/share/debconf",
    "usr/share/dpkg", "usr/share/bash-completion", "usr/share/bug", "usr/share/common-licenses", "usr/share/initramfs-tools",
    "usr/share/applications", "usr/share/pixmaps", "usr/share/pam-configs", "usr/share/polkit-1", "usr/share/sensible-utils", "usr/share/ucf",
    "usr/share/binfmts", "usr/share/dict", "usr/share/base-files",
    "usr/lib/systemd", "usr/lib/tmpfiles.d", "usr/lib/binfmt.d", "usr/lib/mime", "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/security", "usr/lib/x86_64-linux-gnu/engines-3", "usr/lib/x86_64-linux-gnu/libdb-5.3.so",
    "usr/lib/python3.11/test", "usr/lib/python3.11/unittest/test", "usr/lib/python3.11/pydoc_data", "usr/lib/python3.11/distutils",
    "usr/lib/python3.11/venv", "usr/lib/python3.11/turtle.py", "usr/lib/python3.11/curses",
)  # fmt: skip
"""Below the root of the file system: documents, translations, the package manager, and library parts that nothing here imports."""

FILES = {
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\nsamegate:x:65532:65532:samegate:/:/bin/false\n",
    "etc/group": "root:x:0:\nsamegate:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

SITE_PACKAGES = "usr/local/lib/python3.11/dist-packages"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
PACKAGE_RECORDS = "var/lib/dpkg/status.d"
"""One file per Debian package, as distroless images have them: scanners look there when there is no package manager."""

COMMANDS = {
    f"usr/local/bin/{name}": "#!/usr/bin/python3\nfrom lbnode.command.app import main\n\nmain()\n"
    for name in ("samegate", "kubectl-samegate")
}
"""The operator's command beside the agent, for machines that have this image and not the checkout."""

CONFIG: dict[str, object] = {
    "Entrypoint": ["/usr/bin/python3", "-m", "lbnode"],
    "Env": [
        "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONUNBUFFERED=1",
    ],
    "WorkingDir": "/",
}

LIMIT_BYTES = 110_000_000
"""The compressed image stays below this."""
