"""Register the models in transformers' Auto classes, by their public `register`."""

import transformers

from .modeling_harpe import FAMILIES


def register() -> None:
    """Make the Auto classes know the model types harpe_llama and so on."""
    for family in FAMILIES.values():
        transformers.AutoConfig.register(family.config.model_type, family.config, exist_ok=True)
        for auto, model in family.models.items():
            getattr(transformers, auto).register(family.config, model, exist_ok=True)
