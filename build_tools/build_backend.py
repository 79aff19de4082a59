"""The PEP 517 build backend: setuptools with the client scripts: Socket.IO's and the extension."""

from __future__ import annotations

from typing import Any

import client_bundle
import extension
from setuptools import build_meta

prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable

Settings = dict[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """Return the requirements of `build_wheel`."""
    return _requires(build_meta.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    """Return the requirements of `build_sdist`."""
    return _requires(build_meta.get_requires_for_build_sdist(config_settings))


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """Return the requirements of `build_editable`."""
    return _requires(build_meta.get_requires_for_build_editable(config_settings))


def build_wheel(
    wheel_directory: str,
    config_settings: Settings = None,
    metadata_directory: str | None = None,
) -> str:
    """Build a wheel that contains the client scripts."""
    _ensure_scripts()
    name: str = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    return name


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Build an sdist that contains the scripts, so that building from it does not need npm."""
    _ensure_scripts()
    name: str = build_meta.build_sdist(sdist_directory, config_settings)
    return name


def build_editable(
    wheel_directory: str,
    config_settings: Settings = None,
    metadata_directory: str | None = None,
) -> str:
    """Install in place, with the scripts in the source tree, where git ignores them."""
    _ensure_scripts()
    name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    return name


def _ensure_scripts() -> None:
    client_bundle.ensure()
    extension.ensure()


def _requires(of_setuptools: list[str]) -> list[str]:
    return [*of_setuptools, *client_bundle.requirements()]
