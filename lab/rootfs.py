"""The machines' base disk: Debian with systemd, containerd and sshd, made once and kept in the tool cache.

The disk is never written by a machine: each has a copy-on-write file over it. It is named by a digest of its recipe,
so a change of the recipe makes a new one, and a half-made one never bears the name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import tools
from lab import netns

SUITE = "bookworm"
SIZE = "8G"
"""Size that the machine sees; the file is sparse (about 500 MB on disk)."""
MODULES = Path("/usr/lib/uml/modules")
"""Where Debian's user-mode-linux keeps the kernel modules of its kernel."""
OVERLAY = Path(__file__).parent / "uml" / "rootfs"
"""Files that are laid over the packages'."""

PACKAGES = {
    "systemd": "init",
    "systemd-sysv": "init",
    "openssh-server": "how commands run on the machine",
    "containerd": "container runtime",
    "runc": "container runtime",
    "containernetworking-plugins": "the pods' network",
    "ca-certificates": "kubelet",
    "conntrack": "kube-proxy",
    "ebtables": "kube-proxy",
    "ethtool": "kubelet",
    "ipset": "kube-proxy, tests",
    "iptables": "kube-proxy, samegate",
    "ipvsadm": "to look at samegate's table",
    "iproute2": "network set-up",
    "iputils-ping": "to look at the network",
    "kmod": "modules on demand",
    "procps": "sysctl, to look at processes",
    "socat": "kubectl port-forward",
    "tcpdump": "to look at the network",
    "busybox-static": "small tools",
    "e2fsprogs": "disk check after a crash",
}
ENABLED = ("samegate-node.service", "kubelet.service", "kube-proxy.service", "ssh.service", "containerd.service")
MASKED = (
    # Nobody logs in on a console, nothing is updated, and every timer costs a slow machine time.
    "getty@tty1.service",
    "console-getty.service",
    "systemd-logind.service",
    "systemd-timesyncd.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
    "systemd-journal-catalog-update.service",
    "systemd-hwdb-update.service",
    # Its rules would be somebody else's in samegate's table.
    "ipvsadm.service",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "proc-sys-fs-binfmt_misc.automount",
    "dev-mqueue.mount",
    "dev-hugepages.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
)


def _overlay_files() -> list[Path]:
    return sorted(path for path in OVERLAY.rglob("*") if path.is_file())


def recipe_digest() -> str:
    """A digest of everything that decides what the disk holds, but for the versions of Debian's packages."""
    digest = hashlib.sha256(repr((SUITE, SIZE, sorted(PACKAGES), ENABLED, MASKED)).encode())
    for path in _overlay_files():
        digest.update(f"{path.relative_to(OVERLAY)} {path.stat().st_mode & 0o111}\n".encode())
        digest.update(path.read_bytes())
    digest.update(",".join(sorted(entry.name for entry in MODULES.iterdir())).encode() if MODULES.is_dir() else b"")
    return digest.hexdigest()[:16]


def cache_directory() -> Path:
    """`rootfs` in the tool cache."""
    return tools.cache_folder() / "rootfs"


def disk() -> Path:
    """The base disk's file, whether it is there yet or not."""
    return cache_directory() / f"base-{recipe_digest()}.ext4"


def trouble() -> str | None:
    """Why the disk has to be made, or None."""
    return None if disk().is_file() else "not in the cache"


def _mirror() -> list[str]:
    """The mirror that this machine's own apt uses for the suite, so that a private mirror is honoured."""
    listed = netns.run(
        None,
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {SUITE}"],
        check=False,
    )
    return listed.stdout.split()[:1]


def build(*, log: Path) -> None:
    """Make the disk: packages by mmdebstrap (about a minute), then the file system (three seconds).

    Raises CommandError with the end of what mmdebstrap said; its whole output is in `log`.
    """
    target = disk()
    target.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob("*.making-*"):
        if not Path(f"/proc/{stale.name.rpartition('-')[2]}").exists():
            shutil.rmtree(stale, ignore_errors=True)
    work = target.parent / f"{target.stem}.making-{os.getpid()}"
    work.mkdir()
    try:
        _bootstrap(work / "root", log)
        image = work / "disk"
        netns.run(None, ["truncate", "--size", SIZE, str(image)])
        options = ["-E", "lazy_itable_init=1,lazy_journal_init=1", "-J", "size=32"]
        netns.run(
            None, ["mke2fs", "-q", "-t", "ext4", *options, "-d", str(work / "root"), str(image)], timeout_seconds=300
        )
        image.chmod(0o444)
        image.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _bootstrap(root: Path, log: Path) -> None:
    hooks = [
        f"mkdir -p $1/lib/modules && cp -a {MODULES}/. $1/lib/modules/",
        f"cp -rT --preserve=mode {OVERLAY} $1",
        # The kernel has no IPv4 tables for nftables, only those of the legacy tool.
        "for t in iptables ip6tables ebtables; do chroot $1 update-alternatives --set $t /usr/sbin/$t-legacy; done",
        f"chroot $1 systemctl enable {' '.join(ENABLED)}",
        f"chroot $1 systemctl mask {' '.join(MASKED)}",
        # Empty: made at the first boot, so that no two machines have the same.
        "for f in machine-id resolv.conf fstab; do rm -f $1/etc/$f; : > $1/etc/$f; done",
        "rm -f $1/etc/ssh/ssh_host_* $1/etc/hostname $1/var/lib/dbus/machine-id",
        "rm -rf $1/usr/share/doc/* $1/usr/share/man/* $1/usr/share/locale/* $1/var/cache/apt/*",
    ]
    argv = [
        # Its mounts die with it, however it ends.
        "unshare", "--mount", "--pid", "--fork", "--kill-child",
        "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}",
        "--aptopt=APT::Install-Recommends false", "--dpkgopt=path-exclude=/usr/share/doc/*",
        *(f"--customize-hook={hook}" for hook in hooks),
        SUITE, str(root), *_mirror(),
    ]  # fmt: skip
    completed = netns.run(None, argv, check=False, timeout_seconds=1800)
    log.write_text(completed.stdout + completed.stderr)
    if completed.returncode != 0:
        raise netns.CommandError(argv[5:9], completed.returncode, f"{completed.stderr}\n(whole output: {log})")
