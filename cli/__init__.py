"""The command line: one module per command. Nothing heavier than click is imported before a command runs."""

from .main import main

__all__ = ["main"]
