"""The version of Hookline, from the metadata of the installed distribution."""

from importlib.metadata import version

__version__ = version("hookline")
