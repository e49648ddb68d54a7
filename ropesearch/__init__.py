"""Base-set search and RoPE waveform analysis for head-adaptive context extension (HARPE, arXiv:2412.07171).

`__init__.pyi` lists the public names. Each is imported on first use, so `import ropesearch` loads nothing heavy.
"""

import lazy_loader

from ._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
