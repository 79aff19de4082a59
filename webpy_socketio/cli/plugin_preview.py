"""Plugins switched on without a server, to see what they do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from webpy_socketio.config.settings import Settings
from webpy_socketio.plugin_manager import PluginManager

__all__ = ["preview_plugins"]


@contextmanager
def preview_plugins(settings: Settings, names: Sequence[str]) -> Iterator[None]:
    """Switch plugins on, and off again at the end; raises `PluginError` as a server would.

    What a plugin connects to is known only when its ``install`` has run. No server listens, and there is
    no backplane whatever the settings say: nothing happens outside of this process, unless a plugin of
    somebody else's does so in its ``install``, in which case its ``uninstall`` is to undo it.
    """
    alone = Settings({**vars(settings), "backplane": None})
    plugins = PluginManager(names)
    try:
        plugins.install(alone)
        yield
    finally:
        plugins.uninstall()
