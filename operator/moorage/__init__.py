"""Moorage: an operator that trains models and serves them with two Kubernetes resources."""
