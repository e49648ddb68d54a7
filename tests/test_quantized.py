"""Quantized models: whatever stands in place of the projections, attention only calls it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import BASE, BASES, base_set, naive_logits, sets, tokens, toy
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from ropesearch import apply_bases, apply_to_checkpoint
from ropesearch.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


class Int8Linear(torch.nn.Module):
    """A linear layer as quantizers make them: another class, weights of another dtype, a scale for each row."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight / scale).round().to(torch.int8))
        self.register_buffer("weight_scale", scale)
        self.bias = linear.bias

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight * self.weight_scale, self.bias)


@torch.no_grad()
def quantized(name):
    model = toy(name)
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for key, module in list(part.named_children()):
                if isinstance(module, torch.nn.Linear):
                    setattr(part, key, Int8Linear(module))
    return model


@pytest.mark.parametrize("name", ["llama-grouped", "qwen3-grouped", "olmo2", "gemma2", "smollm3"])
@torch.no_grad()
def test_other_projections_take_bases_in_memory(name):
    model, ids = quantized(name), tokens(2, 40)
    own, other = sets(name)
    stock = model(ids).logits
    with apply_bases(model, own):
        assert torch.equal(model(ids).logits, stock)
    with apply_bases(model, other):
        logits = model(ids).logits
    torch.testing.assert_close(logits, naive_logits(model, other.bases, ids), rtol=0, atol=5e-5)
    assert torch.equal(model(ids).logits, stock)


def save_quantized(folder, dropped=None, bare=False):
    """A checkpoint as quantizers write them, in files with names and dtypes of their own; without one module's."""
    model = quantized("llama-grouped")
    (model.model if bare else model).save_pretrained(folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({name: w for name, w in weights.items() if not name.startswith(f"{dropped}.")}, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "of-some-kind", "bits": 8}
    (folder / "config.json").write_text(json.dumps(config))


def test_a_quantized_checkpoint_is_copied_as_it_is(tmp_path):
    save_quantized(tmp_path / "stock")
    for wanted in (base_set(BASES[2]), "yarn:4"):
        out = tmp_path / type(wanted).__name__
        apply_to_checkpoint(tmp_path / "stock", wanted, out)
        assert (out / "model.safetensors").read_bytes() == (tmp_path / "stock" / "model.safetensors").read_bytes()
        assert json.loads((out / "config.json").read_text())["quantization_config"]["bits"] == 8
    with pytest.raises(InputError, match=r"stock are quantized and can only be copied as they are, without `dtype`"):
        apply_to_checkpoint(tmp_path / "stock", "yarn:4", tmp_path / "no", dtype="bfloat16")
    save_quantized(tmp_path / "bare", bare=True)
    apply_to_checkpoint(tmp_path / "bare", base_set(BASES[2]), tmp_path / "of-bare")
    copy = load_file(tmp_path / "of-bare" / "model.safetensors")
    assert "layers.0.self_attn.q_proj.weight_scale" in copy
    assert "lm_head.weight" not in copy
    save_quantized(tmp_path / "less", dropped="model.layers.1.self_attn.k_proj")
    with pytest.raises(InputError, match=r"no weights for model.layers.1.self_attn.k_proj.bias and 1 more"):
        apply_to_checkpoint(tmp_path / "less", "yarn:4", tmp_path / "no")
    save_quantized(tmp_path / "bare-less", dropped="layers.1.self_attn.k_proj", bare=True)
    with pytest.raises(InputError, match=r"no weights for layers.1.self_attn.k_proj.bias and 1 more"):
        apply_to_checkpoint(tmp_path / "bare-less", "yarn:4", tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bitsandbytes, 4 bits", "bitsandbytes, 8 bits", "torchao"])
@torch.no_grad()
def test_quantizers_of_transformers(kind, tmp_path):
    """In memory, saved while bases are applied, and applied to what was saved quantized."""
    pytest.importorskip(kind.partition(",")[0])
    if kind == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        bits = {"load_in_8bit": True}
        if "4" in kind:
            bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
        config = BitsAndBytesConfig(**bits)
    toy("llama-grouped", intermediate_size=128).save_pretrained(tmp_path / "plain")
    how = {"quantization_config": config, "dtype": torch.float32, "device_map": "cpu"}
    model, ids = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", **how), tokens(2, 30)
    # Before the first forward pass: it packs weights of 4 bits anew on a CPU, and bitsandbytes then saves them wrong.
    model.save_pretrained(tmp_path / "stock")
    with apply_bases(model, base_set(BASES[2])):
        model.save_pretrained(tmp_path / "ours")
    apply_to_checkpoint(tmp_path / "stock", base_set(BASES[2]), tmp_path / "copied")
    stock = model(ids).logits
    with apply_bases(model, base_set([BASE] * 2)):
        assert torch.equal(model(ids).logits, stock)
    apply_bases(model, base_set(BASES[2]))
    logits = model(ids).logits
    assert (logits - stock).abs().max() > 1
    for folder in ("ours", "copied"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / folder, device_map="cpu")
        assert type(loaded).__name__ == "HarpeLlamaForCausalLM"
        assert type(loaded.model.layers[0].self_attn.q_proj) is type(model.model.layers[0].self_attn.q_proj)
        assert torch.equal(loaded(ids).logits, logits)
