"""What the reference takes from the code itself, so that it cannot say anything else.

``.. settings::`` describes settings of `webpy_socketio.settings.SETTINGS`: those that are named, or
all that no other one names. ``.. stages::`` describes the signals and their decorators, in order.
"""

from __future__ import annotations

import pydoc
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from webpy_socketio import events, signals
from webpy_socketio.settings import PREFIX, SETTINGS, Setting

PACKAGE = "webpy_socketio"


class Settings(SphinxDirective):
    """Describe settings: ``.. settings:: HOST PORT``, or what is left for the one without names."""

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
        text = "\n".join(_describe(known[name]) for name in chosen)
        return self.parse_text_to_nodes(text)


def _describe(setting: Setting) -> str:
    shown = f"``{setting.default!r}``" if setting.default is not None else "``None``"
    if type(setting.default) is int and setting.default > 9999:
        shown = f"{setting.default:,}"
    doc = setting.doc[0].upper() + setting.doc[1:]
    return f".. setting:: {PREFIX}{setting.name}\n\n   {doc}.\n\n   Default: {shown}\n"


class Stages(SphinxDirective):
    """Describe the signal and the decorator of every stage."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(map(_describe_stage, signals.STAGES)))


def _describe_stage(stage: signals.Stage) -> str:
    decorator = getattr(events, f"on_{stage.name}")
    bound = "" if stage in events._UNBINDABLE else "(channel=None)"
    return (
        f".. py:data:: {PACKAGE}.signals.{stage.name}\n\n   {stage.__doc__}\n\n"
        f".. py:decorator:: {PACKAGE}.on_{stage.name}{bound}\n\n   ``{decorator.__doc__}``\n"
    )


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """Find what a docstring names in short; what is not in the reference stays as it is.

    A name that Python does not find either is nobody's, and a warning.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    domain = env.domains["py"]
    assert isinstance(domain, PythonDomain)
    for name in (f"{PACKAGE}.{target}", f"{PACKAGE}.Socket.{target}"):
        if name in domain.objects:
            return domain.resolve_xref(
                env, node["refdoc"], app.builder, "obj", name, node, content
            )
    places = ("", f"{node.get('py:module')}.", f"{PACKAGE}.")
    return content if any(_exists(place + target) for place in places) else None


def _exists(name: str) -> bool:
    return pydoc.locate(name) is not None or name in ("None", "typing.Any")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_object_type("setting", "setting", objname="setting", indextemplate="pair: %s; setting")
    app.add_directive("settings", Settings)
    app.add_directive("stages", Stages)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": False}
