"""Register the models in transformers' Auto classes, by their public `register`."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .modeling_harpe import FAMILIES


def register() -> None:
    """Make AutoConfig, AutoModel and AutoModelForCausalLM know the model types harpe_llama and so on."""
    for config, _, _, model, causal_lm in FAMILIES.values():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForCausalLM.register(config, causal_lm, exist_ok=True)
