"""Checks of the settings and the plugins."""

from __future__ import annotations

import importlib
import ipaddress
import pkgutil
from collections.abc import Iterator

import web

from webpy_socketio import plugins as bundled
from webpy_socketio.cli.checks import LEVELS, CheckContext, Finding, ok, problem, warning
from webpy_socketio.cli.plugin_preview import preview_plugins
from webpy_socketio.config.settings import Settings
from webpy_socketio.exceptions import ConfigurationError
from webpy_socketio.runtime import default_runtime

__all__ = ["origins", "plugins", "settings"]


def settings(context: CheckContext) -> Iterator[Finding]:
    """Check that settings exist, have valid values and are given once; list their sources."""
    nearest = {
        one.name: one for one in default_runtime.sources.given(web.config)
    }  # the last source has precedence
    for one in default_runtime.sources.given(web.config):
        near = nearest[one.name]
        if one.wrong is not None:
            yield problem("settings", f"{one.source}: {one.wrong}", f"correct it in {one.source}")
        elif one is near or (one.source, one.shown) == (near.source, near.shown):
            yield ok("settings", f"{one.name} = {one.shown}, from {one.source}")
        elif one.shown != near.shown:
            yield warning(
                "settings",
                f"{one.name} is {one.shown} in {one.source}, but {near.shown} in {near.source} "
                "has precedence",
                "set it once",
            )
    if not nearest and context.named is not None:
        yield ok("settings", "none set: defaults")
    yield from _contradictions(context.settings, nearest.keys())


def _contradictions(chosen: Settings, names: object) -> Iterator[Finding]:
    if chosen.max_message_size > chosen.outbox_bytes:
        yield warning(
            "settings",
            "SOCKETIO_MAX_MESSAGE_SIZE exceeds SOCKETIO_OUTBOX_BYTES: a message of the "
            "maximum size cannot be forwarded",
            "raise SOCKETIO_OUTBOX_BYTES, or lower SOCKETIO_MAX_MESSAGE_SIZE",
        )
    enabled = {name.rpartition(".")[2].upper() for name in chosen.plugins}
    for module in pkgutil.iter_modules(bundled.__path__):
        prefix = f"SOCKETIO_{module.name.upper()}_"
        unused = [name for name in names if name.startswith(prefix)]  # type: ignore[attr-defined]
        if unused and module.name.upper() not in enabled:
            yield warning(
                "settings",
                f"{', '.join(unused)} have no effect, because the plugin is not enabled",
                f'add "{bundled.__name__}.{module.name}" to SOCKETIO_PLUGINS',
            )


def origins(context: CheckContext) -> Iterator[Finding]:
    """Check the allowed origins, the allowed hosts and the trusted proxies."""
    chosen = context.settings
    allowed = chosen.allowed_origins or []
    found = list(_proxies(chosen))
    if "*" in allowed:
        found.append(
            warning(
                "origins",
                "pages of every origin may connect, with the cookies of their visitors",
                "list the allowed origins in SOCKETIO_ALLOWED_ORIGINS",
            )
        )
    if "*" in allowed and len(allowed) > 1:
        found.append(
            warning(
                "origins",
                'SOCKETIO_ALLOWED_ORIGINS contains "*", so its other entries have no effect',
                'remove "*" or the other entries',
            )
        )
    if "null" in allowed:
        found.append(
            warning(
                "origins",
                "pages without an origin may connect: local files and sandboxed frames of any site",
                'remove "null" from SOCKETIO_ALLOWED_ORIGINS, or do not authenticate with cookies',
            )
        )
    yield from found
    yield from _hosts(chosen)
    if not found:
        yield ok("origins", ", ".join(["same origin", *allowed]))


def _hosts(chosen: Settings) -> Iterator[Finding]:
    allowed = chosen.allowed_hosts or []
    if "*" in allowed and len(allowed) > 1:
        yield warning(
            "hosts",
            'SOCKETIO_ALLOWED_HOSTS contains "*", which allows every host',
            'remove "*" or the other entries',
        )
    elif allowed:
        yield ok("hosts", ", ".join(allowed))


def _proxies(chosen: Settings) -> Iterator[Finding]:
    addresses = [text for text in chosen.trusted_proxies if text != "unix"]
    networks = [ipaddress.ip_network(text, strict=False) for text in addresses]
    on_unix_socket = len(addresses) < len(chosen.trusted_proxies)
    if any(network.prefixlen == 0 for network in networks):
        yield warning(
            "proxies",
            "SOCKETIO_TRUSTED_PROXIES trusts every address: clients can forge their address",
            "list the addresses of your proxies",
        )
    elif (
        networks
        and not on_unix_socket
        and _is_local(chosen.host)
        and not any(map(_has_loopback, networks))
    ):
        yield warning(
            "proxies",
            f"no trusted proxy is on this machine, but SOCKETIO_HOST {chosen.host} is local only",
            'add "127.0.0.1" to SOCKETIO_TRUSTED_PROXIES, or change SOCKETIO_HOST',
        )
    elif chosen.trusted_proxies:
        yield ok("proxies", ", ".join(chosen.trusted_proxies))


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _has_loopback(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    loopback = ipaddress.ip_network("127.0.0.0/8" if network.version == 4 else "::1")
    return network.overlaps(loopback)


def plugins(context: CheckContext) -> Iterator[Finding]:
    """Check that the plugins can be imported and installed, and run their own checks."""
    for name in dict.fromkeys(context.settings.plugins):
        try:
            with preview_plugins(context.settings, [name]):
                pass
        except ConfigurationError as error:
            yield problem("plugins", str(error), "correct SOCKETIO_PLUGINS or the plugin")
            continue
        yield ok("plugins", name)
        yield from _examine(name, context.settings)


def _examine(name: str, chosen: Settings) -> Iterator[Finding]:
    examine = getattr(importlib.import_module(name), "examine", None)
    if examine is None:
        return
    try:
        found = [(level, text, remedy) for level, text, remedy in examine(chosen)]
    except Exception as error:  # noqa: BLE001 - plugins may raise anything
        yield problem("plugins", f"{name}: examine() failed: {error!r}", "correct the plugin")
        return
    for level, text, remedy in found:
        known = level if level in LEVELS else "warning"
        yield Finding(known, "plugins", f"{name.rpartition('.')[2]}: {text}", remedy)
