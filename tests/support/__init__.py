"""What several tests and the demo share: installing Moorage on a cluster, sending load, the held-out digits."""
