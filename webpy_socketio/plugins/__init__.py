"""Plugins: modules named in ``SOCKETIO_PLUGINS``, which receive signals as anybody can.

A plugin is a module with a function ``install(settings)``, called when a server starts, and
``uninstall()``, called when it has stopped; or with neither, if importing it is enough because it
only decorates handlers. One with a function ``namespaces(settings)`` brings namespaces of its own, each
with an application as the engine describes it (`webpy_socketio.engine.Application`); it is called when
a server is made, for each server. The bundled ones use public names only, and none is named by the core:

- `webpy_socketio.plugins.admin`
- `webpy_socketio.plugins.message_logger`
- `webpy_socketio.plugins.presence`
- `webpy_socketio.plugins.metrics`
- `webpy_socketio.plugins.rate_limit`
"""

from __future__ import annotations

__all__: list[str] = []
