"""Curves over distance: waveforms, their peaks and valleys, and their coverage; on the CPU and on a GPU."""
