"""Moorage: an operator that trains models and serves them with two Kubernetes resources."""

from importlib.metadata import version

__version__ = version("moorage")
