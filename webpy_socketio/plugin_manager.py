"""Import, install and uninstall plugins."""

from __future__ import annotations

import difflib
import importlib
import logging
import pkgutil
from collections import Counter
from collections.abc import Sequence
from types import ModuleType

from webpy_socketio import plugins
from webpy_socketio.config.settings import Settings
from webpy_socketio.engine import Application
from webpy_socketio.exceptions import ConfigurationError, PluginError
from webpy_socketio.plugin_isolation import IsolatedApplication

__all__ = ["PluginManager"]

logger = logging.getLogger("webpy_socketio")


class PluginManager:
    """The plugins of one server.

    Raises:
        PluginError: A name cannot be imported.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._modules = [_import(name) for name in dict.fromkeys(names)]
        self._installed: list[ModuleType] = []

    def install(self, settings: Settings) -> None:
        """Install all plugins in the order of ``SOCKETIO_PLUGINS``.

        Raises:
            PluginError: The ``install`` function of a plugin failed.
        """
        for module in self._modules:
            install = getattr(module, "install", None)
            if install is not None and module not in _users:
                try:
                    install(settings)
                except ConfigurationError:  # its message contains the remedy
                    raise
                except Exception as error:
                    raise PluginError(
                        f"the plugin {module.__name__!r} cannot be installed: {error!r}"
                    ) from error
            self._installed.append(module)
            _users[module] += 1

    def namespaces(self, settings: Settings) -> dict[str, Application]:
        """Return the namespaces that the plugins provide, with their applications.

        Raises:
            PluginError: A namespace belongs to another plugin already, or is in
                ``SOCKETIO_NAMESPACES``.
        """
        found: dict[str, Application] = {}
        for module in self._modules:
            for name, application in _namespaces_of(module, settings).items():
                if name in found or name in settings.namespaces:
                    raise PluginError(
                        f"the plugin {module.__name__!r} provides the namespace {name!r}, which "
                        "exists already: remove it from SOCKETIO_NAMESPACES, or remove one of the "
                        "plugins"
                    )
                found[name] = IsolatedApplication(name, application)
        return found

    def uninstall(self) -> None:
        """Uninstall all plugins in reverse order; failures are logged."""
        while self._installed:
            module = self._installed.pop()
            _users[module] -= 1
            if not _users[module]:
                del _users[module]
                uninstall = getattr(module, "uninstall", None)
                if uninstall is None:
                    continue
                try:
                    uninstall()
                except Exception:
                    logger.exception("uninstalling the plugin %r failed", module.__name__)


#: Number of running servers that use a plugin. A plugin receives the signals of all servers: the
#: first one installs it with its settings, the last one uninstalls it.
_users: Counter[ModuleType] = Counter()


def _namespaces_of(module: ModuleType, settings: Settings) -> dict[str, Application]:
    namespaces = getattr(module, "namespaces", None)
    if namespaces is None:
        return {}
    try:
        return dict(namespaces(settings))
    except ConfigurationError:  # its message contains the remedy
        raise
    except Exception as error:
        raise PluginError(
            f"the plugin {module.__name__!r} cannot list its namespaces: {error!r}"
        ) from error


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a module may fail in any way while it is imported
        bundled = [
            f"{plugins.__name__}.{module.name}" for module in pkgutil.iter_modules(plugins.__path__)
        ]
        by_short_name = {full.rpartition(".")[2]: full for full in bundled}
        close = difflib.get_close_matches(name.rpartition(".")[2], by_short_name, 1)
        hint = f"; did you mean {by_short_name[close[0]]!r}?" if close else ""
        raise PluginError(
            f"SOCKETIO_PLUGINS names {name!r}, which cannot be imported: {error}{hint}"
        ) from error
