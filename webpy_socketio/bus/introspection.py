"""Inspect functions of the application: describe them, and check that they can be called.

Functions are checked once, when they are registered. Anything that cannot be inspected is accepted,
such as functions with ``*args`` or wrappers of a web framework.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

__all__ = [
    "NEVER_RUN",
    "check_keywords",
    "check_plain",
    "check_positional",
    "describe",
    "is_bundled",
    "origin",
]

#: Types of results that mean that a function has not run and never will.
NEVER_RUN = (CoroutineType, GeneratorType, AsyncGeneratorType)

#: Remedy for decorators used in a class.
_METHOD_HINT = "decorate a function, or a bound method, as in on_...(Room().talk)"

#: Names of the first three arguments of every handler.
_COMMON_ARGUMENTS = ("request", "socket", "context")


def describe(function: Any) -> str:
    """Return the name, file and line of a function."""
    function = getattr(function, "function", function)  # a decorated handler's
    inner = _innermost(function)
    name = getattr(function, "__qualname__", None) or getattr(inner, "__qualname__", repr(function))
    code = getattr(inner, "__code__", None)
    if code is None:
        return str(name)
    return f"{name} ({Path(code.co_filename).name}:{code.co_firstlineno})"


def is_bundled(function: Any) -> bool:
    """Return whether a function belongs to this package or its plugins, not to the application."""
    function = _innermost(getattr(function, "function", function))
    return str(getattr(function, "__module__", "")).startswith("webpy_socketio.")


def origin(function: Any) -> tuple[Any, ...]:
    """Return the code of a function and the identity of its module's execution.

    A module that is reloaded executes again. Compare the parts by identity.
    """
    inner = _innermost(function)
    names = getattr(inner, "__globals__", {})
    return getattr(inner, "__code__", None), names, names.get("__spec__")


def check_plain(function: Any) -> str | None:
    """Return why a function would not run when called, or None."""
    if isinstance(function, type):
        return f"is a class and would only be instantiated: {_METHOD_HINT}"
    # Wrapped functions are not inspected: the wrapper may run them in its own way.
    for one in (function, getattr(type(function), "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one):
            return "is a coroutine function, which is never awaited: gevent needs a plain def"
        if inspect.isgeneratorfunction(one):
            return (
                "is a generator function (it contains yield) and would never run: use return, or "
                "socket.send"
            )
    return None


def check_positional(function: Any, names: tuple[str, ...], has_more: bool = False) -> str | None:
    """Return why a function cannot be called with positional arguments of these names, or None.

    With `has_more`, any number of further arguments may follow.
    """
    signature = _signature(function)
    if signature is None:
        return None
    parameters = list(signature.parameters.values())
    positions = [each for each in parameters if each.kind in _POSITIONAL]
    wanted = ", ".join([*names, *(("*args",) if has_more else ())])
    takes = f"takes {_without_types(signature)}, and is called with ({wanted})"
    if parameters and parameters[0].name in ("self", "cls"):
        return f"{takes}: {_METHOD_HINT}"
    try:
        if has_more:
            keywords = {each.name: None for each in parameters if each.kind is _KEYWORD}
            signature.bind_partial(*names, **keywords)
            fits = not any(each.kind is _KEYWORD and each.default is _EMPTY for each in parameters)
        else:
            signature.bind(*names)
            fits = True
    except TypeError:
        fits = False
    swapped = [
        each.name
        for each, name in zip(positions, names, strict=False)
        if each.name in _COMMON_ARGUMENTS and each.name != name
    ]
    return None if fits and not swapped else f"{takes}, in this order"


def check_keywords(function: Any, names: Collection[str]) -> str | None:
    """Return why a receiver cannot be called with a sender and these keywords, or None."""
    signature = _signature(function)
    if signature is None:
        return None
    try:
        signature.bind(None, **dict.fromkeys(names))
    except TypeError as error:
        return (
            f"takes {_without_types(signature)}, and is called with sender and the keywords "
            f"{', '.join(names)} ({error}): accept the keywords you need, and **extra"
        )
    return None


_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_EMPTY = inspect.Parameter.empty


def _innermost(function: Any) -> Any:
    """Return the function below partials, methods and wrappers."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(getattr(function, "__func__", function))


def _signature(function: Any) -> inspect.Signature | None:
    # follow_wrapped=False: a wrapper may add or remove arguments.
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # a compiled function without a signature
        return None


def _without_types(signature: inspect.Signature) -> str:
    plain = [
        each.replace(annotation=_EMPTY, default=None if each.default is not _EMPTY else _EMPTY)
        for each in signature.parameters.values()
    ]
    return str(signature.replace(parameters=plain, return_annotation=_EMPTY))
