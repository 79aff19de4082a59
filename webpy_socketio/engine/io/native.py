"""The native core: work on plain bytes, in C if the extension was built.

If the extension ``_native`` is missing, or the environment variable ``WEBPY_SOCKETIO_PURE`` is 1,
the functions and classes are those of `webpy_socketio.engine.io.pure`.
"""

from __future__ import annotations

import importlib
import os

from webpy_socketio.engine.io import pure
from webpy_socketio.engine.io.pure import (
    Frames,
    MessageRing,
    OutboxState,
    add_offset,
    close_sender,
    encode,
    flush_all,
    open_sender,
    read_events,
    send_to_all,
)

__all__ = [
    "NATIVE",
    "VARIABLE",
    "Frames",
    "MessageRing",
    "OutboxState",
    "add_offset",
    "close_sender",
    "encode",
    "flush_all",
    "open_sender",
    "read_events",
    "send_to_all",
]

#: The environment variable that forces pure Python, and at build time a wheel without extension.
VARIABLE = "WEBPY_SOCKETIO_PURE"


def _load() -> bool:
    """Replace the names of `pure` by those of the extension; return False without one."""
    if os.environ.get(VARIABLE) == "1":
        return False
    try:
        extension = importlib.import_module("webpy_socketio.engine.io._native")
    except ImportError:
        return False
    # All or nothing: an extension built from an older source may lack a name.
    found = {name: getattr(extension, name, None) for name in pure.__all__}
    if None in found.values():
        return False
    globals().update(found)
    return True


#: Whether the extension is in use.
NATIVE = _load()
