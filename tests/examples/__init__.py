"""Tests of examples/ without a cluster: every file is valid, complete in itself, and its programs run."""
