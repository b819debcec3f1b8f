"""The Kubernetes API as plain dicts: client, election, events. Knows nothing of models or training."""
