"""Save web.py sessions after a handshake only if handlers changed them.

The session processor of web.py saves the session when the code within it returns. An
``@on_connect``
handler may wait; other requests may change or kill the session in the meantime.
"""

from __future__ import annotations

import copy
import gc
from typing import Any

import web

__all__ = ["LoadedSessions"]

#: Sessions by the thread-local that holds their data.
_sessions: dict[Any, Any] = {}


class LoadedSessions:
    """The sessions that processors loaded for the current greenlet, with a copy of their data."""

    __slots__ = ("_loaded",)

    def __init__(self) -> None:
        self._loaded: list[tuple[Any, str, dict[str, Any] | None]] = []
        for local in list(web.utils.ThreadedDict._instances):
            values = local.__dict__
            if "session_id" in values and "send_cookie" in values:
                session = _find_session(local)
                if session is not None:
                    self._loaded.append((session, values["session_id"], _copy(values)))

    def save_changes(self) -> None:
        """Make web.py save the changes of handlers, merged into what other requests have saved.

        A session that was not changed, or that was killed in the meantime, is not saved.
        """
        for session, session_id, loaded in self._loaded:
            values = session._data.__dict__
            if values.get("session_id") != session_id:
                continue  # a handler started another session; web.py saves it
            changed = _changes(loaded, values)
            if changed == ({}, set()) or session_id not in session.store:
                values["send_cookie"] = False  # disables both the save and the cookie
            elif changed is not None:
                _merge(values, session.store[session_id], *changed)


def _copy(values: dict[str, Any]) -> dict[str, Any] | None:
    """Copy the data of a session; return None if it cannot be copied."""
    try:
        return copy.deepcopy(values)
    except Exception:  # noqa: BLE001 - copying an object may raise anything
        return None


def _changes(
    loaded: dict[str, Any] | None, values: dict[str, Any]
) -> tuple[dict[str, Any], set[str]] | None:
    """Return the set and the removed values; None if they cannot be determined."""
    if loaded is None:
        return None
    try:
        changed = {
            name: value
            for name, value in values.items()
            if name not in loaded or loaded[name] != value
        }
    except Exception:  # noqa: BLE001 - a comparison may raise anything
        return None
    return changed, loaded.keys() - values.keys()


def _merge(
    values: dict[str, Any], stored: dict[str, Any], changed: dict[str, Any], removed: set[str]
) -> None:
    """Replace `values` by the stored data with the changes of the handlers."""
    kept = {name: values[name] for name in ("session_id", "ip", "send_cookie")}
    values.clear()
    values.update({name: value for name, value in stored.items() if name not in removed})
    values.update(kept)
    values.update(changed)


def _find_session(local: Any) -> Any:
    """Return the `web.session.Session` whose data is `local`.

    web.py keeps no list of sessions, and their processor may be wrapped by the application.
    Searching all objects takes milliseconds, once for each session.
    """
    if local not in _sessions:
        _sessions[local] = next(
            (one for one in gc.get_referrers(local) if isinstance(one, web.session.Session)), None
        )
    return _sessions[local]
