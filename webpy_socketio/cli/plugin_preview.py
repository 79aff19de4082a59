"""Plugins installed without a server, to inspect their receivers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from webpy_socketio.config.settings import Settings
from webpy_socketio.plugin_manager import PluginManager
from webpy_socketio.runtime import default_runtime

__all__ = ["preview_plugins"]


@contextmanager
def preview_plugins(settings: Settings, names: Sequence[str]) -> Iterator[None]:
    """Install plugins, and uninstall them at the end.

    What a plugin connects to is known only after its ``install`` has run. No server listens, and
    the backplane is off regardless of the settings. An ``install`` of a third-party plugin may
    still have effects outside this process; its ``uninstall`` must undo them.

    Raises:
        PluginError: As on the start of a server.
    """
    local = replace(settings, backplane=None)
    plugins = PluginManager(names, default_runtime)
    try:
        plugins.install(local)
        yield
    finally:
        plugins.uninstall()
