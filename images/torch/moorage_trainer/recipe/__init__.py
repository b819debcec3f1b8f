"""Supervised classification and regression on a table: `python -m moorage_trainer.recipe`, a program for torchrun.

config says what, dataset reads it, sampler deals it out to the workers, network learns it, train does the steps,
export leaves a model behind that any server can run without this code.
"""
