"""Metadata, requirements and contents of the package; ``pyproject.toml`` configures its build."""

import os
import platform
import runpy
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent

#: The native core, which is optional. The stable ABI of Python 3.10: one wheel for all versions.
NATIVE = Extension(
    "webpy_socketio.engine.io._native",
    ["webpy_socketio/engine/io/_native.c"],
    depends=["webpy_socketio/engine/io/_batch.h"],
    py_limited_api=True,
    optional=True,
)


def builds_native() -> bool:
    """Return whether to try to build the native core."""
    return (
        os.environ.get("WEBPY_SOCKETIO_PURE") != "1"
        and platform.python_implementation() == "CPython"
        and not sysconfig.get_config_var("Py_GIL_DISABLED")  # these have no stable ABI
    )


class BuildNative(build_ext):
    """Builds the native core if there are a C compiler and the headers of Python."""

    def build_extension(self, ext: Extension) -> None:
        """Build an extension; on failure, log one line instead."""
        try:
            super().build_extension(ext)
        except Exception as error:  # noqa: BLE001 - setuptools has no common class of its errors
            reason = str(error).strip().partition("\n")[0]
            sys.stderr.write(
                f"webpy_socketio: the native core was not built ({reason}): the pure Python code "
                "is used, which is slower. Install a C compiler and the headers of Python "
                "(Debian: gcc python3-dev), and install webpy_socketio again.\n"
            )
            for path in (ROOT / "webpy_socketio" / "engine" / "io").glob("_native.*.so"):
                path.unlink()  # built in place from an older source


ext_modules = [NATIVE] if builds_native() else []

setup(
    name="webpy_socketio",
    version=runpy.run_path(str(ROOT / "webpy_socketio" / "version.py"))["__version__"],
    description="Real-time messaging for web.py: Socket.IO on gevent, with channels and signals",
    long_description=(ROOT / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    author="webpy_socketio contributors",
    # MIT is the licence of the bundled JavaScript client, included in static/.
    license_expression="BSD-2-Clause AND MIT",
    license_files=["LICENSE"],
    keywords=["web.py", "socket.io", "websocket", "gevent", "realtime", "chat"],
    classifiers=[
        "Environment :: Web Environment",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: JavaScript",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP :: Dynamic Content",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["webpy_socketio", "webpy_socketio.*"]),
    package_data={
        "webpy_socketio": ["py.typed", "static/*", "templates/*", "plugins/*/lua/*"],
        "webpy_socketio.cli": ["starter/*-tpl", "starter/*/*-tpl"],
    },
    ext_modules=ext_modules,
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if ext_modules else {},
    include_package_data=False,
    zip_safe=False,
    entry_points={"console_scripts": ["webpy-socketio=webpy_socketio.cli:start"]},
    install_requires=[
        "web.py>=0.76",  # the first that runs on Python 3.13, which has no cgi module
        "gevent>=25.4",
        "blinker>=1.7",  # Signal.set_class
        "Mako>=1.3",
        "websockets>=15",  # 17 needs Python 3.11
        "orjson>=3.10.7",  # the first with wheels for Python 3.13
        "regex>=2024.9.11",  # matches with a time limit; the first with wheels for Python 3.13
    ],
    extras_require={
        "redis": ["redis[hiredis]>=5"],  # for SOCKETIO_BACKPLANE; hiredis is its parser in C
        "msgpack": ["msgpack>=1.1"],  # for SOCKETIO_PARSER = "msgpack"; 1.1: Packer(buf_size=...)
        "metrics": ["prometheus_client>=0.20"],  # for webpy_socketio.plugins.metrics
        "otel": ["opentelemetry-api>=1.25"],  # for webpy_socketio.plugins.otel
        "docs": [
            "furo>=2024.8.6",
            "sphinx>=8.1",  # the last for Python 3.10
        ],
        "test": [
            "webpy_socketio[docs,metrics,msgpack,otel,redis]",
            "build>=1.2",
            "cryptography>=43",
            "gunicorn>=22",
            "hypothesis>=6.100",
            "kosoku",  # the Autobahn test cases for Python 3
            "mypy>=1.15",  # checks users' handlers
            "opentelemetry-sdk>=1.25",
            "playwright>=1.50",
            "pytest>=8.2",
            "pytest-rerunfailures>=16.7",
            "pytest-xdist>=3.6",
            "python-socketio[client]>=5.11",
            "PyYAML>=6",  # reads the Compose file of the documentation
            "setuptools>=77",
        ],
        "lint": ["mypy>=1.15", "ruff>=0.11"],
    },
)
