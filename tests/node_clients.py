"""Clients in Node.js: the folder of their scripts, and the mark of tests that start them."""

import shutil
from pathlib import Path

import pytest

#: Scripts and installed packages.
JS = Path(__file__).resolve().parent / "js"

#: Mark of tests that start a script with the stock client.
needs_stock_client = pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules" / "socket.io-client").is_dir(),
    reason="Node.js or its client is not installed: run npm ci in tests/js (make test does)",
)
