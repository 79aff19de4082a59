"""Sphinx directives that generate reference pages from the code.

``.. settings:: NAME ...``
    The named settings of `webpy_socketio.config.settings.Settings`. Without names: those that no
    other directive of the page names.
``.. stages::``
    The signals and decorators of the stages, in order.
``.. errors::``
    The exceptions, in the order of their tree.
``.. plugins::``
    The bundled plugins.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import pydoc
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util import inspect as sphinx_inspect
from sphinx.util.docutils import SphinxDirective

from webpy_socketio import events, exceptions, plugins, signals
from webpy_socketio.config.settings import PREFIX, SETTINGS, Setting

PACKAGE = "webpy_socketio"

#: Classes that only the package instantiates: their signatures are omitted.
INTERNAL_CONSTRUCTORS = {
    f"{PACKAGE}.Socket",
    *(
        f"{PACKAGE}.testing.{name}"
        for name in ("Ack", "Client", "HandshakeRefused", "Record", "Response")
    ),
}


class Settings(SphinxDirective):
    """Describe the named settings, or all settings that the page has not named."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        wanted = self.arguments[0].split() if self.arguments else []
        known = {setting.name: setting for setting in SETTINGS}
        if unknown := [name for name in wanted if name not in known]:
            raise self.error(f"there is no setting {', '.join(unknown)}")
        named: set[str] = self.env.temp_data.setdefault("settings", set())
        named.update(wanted)
        chosen = wanted or [name for name in known if name not in named]
        return self.parse_text_to_nodes("\n".join(_setting(known[name]) for name in chosen))


def _setting(setting: Setting) -> str:
    default = repr(setting.default)
    if type(setting.default) is int and setting.default > 9999:
        default = f"{setting.default:,}"
    return f".. setting:: {PREFIX}{setting.name}\n\n   {setting.doc}\n\n   Default: ``{default}``\n"


class Stages(SphinxDirective):
    """Describe the signal and the decorator of every stage."""

    def run(self) -> list[nodes.Node]:
        stages = "\n".join(map(_stage, signals.STAGES))
        others = [
            value
            for value in map(signals.__dict__.get, signals.__all__)
            if isinstance(value, signals.Stage) and value not in signals.STAGES
        ]
        return self.parse_text_to_nodes("\n".join([stages, *map(_signal, others)]))


def _stage(stage: signals.Stage) -> str:
    arguments, _, description = getattr(events, f"on_{stage.name}").__doc__.partition("): ")
    bound = "" if stage in (signals.connecting, signals.connect) else "(channel=None)"
    return (
        f".. py:decorator:: on_{stage.name}{bound}\n   :module: {PACKAGE}\n\n"
        f"   For ``def handler{arguments}): ...`` {description[0].upper()}{description[1:]}\n\n"
        f"{_signal(stage)}"
    )


def _signal(stage: signals.Stage) -> str:
    return f".. py:data:: signals.{stage.name}\n   :module: {PACKAGE}\n\n   {stage.__doc__}\n"


class Errors(SphinxDirective):
    """Describe every exception."""

    def run(self) -> list[nodes.Node]:
        # Source order is the order of the tree.
        names = sorted(
            exceptions.__all__, key=lambda name: inspect.getsourcelines(vars(exceptions)[name])[1]
        )
        text = "\n".join(
            f".. autoexception:: {PACKAGE}.{name}\n   :show-inheritance:" for name in names
        )
        return self.parse_text_to_nodes(text)


class Plugins(SphinxDirective):
    """Describe every bundled plugin and its public names."""

    def run(self) -> list[nodes.Node]:
        names = sorted(module.name for module in pkgutil.iter_modules(plugins.__path__))
        text = "\n".join(map(_plugin, names))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _plugin(short: str) -> str:
    module = importlib.import_module(f"{plugins.__name__}.{short}")
    lines = [
        short,
        "-" * len(short),
        "",
        f".. automodule:: {module.__name__}",
        "   :no-members:",
        "",
    ]
    for name in module.__all__:
        if name not in ("install", "uninstall"):
            lines += [_directive(getattr(module, name)).format(f"{module.__name__}.{name}"), ""]
    return "\n".join(lines)


def _directive(value: Any) -> str:
    if inspect.isclass(value):
        return ".. autoclass:: {}\n   :members:"
    return ".. autofunction:: {}" if inspect.isroutine(value) else ".. autodata:: {}\n   :no-value:"


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """Resolve abbreviated names in docstrings, such as `Socket`.

    Names of parameters and of objects outside the reference remain plain text. An unknown name is a
    warning.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    domain = env.domains["py"]
    assert isinstance(domain, PythonDomain)
    module = node.get("py:module") or PACKAGE
    for prefix in (PACKAGE, f"{PACKAGE}.Socket", f"{PACKAGE}.signals", module):
        if f"{prefix}.{target}" in domain.objects:
            name = f"{prefix}.{target}"
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)
    places = ("", f"{module}.", f"{PACKAGE}.", f"{PACKAGE}.receivers.")
    known = target in _parameters(node) or any(_exists(place + target) for place in places)
    return content if known else None


def _parameters(node: pending_xref) -> set[str]:
    """Return the parameters of the function whose docstring contains `node`."""
    source = node.source or (node.parent.source if node.parent is not None else None) or ""
    _, _, name = source.partition("docstring of ")
    documented = pydoc.locate(name) if name else None
    if not callable(documented):
        return set()
    if inspect.isclass(documented):  # its `__new__` may accept any arguments
        documented = documented.__init__
    try:
        return set(inspect.signature(documented).parameters)
    except ValueError:  # builtin types without a signature, such as exceptions
        return set()


def _exists(name: str) -> bool:
    return name == "None" or pydoc.locate(name) is not None


def omit_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Omit the constructor's signature of classes that only the package instantiates.

    A class whose `__new__` selects a subclass has the signature of its `__init__`.
    """
    if signature and what == "class" and {"__new__", "__init__"} <= set(vars(obj)):
        found = sphinx_inspect.signature(obj.__init__, bound_method=True)
        return sphinx_inspect.stringify_signature(found, show_return_annotation=False), ""
    return ("", "") if name in INTERNAL_CONSTRUCTORS and signature else None


def _attribute_docstring(docstring: GoogleDocstring) -> list[str]:
    """Return the docstring of an attribute unchanged.

    napoleon would interpret text before a colon as a type; the types here are annotations.
    """
    return list(docstring._consume_to_end())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives and hooks."""
    app.add_object_type("setting", "setting", objname="setting", indextemplate="pair: %s; setting")
    app.add_directive("settings", Settings)
    app.add_directive("stages", Stages)
    app.add_directive("errors", Errors)
    app.add_directive("plugins", Plugins)
    GoogleDocstring._parse_attribute_docstring = _attribute_docstring  # type: ignore[method-assign]
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-signature", omit_signature)
    return {"parallel_read_safe": False}
