"""The sources of settings. The first source with a value wins.

1. keywords of `SocketIOServer`, in lower case and without prefix
2. the module or mapping passed to `configure`
3. ``web.config``
4. the default

Unknown names and invalid values raise `SettingsError` when the server is created.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

from webpy_socketio.config.settings import PREFIX, Settings
from webpy_socketio.config.validation import check, check_prefix, describe_error, select, show
from webpy_socketio.exceptions import SettingsError

__all__ = ["GivenSetting", "SettingsSources"]


class GivenSetting(NamedTuple):
    """A setting that has a value in ``web.config`` or was passed to `configure`."""

    #: With the prefix.
    name: str
    #: Text of the value, without passwords.
    shown: str
    #: ``web.config``, or the name of the module passed to `configure`.
    source: str
    #: Why the value is invalid, or None.
    wrong: str | None


class SettingsSources:
    """The settings passed to `configure`, and their combination with the other sources.

    ``web.config`` is passed to the methods, because it belongs to web.py.
    """

    def __init__(self) -> None:
        #: The settings of the last `configure` call, by name without prefix.
        self._configured: dict[str, Any] = {}
        #: The name of the module passed to `configure`.
        self._configured_by = "configure()"

    def configure(self, source: str | ModuleType | Mapping[str, Any]) -> None:
        """Read settings from a module or mapping; see `Runtime.configure`."""
        if isinstance(source, str):
            hint = f"; its name is {source[:-3]!r}, without .py" if source.endswith(".py") else ""
            try:
                source = importlib.import_module(source)
            except ImportError as error:
                raise SettingsError(
                    f"the settings module {source!r} cannot be imported: {error}{hint}"
                ) from error
        values = source if isinstance(source, Mapping) else vars(source)
        found = select(values)
        name: str = getattr(source, "__name__", "configure()")
        check(found, name)
        check_prefix(values, name, bare=values is source)
        self._configured = found
        self._configured_by = name

    def reset(self) -> None:
        """Discard the settings that were passed to `configure`."""
        self._configured = {}
        self._configured_by = "configure()"

    def resolve(self, keywords: Mapping[str, Any], web_config: Mapping[str, Any]) -> Settings:
        """Combine all sources.

        Lists are copied, so that a later change has no effect.

        Args:
            keywords: Settings passed to the server, in lower case and without prefix.
            web_config: The contents of ``web.config``.

        Raises:
            SettingsError: A name or value is invalid.
        """
        from_web = select(web_config)
        check(from_web, "web.config")
        check_prefix(web_config, "web.config")
        from_keywords = {name.upper(): value for name, value in keywords.items()}
        check(from_keywords, "SocketIOServer()", keyword=True)
        found = {**from_web, **self._configured, **from_keywords}
        values: dict[str, Any] = {
            name.lower(): list(value) if isinstance(value, list) else value
            for name, value in found.items()
        }
        return Settings(**values)

    def snapshot(self, web_config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings in ``web.config`` and of `configure`, for a later `changed`."""
        return {**select(web_config), **self._configured}

    def changed(self, before: Mapping[str, Any], web_config: Mapping[str, Any]) -> list[str]:
        """Return the names of settings that have changed since a `snapshot`."""
        now = self.snapshot(web_config)
        missing = object()
        return sorted(
            PREFIX + name
            for name in before.keys() | now.keys()
            if before.get(name, missing) != now.get(name, missing)
        )

    def given(self, web_config: Mapping[str, Any]) -> list[GivenSetting]:
        """Return all settings in ``web.config`` and of `configure`, including invalid ones.

        If both have the same name, the later item in the list is in effect.
        """
        return [
            GivenSetting(PREFIX + name, show(name, value), source, describe_error(name, value))
            for values, source in (
                (select(web_config), "web.config"),
                (self._configured, self._configured_by),
            )
            for name, value in values.items()
        ]

    def backplane(self, web_config: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return SOCKETIO_BACKPLANE and its prefix, unchecked, for processes without a server."""
        url, prefix = (
            self._configured.get(name, web_config.get(PREFIX + name, default))
            for name, default in (
                ("BACKPLANE", Settings.backplane),
                ("BACKPLANE_PREFIX", Settings.backplane_prefix),
            )
        )
        return url, prefix
