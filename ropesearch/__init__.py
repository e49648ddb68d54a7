"""Base-set search and RoPE waveform analysis for head-adaptive context extension (HARPE, arXiv:2412.07171).

What is public stands in `__init__.pyi`, and is imported when it is first used: `import ropesearch` loads nothing heavy.
"""

import lazy_loader

from ._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
