"""Register the models in transformers' Auto classes, by their public `register`."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .modeling_harpe import FAMILIES


def register() -> None:
    """Make AutoConfig, AutoModel and AutoModelForCausalLM know the model types harpe_llama and so on."""
    for family in FAMILIES.values():
        AutoConfig.register(family.config.model_type, family.config, exist_ok=True)
        AutoModel.register(family.config, family.model, exist_ok=True)
        AutoModelForCausalLM.register(family.config, family.causal_lm, exist_ok=True)
