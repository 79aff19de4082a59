"""Import, install and uninstall plugins."""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import pkgutil
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from webpy_socketio import plugins
from webpy_socketio.config.settings import Settings
from webpy_socketio.engine import Application
from webpy_socketio.exceptions import ConfigurationError, PluginError
from webpy_socketio.plugin_isolation import IsolatedApplication
from webpy_socketio.runtime import Runtime, default_runtime

__all__ = ["PluginManager"]

logger = logging.getLogger("webpy_socketio")


class PluginManager:
    """The plugins of one server.

    A plugin receives the signals of all servers of a runtime: the first of them installs it with
    its settings, the last one uninstalls it.

    Raises:
        PluginError: A name cannot be imported.
    """

    def __init__(self, names: Sequence[str], runtime: Runtime) -> None:
        self._runtime = runtime
        self._modules = [_import(name) for name in dict.fromkeys(names)]
        self._installed: list[ModuleType] = []

    def install(self, settings: Settings) -> None:
        """Install all plugins in the order of ``SOCKETIO_PLUGINS``.

        Raises:
            PluginError: The ``install`` function of a plugin failed.
        """
        for module in self._modules:
            install = getattr(module, "install", None)
            if install is not None and module not in self._runtime.plugin_users:
                try:
                    self._call(module, install, settings)
                except ConfigurationError:  # its message contains the remedy
                    raise
                except Exception as error:
                    raise PluginError(
                        f"the plugin {module.__name__!r} cannot be installed: {error!r}"
                    ) from error
            self._installed.append(module)
            self._runtime.plugin_users[module] += 1

    def namespaces(self, settings: Settings) -> dict[str, Application]:
        """Return the namespaces that the plugins provide, with their applications.

        Raises:
            PluginError: A namespace belongs to another plugin already, or is in
                ``SOCKETIO_NAMESPACES``.
        """
        found: dict[str, Application] = {}
        for module in self._modules:
            for name, application in self._namespaces_of(module, settings).items():
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
            users = self._runtime.plugin_users
            users[module] -= 1
            if not users[module]:
                del users[module]
                uninstall = getattr(module, "uninstall", None)
                if uninstall is None:
                    continue
                try:
                    self._call(module, uninstall)
                except Exception:
                    logger.exception("uninstalling the plugin %r failed", module.__name__)

    def _namespaces_of(self, module: ModuleType, settings: Settings) -> dict[str, Application]:
        namespaces = getattr(module, "namespaces", None)
        if namespaces is None:
            return {}
        try:
            return dict(self._call(module, namespaces, settings))
        except ConfigurationError:  # its message contains the remedy
            raise
        except Exception as error:
            raise PluginError(
                f"the plugin {module.__name__!r} cannot list its namespaces: {error!r}"
            ) from error

    def _call(self, module: ModuleType, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of a plugin, with the runtime as last argument if it accepts one."""
        parameters = inspect.signature(function).parameters.values()
        if sum(each.kind in _POSITIONAL for each in parameters) > len(args):
            return function(*args, self._runtime)
        if self._runtime is not default_runtime:
            raise PluginError(
                f"the plugin {module.__name__!r} serves the default runtime only, because its "
                f"function {function.__name__} takes no runtime: remove it from the settings of "
                "this server, or add a last parameter for the runtime"
            )
        return function(*args)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


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
