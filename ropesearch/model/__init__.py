"""A base per KV head in real models, in memory and on disk. Needs torch; loads no numba.

Importing it registers the models of `modeling_harpe` in transformers' Auto classes.
"""

from ropesearch.core.errors import require_extra

require_extra("work with a model", "torch", "torch", "transformers")

from .register import register  # noqa: E402  (after the line that says what is missing)

register()
