"""Metadata, requirements and contents of the package; ``pyproject.toml`` configures its build."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

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
        "webpy_socketio": ["py.typed", "static/*", "templates/*", "plugins/presence/lua/*"],
        "webpy_socketio.cli": ["starter/*-tpl", "starter/*/*-tpl"],
    },
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
        "metrics": ["prometheus_client>=0.20"],  # for webpy_socketio.plugins.metrics
        "docs": [
            "furo>=2024.8.6",
            "sphinx>=8.1",  # the last for Python 3.10
        ],
        "test": [
            "webpy_socketio[docs,metrics,redis]",
            "build>=1.2",
            "cryptography>=43",
            "gunicorn>=22",
            "hypothesis>=6.100",
            "kosoku",  # the Autobahn test cases for Python 3
            "mypy>=1.15",  # checks users' handlers
            "playwright>=1.50",
            "pytest>=8.2",
            "pytest-xdist>=3.6",
            "python-socketio[client]>=5.11",
            "setuptools>=77",
        ],
        "lint": ["mypy>=1.15", "ruff>=0.11"],
    },
)
