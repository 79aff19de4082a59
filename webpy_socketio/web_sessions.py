"""web.py's sessions while a client connects: written only if handlers changed them.

web.py's session processor saves the session when the code inside it returns. A page returns soon; an
``@on_connect`` handler may wait, and other requests may change or kill the session meanwhile.
"""

from __future__ import annotations

import copy
import gc
from typing import Any

import web

__all__ = ["LoadedSessions"]

#: The session that each thread-local of a session's data belongs to.
_sessions: dict[Any, Any] = {}


class LoadedSessions:
    """The sessions that processors have loaded for the current greenlet, as they were loaded."""

    __slots__ = ("_loaded",)

    def __init__(self) -> None:
        self._loaded: list[tuple[Any, str, dict[str, Any] | None]] = []
        for local in list(web.utils.ThreadedDict._instances):
            values = local.__dict__
            if "session_id" in values and "send_cookie" in values:
                session = _find_session(local)
                if session is not None:
                    self._loaded.append((session, values["session_id"], _copy(values)))

    def settle(self) -> None:
        """Let web.py save what was changed, on top of what other requests have saved meanwhile.

        A session that was not changed, or was killed meanwhile, is not saved.
        """
        for session, session_id, loaded in self._loaded:
            values = session._data.__dict__
            if values.get("session_id") != session_id:
                continue  # a handler began another session, which web.py saves
            changed = _changes(loaded, values)
            if changed == ({}, set()) or session_id not in session.store:
                values["send_cookie"] = False  # web.py then neither saves nor sends a cookie
            elif changed is not None:
                _merge(values, session.store[session_id], *changed)


def _copy(values: dict[str, Any]) -> dict[str, Any] | None:
    """Copy a session's data; None if something in it cannot be copied."""
    try:
        return copy.deepcopy(values)
    except Exception:  # noqa: BLE001 - whatever the objects in it raise
        return None


def _changes(
    loaded: dict[str, Any] | None, values: dict[str, Any]
) -> tuple[dict[str, Any], set[str]] | None:
    """Return what was set and what was removed; None if that cannot be known."""
    if loaded is None:
        return None
    try:
        changed = {
            name: value
            for name, value in values.items()
            if name not in loaded or loaded[name] != value
        }
    except Exception:  # noqa: BLE001 - whatever a comparison raises
        return None
    return changed, loaded.keys() - values.keys()


def _merge(
    values: dict[str, Any], stored: dict[str, Any], changed: dict[str, Any], removed: set[str]
) -> None:
    """Make `values` what is stored now, with the changes of the handlers."""
    kept = {name: values[name] for name in ("session_id", "ip", "send_cookie")}
    values.clear()
    values.update({name: value for name, value in stored.items() if name not in removed})
    values.update(kept)
    values.update(changed)


def _find_session(local: Any) -> Any:
    """Return the `web.session.Session` whose data `local` is.

    Sessions do not register, and their processor may be called by one of the application's own.
    Looking at all objects takes milliseconds, once for each session.
    """
    if local not in _sessions:
        _sessions[local] = next(
            (one for one in gc.get_referrers(local) if isinstance(one, web.session.Session)), None
        )
    return _sessions[local]
