"""Configuration of Sphinx for ``make docs``, which needs no network."""

import sys
from pathlib import Path

import webpy_socketio

sys.path.insert(0, str(Path(__file__).resolve().parent / "_ext"))

project = "webpy_socketio"
author = "the webpy_socketio contributors"
project_copyright = author
version = release = webpy_socketio.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference"]
napoleon_numpy_docstring = False

# Single backticks in docstrings refer to Python objects; see _ext/reference.py.
default_role = "py:obj"
nitpicky = True
# Types in signatures that docstrings describe.
nitpick_ignore = [
    ("py:class", name)
    for name in (
        *("EventDecorator", "PeerWorkers", "VolatileSender", "RedisConnection", "Settings"),
        *("PyWSGIKeywords", "ServerKeywords", "SettingKeywords"),
    )
]

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"

pygments_dark_style = "monokai"
html_theme = "furo"
html_title = f"webpy_socketio {release}"
html_static_path = ["_static"]
html_css_files = ["docs.css"]
html_copy_source = False
html_show_sourcelink = False
