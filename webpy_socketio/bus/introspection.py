"""What can be told of a user's function before it is called: where it is, and whether it can be called.

All of it is asked once, when the function is registered. What a function does not tell is taken to be
right: one that takes ``*args``, or that a web framework has wrapped.
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
    "check_plain",
    "describe",
    "is_bundled",
    "origin",
    "takes_keywords",
    "takes_positions",
]

#: What comes of calling a function that is not a plain one: nothing has run yet, and nothing will.
NEVER_RUN = (CoroutineType, GeneratorType, AsyncGeneratorType)

#: What a decorator is for, to whoever has put it into a class.
_WHAT = "decorate a function, or the method of an object, as in on_...(Room().talk)"

#: What the first three arguments of every handler are called.
_FIRST = ("request", "socket", "context")


def describe(function: Any) -> str:
    """A function's name, its file and its line."""
    function = getattr(function, "function", function)  # a decorated handler's
    inner = _innermost(function)
    name = getattr(function, "__qualname__", None) or getattr(inner, "__qualname__", repr(function))
    code = getattr(inner, "__code__", None)
    if code is None:
        return str(name)
    return f"{name} ({Path(code.co_filename).name}:{code.co_firstlineno})"


def is_bundled(function: Any) -> bool:
    """Whether a function is this package's, a plugin's among them, and not the application's."""
    function = _innermost(getattr(function, "function", function))
    return str(getattr(function, "__module__", "")).startswith("webpy_socketio.")


def origin(function: Any) -> tuple[Any, ...]:
    """What made a function: its code, and the run of its module. A module that is reloaded runs again.

    To be compared by identity, part by part.
    """
    inner = _innermost(function)
    names = getattr(inner, "__globals__", {})
    return getattr(inner, "__code__", None), names, names.get("__spec__")


def check_plain(function: Any) -> str | None:
    """What is wrong with a function that would not run when it is called, or None."""
    if isinstance(function, type):
        return f"is a class, and would only be made: {_WHAT}"
    # Not what is below a wrapper, which may have a way of its own to run it.
    for one in (function, getattr(type(function), "__call__", None)):  # noqa: B004 - not whether it is there
        if inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one):
            return "is a coroutine function, which nobody would await: gevent needs a plain def"
        if inspect.isgeneratorfunction(one):
            return (
                "is a generator, as it has a yield, and would never run: use return, or socket.send"
            )
    return None


def takes_positions(function: Any, names: tuple[str, ...], more: bool = False) -> str | None:
    """What is wrong with a function that is to be called with arguments of these names, or None.

    With `more` there may be others behind them, and how many is the caller's.
    """
    signature = _signature(function)
    if signature is None:
        return None
    parameters = list(signature.parameters.values())
    positions = [each for each in parameters if each.kind in _POSITIONAL]
    wanted = ", ".join([*names, *(("*args",) if more else ())])
    takes = f"takes {_without_types(signature)}, and is called with ({wanted})"
    if parameters and parameters[0].name in ("self", "cls"):
        return f"{takes}: {_WHAT}"
    try:
        if more:
            keywords = {each.name: None for each in parameters if each.kind is _KEYWORD}
            signature.bind_partial(*names, **keywords)
            fits = not any(each.kind is _KEYWORD and each.default is _NONE for each in parameters)
        else:
            signature.bind(*names)
            fits = True
    except TypeError:
        fits = False
    swapped = [
        each.name
        for each, name in zip(positions, names, strict=False)
        if each.name in _FIRST and each.name != name
    ]
    return None if fits and not swapped else f"{takes}, in this order"


def takes_keywords(function: Any, names: Collection[str]) -> str | None:
    """What is wrong with a receiver that gets a sender and keywords of these names, or None."""
    signature = _signature(function)
    if signature is None:
        return None
    try:
        signature.bind(None, **dict.fromkeys(names))
    except TypeError as error:
        return (
            f"takes {_without_types(signature)}, and is called with sender and the keywords "
            f"{', '.join(names)} ({error}): take those that are wanted, and **extra"
        )
    return None


_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NONE = inspect.Parameter.empty


def _innermost(function: Any) -> Any:
    """The function below wrappers, partials and methods, as far as they tell."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(getattr(function, "__func__", function))


def _signature(function: Any) -> inspect.Signature | None:
    # A wrapper may add arguments, or take some away: its own signature counts, not the wrapped one's.
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # compiled, and silent about it
        return None


def _without_types(signature: inspect.Signature) -> str:
    plain = [
        each.replace(annotation=_NONE, default=None if each.default is not _NONE else _NONE)
        for each in signature.parameters.values()
    ]
    return str(signature.replace(parameters=plain, return_annotation=_NONE))
