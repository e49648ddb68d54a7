"""Curves over distance: waveforms, their peaks and valleys, what several of them cover; on the CPU and on a GPU."""
