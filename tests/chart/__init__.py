"""Tests of charts/moorage: everything helm can tell without a cluster."""
