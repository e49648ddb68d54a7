"""A base per KV head in real models, in memory and on disk. Needs torch and transformers, never loads numba.

Importing it registers the models of `modeling_harpe` in transformers' Auto classes; nothing else registers them.
"""

from ropesearch.core.errors import require_extra

require_extra("working with a model", "torch", "torch", "transformers")

from .register import register  # noqa: E402  (after the check that torch and transformers are installed)

register()
