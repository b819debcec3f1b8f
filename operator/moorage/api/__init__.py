"""The contract with users: the two resources, their conditions and the CRDs made from them. Nothing here does I/O."""
