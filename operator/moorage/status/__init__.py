"""What is, in words: pure functions from observed children to a resource's status. The same input gives the same
status."""
