"""Replicas that follow load: queries (text), policy (decision), and beside them the loop that asks Prometheus."""
