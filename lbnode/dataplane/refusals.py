"""What a refusal of the kernel means for the operator, or for the next try."""

from __future__ import annotations

import errno
import os

from lbnode.errors import ConfigError, Retry


def missing_module(module: str, what: str) -> ConfigError:
    """The kernel can neither do ``what`` nor load the module for it."""
    return ConfigError(
        f"kernel {os.uname().release}",
        f"has no {what} and could not load module {module}",
        f"Run `modprobe {module}` on the node, and write {module} into /etc/modules-load.d/samegate.conf so that it stays",
    )


def missing_privilege() -> ConfigError:
    """The container may not change the network."""
    return ConfigError(
        "the agent's capabilities",
        "CAP_NET_ADMIN is missing",
        "Give the container the capability NET_ADMIN and run it as uid 0",
    )


def failure(what: object, error: OSError) -> ConfigError | Retry:
    """What an ``OSError`` of rtnetlink means for the caller."""
    if error.errno == errno.EPERM:
        return missing_privilege()
    if error.errno == errno.EACCES:
        return ConfigError(
            f"{what}",
            "IPv6 is switched off on the loopback device (sysctl net.ipv6.conf.lo.disable_ipv6)",
            "Run `sysctl -w net.ipv6.conf.lo.disable_ipv6=0` on the node, or take the IPv6 address off its Node",
        )
    return Retry(f"the kernel refused {what}: {error.strerror}")
