"""Continual pretraining under a position scheme: data, stages, a run folder. Needs the extra `train`, and no numba."""
