"""Validation of names and values, with the most similar name in errors."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from webpy_socketio.config.settings import PREFIX, SETTINGS
from webpy_socketio.exceptions import SettingsError

__all__ = ["check", "check_prefix", "describe_error", "is_setting", "select", "show", "suggest"]

_BY_NAME = {setting.name: setting for setting in SETTINGS}

#: Minimum similarity of a misspelt name: SOCKETO_PORT is one, while SOCKET_PORT may be valid
#: elsewhere.
_MIN_SIMILARITY = 0.92


def is_setting(keyword: str) -> bool:
    """Return whether a keyword of the server is a setting."""
    return keyword.islower() and keyword.upper() in _BY_NAME


def suggest(keyword: str, others: list[str]) -> str:
    """Return a hint with the most similar keyword, or an empty string."""
    known = [name.lower() for name in _BY_NAME] + others
    near = difflib.get_close_matches(keyword, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def select(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of names with the prefix, by their names without it."""
    return {
        name[len(PREFIX) :]: value
        for name, value in given.items()
        if isinstance(name, str) and name.startswith(PREFIX)
    }


def check(given: Mapping[str, Any], source: str, keyword: bool = False) -> None:
    """Check settings, by names without prefix.

    Raises:
        SettingsError: A name or value is invalid.
    """
    for name, value in given.items():
        error = describe_error(name, value, keyword)
        if error is not None:
            raise SettingsError(f"{source}: {error}")


def check_prefix(given: Mapping[str, Any], source: str, bare: bool = False) -> None:
    """Reject names with a misspelt prefix, and in a `bare` mapping also names without prefix.

    Modules may contain names that are unrelated to this package.

    Raises:
        SettingsError: There is such a name.
    """
    for name in given:
        if not isinstance(name, str) or name.startswith(PREFIX):
            continue
        if name.upper().startswith("SO"):
            near = difflib.get_close_matches(
                name.upper(), map(PREFIX.__add__, _BY_NAME), 1, _MIN_SIMILARITY
            )
        else:
            near = [PREFIX + name.upper()] if bare and name.upper() in _BY_NAME else []
        if near:
            raise SettingsError(f"{source}: {name} is not a setting; did you mean {near[0]}?")


def describe_error(name: str, value: Any, keyword: bool = False) -> str | None:
    """Return why a setting is invalid, or None.

    Args:
        name: The name without prefix.
        value: The value.
        keyword: Whether the setting was written as a keyword, in lower case.
    """
    written = name.lower() if keyword else PREFIX + name
    setting = _BY_NAME.get(name)
    if setting is None:
        near = difflib.get_close_matches(name, _BY_NAME, 1)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        return f"there is no setting {written}{hint}"
    wanted = setting.check(value)
    if wanted is None:
        return None
    shown = "<hidden>" if setting.secret else repr(value)
    return f"{written} is {shown}, but must be {wanted}"


def show(name: str, value: Any) -> str:
    """Return the text of a value, without passwords, by a name without prefix."""
    if name in _BY_NAME and _BY_NAME[name].secret and value is not None:
        return "..."
    return getattr(value, "__qualname__", None) or repr(value)
