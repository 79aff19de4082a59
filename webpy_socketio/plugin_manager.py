"""Finding plugins by name, switching them on, and off again."""

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
    """The plugins of one server. Raises `PluginError` for a name that cannot be imported."""

    def __init__(self, names: Sequence[str]) -> None:
        self._modules = [_import(name) for name in dict.fromkeys(names)]
        self._installed: list[ModuleType] = []

    def install(self, settings: Settings) -> None:
        """Switch them on, in the order of the list."""
        for module in self._modules:
            install = getattr(module, "install", None)
            if install is not None and module not in _users:
                try:
                    install(settings)
                except ConfigurationError:  # which tells what to do already
                    raise
                except Exception as error:
                    raise PluginError(
                        f"the plugin {module.__name__!r} cannot be installed: {error!r}"
                    ) from error
            self._installed.append(module)
            _users[module] += 1

    def namespaces(self, settings: Settings) -> dict[str, Application]:
        """The namespaces that they bring, each with its application; for one server.

        Raises `PluginError` if one exists already, as another plugin's or in SOCKETIO_NAMESPACES.
        """
        found: dict[str, Application] = {}
        for module in self._modules:
            for name, application in _brought(module, settings).items():
                if name in found or name in settings.namespaces:
                    raise PluginError(
                        f"the plugin {module.__name__!r} brings the namespace {name!r}, which exists "
                        "already: leave it out of SOCKETIO_NAMESPACES, or one of the plugins"
                    )
                found[name] = IsolatedApplication(name, application)
        return found

    def uninstall(self) -> None:
        """Switch them off, in the opposite order; one that fails is logged, and stops no other."""
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
                    logger.exception("the plugin %r cannot be switched off", module.__name__)


#: How many running servers use a plugin. It receives the signals of all of them, so the first one
#: switches it on, with its settings, and the last one off.
_users: Counter[ModuleType] = Counter()


def _brought(module: ModuleType, settings: Settings) -> dict[str, Application]:
    bring = getattr(module, "namespaces", None)
    if bring is None:
        return {}
    try:
        return dict(bring(settings))
    except ConfigurationError:  # which tells what to do already
        raise
    except Exception as error:
        raise PluginError(
            f"the plugin {module.__name__!r} cannot say which namespaces it brings: {error!r}"
        ) from error


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a module may fail in any way while it is imported
        bundled = [
            f"{plugins.__name__}.{module.name}" for module in pkgutil.iter_modules(plugins.__path__)
        ]
        by_word = {full.rpartition(".")[2]: full for full in bundled}
        near = difflib.get_close_matches(name.rpartition(".")[2], by_word, 1)
        hint = f"; did you mean {by_word[near[0]]!r}?" if near else ""
        raise PluginError(
            f"SOCKETIO_PLUGINS names {name!r}, which cannot be imported: {error}{hint}"
        ) from error
