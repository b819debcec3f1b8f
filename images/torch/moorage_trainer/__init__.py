"""Distributed training in a pod: `launch` runs torchrun around a program and says how it ended, `recipe` is one.

The launcher needs Python, torch and moorage_store, nothing else, because it also runs in images of the user's.
"""
