"""The settings: where they come from, which are wrong or contradict each other, and the plugins."""

from __future__ import annotations

import importlib
import ipaddress
import pkgutil
from collections.abc import Iterator

import web

from webpy_socketio import plugins as bundled
from webpy_socketio.cli.checks import LEVELS, CheckContext, Finding, ok, problem, warning
from webpy_socketio.cli.plugin_preview import preview_plugins
from webpy_socketio.config.settings import Settings, given
from webpy_socketio.exceptions import ConfigurationError

__all__ = ["origins", "plugins", "settings"]


def settings(patient: CheckContext) -> Iterator[Finding]:
    """Which were given, and where; those that do not exist, or have an impossible value."""
    nearest = {one.name: one for one in given(web.config)}  # the last of a name is the nearest
    for one in given(web.config):
        near = nearest[one.name]
        if one.wrong is not None:
            yield problem("settings", f"{one.source}: {one.wrong}", f"correct it in {one.source}")
        elif one is near or (one.source, one.shown) == (near.source, near.shown):
            yield ok("settings", f"{one.name} = {one.shown}, from {one.source}")
        elif one.shown != near.shown:
            yield warning(
                "settings",
                f"{one.name} is {one.shown} in {one.source}, but {near.shown} in {near.source} counts",
                "give it once",
            )
    if not nearest and patient.target is not None:
        yield ok("settings", "none given: the defaults")
    yield from _contradictions(patient.settings, nearest.keys())


def _contradictions(chosen: Settings, names: object) -> Iterator[Finding]:
    if chosen.max_message_size > chosen.outbox_bytes:
        yield warning(
            "settings",
            "SOCKETIO_MAX_MESSAGE_SIZE is above SOCKETIO_OUTBOX_BYTES: clients may send what could "
            "be sent to nobody",
            "raise the one, or lower the other",
        )
    switched_on = {name.rpartition(".")[2].upper() for name in chosen.plugins}
    for module in pkgutil.iter_modules(bundled.__path__):
        prefix = f"SOCKETIO_{module.name.upper()}_"
        useless = [name for name in names if name.startswith(prefix)]  # type: ignore[attr-defined]
        if useless and module.name.upper() not in switched_on:
            yield warning(
                "settings",
                f"{', '.join(useless)} do nothing, as that plugin is not switched on",
                f'add "{bundled.__name__}.{module.name}" to SOCKETIO_PLUGINS',
            )


def origins(patient: CheckContext) -> Iterator[Finding]:
    """Which pages may connect, under which hosts, and which proxies are trusted."""
    chosen = patient.settings
    allowed = chosen.allowed_origins or []
    found = list(_proxies(chosen))
    if "*" in allowed:
        found.append(
            warning(
                "origins",
                "any page may connect, with the cookies of whoever visits it",
                "name the origins that are yours in SOCKETIO_ALLOWED_ORIGINS",
            )
        )
    if "*" in allowed and len(allowed) > 1:
        found.append(
            warning(
                "origins",
                'SOCKETIO_ALLOWED_ORIGINS has "*", so the others in it mean nothing',
                'leave out "*", or the others',
            )
        )
    if "null" in allowed:
        found.append(
            warning(
                "origins",
                "pages without an origin may connect: local files and sandboxed frames of any site",
                'leave "null" out of SOCKETIO_ALLOWED_ORIGINS, or use no cookies to log in',
            )
        )
    yield from found
    yield from _hosts(chosen)
    if not found:
        yield ok("origins", ", ".join(["the same", *allowed]))


def _hosts(chosen: Settings) -> Iterator[Finding]:
    allowed = chosen.allowed_hosts or []
    if "*" in allowed and len(allowed) > 1:
        yield warning(
            "hosts",
            'SOCKETIO_ALLOWED_HOSTS has "*", which allows every host',
            'leave out "*", or the others',
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
            "SOCKETIO_TRUSTED_PROXIES trusts every address: anybody may say where he comes from",
            "name the addresses of your proxies",
        )
    elif (
        networks
        and not on_unix_socket
        and _is_local(chosen.host)
        and not any(map(_has_loopback, networks))
    ):
        yield warning(
            "proxies",
            f"no trusted proxy is on this machine, and only it can reach SOCKETIO_HOST {chosen.host}",
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


def plugins(patient: CheckContext) -> Iterator[Finding]:
    """Can they be imported and switched on, and what do they say themselves?"""
    for name in dict.fromkeys(patient.settings.plugins):
        try:
            with preview_plugins(patient.settings, [name]):
                pass
        except ConfigurationError as error:
            yield problem("plugins", str(error), "correct SOCKETIO_PLUGINS, or what it names")
            continue
        yield ok("plugins", name)
        yield from _examine(name, patient.settings)


def _examine(name: str, chosen: Settings) -> Iterator[Finding]:
    examine = getattr(importlib.import_module(name), "examine", None)
    if examine is None:
        return
    try:
        found = [(level, text, remedy) for level, text, remedy in examine(chosen)]
    except Exception as error:  # noqa: BLE001 - whatever somebody's plugin raises
        yield problem("plugins", f"{name}: examine() failed: {error!r}", "correct the plugin")
        return
    for level, text, remedy in found:
        known = level if level in LEVELS else "warning"
        yield Finding(known, "plugins", f"{name.rpartition('.')[2]}: {text}", remedy)
