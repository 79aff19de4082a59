"""Settings as fields of a dataclass: each states its default, description and validator once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar, cast, get_type_hints

__all__ = ["Check", "Setting", "Strings", "setting", "settings_of"]

T = TypeVar("T")

#: Returns None for a valid value, otherwise a description of valid values that completes the
#: sentence "The setting must be ...".
Check = Callable[[Any], "str | None"]

#: The type of lists of text. A ``Sequence[str]`` would include a single str.
Strings = list[str] | tuple[str, ...]

#: Key of the metadata of a field.
_KEY = "webpy_socketio.setting"


@dataclass(frozen=True)
class Setting:
    """The definition of one setting, read from its field by `settings_of`."""

    #: In upper case.
    name: str
    #: The type of its values, for type checkers.
    type: Any
    default: Any
    #: Description with units and the effect of limits, in reStructuredText.
    doc: str
    check: Check
    #: Whether the value may contain a password and must not be shown.
    secret: bool


def setting(default: T, doc: str, check: Check, *, secret: bool = False) -> T:
    """Return a dataclass field for a setting.

    Args:
        default: The default; each object gets a copy of a list.
        doc: Description with units and the effect of limits, in reStructuredText.
        check: The validator.
        secret: Whether the value may contain a password and must not be shown.

    Returns:
        The field, for which type checkers see the type of the default.
    """
    metadata = {_KEY: (doc, check, secret)}
    if isinstance(default, list):
        return cast(T, field(default_factory=default.copy, metadata=metadata))
    return field(default=default, metadata=metadata)


def settings_of(owner: type) -> tuple[Setting, ...]:
    """Return the settings of a dataclass in the order of its fields, inherited ones first."""
    types = get_type_hints(owner)
    found = []
    for each in fields(owner):
        doc, check, secret = each.metadata[_KEY]
        default = each.default if each.default_factory is MISSING else each.default_factory()
        found.append(Setting(each.name.upper(), types[each.name], default, doc, check, secret))
    return tuple(found)
