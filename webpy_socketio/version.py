"""The package's version, in one place: ``setup.py`` reads this file without importing the rest."""

__version__ = "1.0.0"
