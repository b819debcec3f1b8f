"""From a key to the world as it should be: store, queue, and one reconcile per kind."""
