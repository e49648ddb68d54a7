"""Figures: one a module, drawn with matplotlib, which loads when a figure is drawn."""
