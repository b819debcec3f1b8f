"""Moorage: an operator that trains models and serves them with two Kubernetes resources."""

__version__ = "0.1.0"
