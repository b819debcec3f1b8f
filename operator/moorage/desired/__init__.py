"""What the children of a resource shall be: pure functions from a resource to plain manifests.

No I/O, no clock, no random names: the same input gives the same bytes, so a digest can stand for a child.
"""
