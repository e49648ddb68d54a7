"""Register the models in transformers' Auto classes, by their public `register`."""

import transformers

from .modeling_harpe import FAMILIES, OUTER


def register() -> None:
    """Make the Auto classes know the model types harpe_llama and so on."""
    for models in (*(family.models for family in FAMILIES.values()), *OUTER.values()):
        config = models["AutoModel"].config_class
        transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
        for auto, model in models.items():
            getattr(transformers, auto).register(config, model, exist_ok=True)
