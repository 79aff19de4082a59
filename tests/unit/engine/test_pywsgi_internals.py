"""The internals of gevent's pywsgi that the HTTP handlers and servers depend on."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator
from typing import Any

import pytest
from gevent.pywsgi import WSGIHandler, WSGIServer

from webpy_socketio.engine.http import pywsgi_internals
from webpy_socketio.engine.http.server import EngineServer
from webpy_socketio.engine.http.wsgi import RequestHandler

#: Class of pywsgi: the methods, calls and attributes that are expected of it.
EXPECTED: dict[type, tuple[Any, Any, Any]] = {
    WSGIHandler: (
        pywsgi_internals.HANDLER_METHODS,
        pywsgi_internals.HANDLER_CALLS,
        pywsgi_internals.HANDLER_ATTRIBUTES,
    ),
    WSGIServer: (
        pywsgi_internals.SERVER_METHODS,
        pywsgi_internals.SERVER_CALLS,
        pywsgi_internals.SERVER_ATTRIBUTES,
    ),
}

METHODS = [
    (base, name, parameters)
    for base, (methods, _, _) in EXPECTED.items()
    for name, parameters in methods.items()
]
CALLS = [
    (base, name, called)
    for base, (_, calls, _) in EXPECTED.items()
    for name, called in calls.items()
]


def overridden_methods(derived: type, base: type) -> Iterator[str]:
    for cls in derived.__mro__:
        if cls.__module__.startswith("webpy_socketio."):
            for name, value in vars(cls).items():
                if inspect.isfunction(value) and name in dir(base):
                    yield name


@pytest.mark.parametrize(("base", "name", "parameters"), METHODS)
def test_pywsgi_method_has_expected_parameters(base: type, name: str, parameters: str) -> None:
    assert str(inspect.signature(getattr(base, name))) == parameters


@pytest.mark.parametrize(("base", "name", "called"), CALLS)
def test_pywsgi_method_uses_expected_names_in_order(
    base: type, name: str, called: tuple[str, ...]
) -> None:
    # The names of a code object are in the order of their first use.
    names = [each for each in getattr(base, name).__code__.co_names if each in called]
    assert names == list(called)


@pytest.mark.parametrize(
    "instance",
    [WSGIHandler(None, None, None, rfile=io.BytesIO()), WSGIServer(("127.0.0.1", 0), print)],
    ids=["WSGIHandler", "WSGIServer"],
)
def test_pywsgi_instance_has_expected_attributes(instance: Any) -> None:
    assert EXPECTED[type(instance)][2] - set(dir(instance)) == set()


@pytest.mark.parametrize(
    ("derived", "base"), [(RequestHandler, WSGIHandler), (EngineServer, WSGIServer)]
)
def test_every_overridden_method_of_pywsgi_is_listed(derived: type, base: type) -> None:
    assert set(overridden_methods(derived, base)) - EXPECTED[base][0].keys() == set()
