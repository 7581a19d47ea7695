"""One router's configuration in the language of its platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from components.routers import bird, eos, frr, iosxe, junos, nxos, sonic, vyos
from components.routers.model import Router, check_keys, named, routers
from components.settings import StackSettings

Renderer = Callable[[Router, Mapping[str, str]], dict[str, str]]

PLATFORMS: Mapping[str, Renderer] = {
    "frr": frr.render,
    "bird": bird.render,
    "vyos": vyos.render,
    "nx-os": nxos.render,
    "ios-xe": iosxe.render,
    "junos": junos.render,
    "eos": eos.render,
    "sonic": sonic.render,
}


def configurations(settings: StackSettings, keys: Mapping[str, str] | None = None) -> dict[str, dict[str, str]]:
    """The files of every router of a stack: router's name to file name to text.

    Without ``keys`` (TCP MD5 keys by name) a reference like `${bgpKeys.tor}` stands for each, so that the texts are no secrets.

    Raises:
        ConfigError: a router names a peer that there is not, its peers cannot be one router's, or a key would be read as something else.
    """
    check_keys(keys or {})
    resolved = routers(settings)
    platforms = {router.name: router.platform for router in named(settings)}
    return {router.name: PLATFORMS[platforms[router.name]](router, keys or {}) for router in resolved}
