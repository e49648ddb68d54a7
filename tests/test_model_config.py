import json

import pytest

from ropesearch.core.model_config import ModelShape, read_model_shape

# The numbers that the published configurations hold, reduced to the keys that matter here.
PUBLISHED = {
    "Llama-2-7B": (
        {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 32},
        ModelShape(32, 32, 128),
    ),
    "Llama-1, without KV heads": (
        {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32},
        ModelShape(32, 32, 128),
    ),
    "Llama-3-8B": (
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "rope_theta": 500000.0,
        },
        ModelShape(32, 8, 128),
    ),
    "Mistral-7B": (
        {"model_type": "mistral", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8},
        ModelShape(32, 8, 128),
    ),
    "Mistral-Nemo, head_dim given": (
        {
            "model_type": "mistral",
            "hidden_size": 5120,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
        ModelShape(32, 8, 128),
    ),
    "Qwen2-7B": (
        {"model_type": "qwen2", "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4},
        ModelShape(28, 4, 128),
    ),
    "SmolLM2-135M": (
        {
            "model_type": "llama",
            "hidden_size": 576,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": None,
        },
        ModelShape(9, 3, 64),
    ),
    "a newer file, by its rope_parameters alone": (
        {
            "model_type": "something",
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        },
        ModelShape(16, 16, 64),
    ),
    "a model of text and images": (
        {
            "model_type": "llava",
            "text_config": {
                "model_type": "mistral",
                "hidden_size": 4096,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
            },
        },
        ModelShape(32, 8, 128),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes(tmp_path, name):
    config, shape = PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_model_shape(tmp_path) == shape
    assert read_model_shape(tmp_path / "config.json") == shape


def test_what_transformers_writes(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.LlamaConfig(
        hidden_size=96, num_attention_heads=6, num_key_value_heads=2, num_hidden_layers=1, intermediate_size=8
    )
    config.save_pretrained(tmp_path)
    assert read_model_shape(tmp_path) == ModelShape(6, 2, 16)


LLAMA = PUBLISHED["Llama-2-7B"][0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "no JSON object"),
        ({"model_type": "gpt2", "n_head": 12}, "type 'gpt2' has no rotary position embedding"),
        ({"num_attention_heads": 12, "hidden_size": 768, "model_type": "bert"}, "type 'bert' has no rotary"),
        (LLAMA | {"alibi": True, "rope_theta": 1e4}, "has no rotary"),
        ({"model_type": "llama"}, "it has no num_attention_heads"),
        (LLAMA | {"hidden_size": None}, "it has no hidden_size"),
        (LLAMA | {"num_attention_heads": "32"}, "num_attention_heads must be an integer"),
        (LLAMA | {"hidden_size": 4097}, "hidden_size must be a multiple of the 32 heads, not 4097"),
        (LLAMA | {"num_key_value_heads": 5}, "num_key_value_heads must be a divisor of the 32 heads, not 5"),
        (LLAMA | {"head_dim": 127}, "head_dim must be even, not 127"),
        (LLAMA | {"partial_rotary_factor": 0.4}, "only a part of each head"),
        (LLAMA | {"rotary_pct": 0.25}, "only a part of each head"),
        (LLAMA | {"rope_parameters": {"partial_rotary_factor": 0.5}}, "only a part of each head"),
        (LLAMA | {"qk_rope_head_dim": 64}, "multi-head latent attention"),
    ],
)
def test_configurations_that_are_refused(tmp_path, config, message):
    path = tmp_path / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ValueError, match=message) as caught:
        read_model_shape(path)
    assert "\n" not in str(caught.value)
    assert "config.json" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_model_shape(tmp_path)
