"""The version of the package, which results depend on."""

__version__ = "0.1.0"
