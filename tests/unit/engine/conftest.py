"""Fixtures of the engine's modules without a server."""

from tests.engines import _nothing_printed, certificate  # noqa: F401 - fixtures
