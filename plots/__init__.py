"""Figures, one per module, drawn with matplotlib, which is loaded only to draw."""
