"""The application that a command line names: ``module:name``."""

from __future__ import annotations

import difflib
import importlib
import traceback
from typing import Any

import web

from webpy_socketio.exceptions import ConfigurationError

__all__ = ["load", "wsgi"]


def load(target: str) -> Any:
    """Import what ``module:name`` names; the name may be left out, and is ``app`` then.

    Raises `ConfigurationError` if there is no such module, or no such name in it. What the module
    itself fails with is shown as it is: its traceback says where.
    """
    module_name, _, name = target.partition(":")
    name = name or "app"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that the application itself imports
        raise ConfigurationError(
            f"there is no module {error.name!r} here: name the application as module:name, in the "
            "folder that the module is in"
        ) from None
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{module_name!r} cannot be imported:\n{traceback.format_exc()}"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError:
        known = [key for key, value in vars(module).items() if isinstance(value, web.application)]
        near = known or difflib.get_close_matches(name, vars(module), 1)
        hint = f"; did you mean {module_name}:{near[0]}?" if near else ""
        raise ConfigurationError(f"the module {module_name!r} has no {name!r}{hint}") from None


def wsgi(application: Any) -> Any:
    """What a server serves: a web.py application's own function, or a WSGI callable as it is."""
    return application.wsgifunc() if isinstance(application, web.application) else application
