import copy
import json

import numpy as np
import pytest

from ropesearch.core.errors import InputError
from ropesearch.core.model_config import ModelConfig, ModelShape
from ropesearch.core.rope import scaled_inv_freq

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
    "Phi-3-mini": (
        {"model_type": "phi3", "hidden_size": 3072, "num_attention_heads": 32, "num_key_value_heads": 32},
        ModelShape(32, 32, 96),
    ),
    "Phi-4-mini, of whose 128 channels 96 rotate": (
        {
            "model_type": "phi3",
            "hidden_size": 3072,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
            "partial_rotary_factor": 0.75,
        },
        ModelShape(24, 8, 96),
    ),
    "Gemma-3-1B": (
        {
            "model_type": "gemma3_text",
            "hidden_size": 1152,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "num_hidden_layers": 26,
            "rope_theta": 1000000,
            "rope_local_base_freq": 10000,
            "sliding_window_pattern": 6,
        },
        ModelShape(4, 1, 256),
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
    assert ModelConfig.read(tmp_path).shape == shape
    assert ModelConfig.read(tmp_path / "config.json").shape == shape


def test_what_transformers_writes(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.LlamaConfig(
        hidden_size=96, num_attention_heads=6, num_key_value_heads=2, num_hidden_layers=1, intermediate_size=8
    )
    config.save_pretrained(tmp_path)
    assert ModelConfig.read(tmp_path).shape == ModelShape(6, 2, 16)


@pytest.mark.parametrize(
    ("model_type", "older"),
    [
        ("gemma3_text", {"rope_theta": 1e6, "rope_local_base_freq": 700.0, "sliding_window_pattern": 3}),
        ("gemma3_text", {}),
        ("olmo3", {"rope_theta": 5e5}),
    ],
)
def test_ropes_by_layer_type_are_read_as_transformers_does(model_type, older):
    """From older files, and from what it writes today."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    scaling = {"rope_type": "linear", "factor": 8.0}
    older = {"model_type": model_type, "num_hidden_layers": 8, "rope_scaling": scaling} | older
    theirs = transformers.AutoConfig.for_model(**copy.deepcopy(older)).to_dict()
    rope = theirs["rope_parameters"]["full_attention"]
    for content in (older, theirs):
        config = ModelConfig(content)
        assert config.by_layer_type
        assert config.base in (rope["rope_theta"], None)  # the latter where the file is silent
        assert config.rope_rule == "linear"
        assert config.rope_values == scaling
        types = enumerate(theirs["layer_types"])
        assert config.rotating_layers == tuple(i for i, kind in types if kind == "full_attention")


LLAMA = PUBLISHED["Llama-2-7B"][0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "not a JSON object"),
        ({"model_type": "gpt2", "n_head": 12}, "type 'gpt2' has no rotary position embedding"),
        ({"num_attention_heads": 12, "hidden_size": 768, "model_type": "bert"}, "type 'bert' has no rotary"),
        (LLAMA | {"alibi": True, "rope_theta": 1e4}, "has no rotary"),
        ({"model_type": "llama"}, "it has no num_attention_heads"),
        (LLAMA | {"hidden_size": None}, "it has no hidden_size"),
        (LLAMA | {"num_attention_heads": "32"}, "num_attention_heads must be an integer"),
        (LLAMA | {"hidden_size": 4097}, "hidden_size must be a multiple of the 32 heads, not 4097"),
        (LLAMA | {"num_key_value_heads": 5}, "num_key_value_heads must be a divisor of the 32 heads, not 5"),
        (LLAMA | {"head_dim": 127}, "head_dim must be even, not 127"),
        (LLAMA | {"partial_rotary_factor": 0.4}, "only part of each head"),
        (LLAMA | {"rotary_pct": 0.25}, "only part of each head"),
        (
            LLAMA | {"model_type": "phi", "partial_rotary_factor": 2},
            "partial_rotary_factor must be a number above 0, at",
        ),
        (LLAMA | {"model_type": "phi", "partial_rotary_factor": "x"}, "partial_rotary_factor must be a number above 0"),
        (LLAMA | {"model_type": "phi", "partial_rotary_factor": 0.01}, "rotates 1 of the 128 channels of each head"),
        (LLAMA | {"rope_parameters": {"partial_rotary_factor": 0.5}}, "only part of each head"),
        (LLAMA | {"qk_rope_head_dim": 64}, "multi-head latent attention"),
    ],
)
def test_configurations_that_are_refused(tmp_path, config, message):
    path = tmp_path / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ValueError, match=message) as caught:
        _ = ModelConfig.read(path).shape
    assert "\n" not in str(caught.value)
    assert "config.json" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        ModelConfig.read(tmp_path)


def test_a_file_that_is_there_reads_without_what_is_not_asked():
    config = ModelConfig.of(LLAMA | {"vocab_size": "many", "rope_theta": 1, "rope_parameters": {"bases": "all"}})
    assert (config.heads, config.kv_heads, config.head_dim, config.hidden_size) == (32, 32, 128, 4096)
    assert config.num_hidden_layers is config.intermediate_size is None
    with pytest.raises(InputError, match=r"^config: vocab_size must be an integer of at least 1, not 'many'$"):
        _ = config.vocab_size
    with pytest.raises(InputError, match=r"^config: rope_theta must be a finite number above 1, not 1$"):
        _ = config.base
    with pytest.raises(InputError, match=r"^config: bases must be a list of bases, not 'all'$"):
        _ = config.bases
    assert ModelConfig.of(config) is config


YARN = {"type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"rope_theta": 5e5},
        {"rope_theta": 500000, "rope_scaling": None},
        {"rope_theta": 5e5, "rope_scaling": {}, "rope_parameters": {"rope_theta": 1e6}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 7e5}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}},
        {"rope_scaling": {"rope_type": "default"}, "rope_parameters": YARN | {"rope_theta": 1e6}},
        {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ],
)
def test_the_two_places_of_rope_settings_are_merged_as_transformers_does(keys):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    content = LLAMA | {"max_position_embeddings": 64} | keys
    theirs = transformers.LlamaConfig.from_dict(copy.deepcopy(content)).rope_parameters
    config = ModelConfig.of(content)
    assert (config.rope_rule, config.base) == (theirs["rope_type"], theirs["rope_theta"])
    # And as it reads what they write of it.
    again = ModelConfig.of(LLAMA | {"rope_parameters": theirs})
    assert (again.rope_rule, again.base) == (config.rope_rule, config.base)


def test_frequencies_under_a_rule_are_those_of_transformers():
    pytest.importorskip("transformers", reason="transformers is not installed")
    from toys import SCALED, scaled_toy
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for rule, values in SCALED.items():
        config = scaled_toy(rule).config
        bases, found = [1e4, 5e6, 100.0], []
        for base in bases:
            config.rope_parameters["rope_theta"] = base
            theta, factor = ROPE_INIT_FUNCTIONS[values["rope_type"]](config)
            found.append(theta.numpy())
        ours, own_factor = scaled_inv_freq(bases, 16, ModelConfig.of(config.to_dict()).rope_values)
        np.testing.assert_allclose(ours, found, rtol=1e-6)
        assert own_factor == pytest.approx(factor, rel=1e-12)


def test_the_rule_of_a_model_without_its_base():
    scaled = LLAMA | {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert ModelConfig.of(scaled).rope_values == {"rope_type": "linear", "factor": 2.0}
    assert ModelConfig.of(LLAMA).rope_values == {}
    harpe = {"rope_type": "harpe", "rope_theta": 1e4, "bases": [2e4], "scaling": YARN}
    carrying = {"model_type": "harpe_llama", "rope_parameters": harpe}
    assert ModelConfig.of(carrying).rope_values == {"rope_type": "yarn", "factor": 4.0}
    harpe.pop("scaling")
    assert ModelConfig.of(carrying).rope_values == {}


def test_rules_by_type_of_layer_and_rules_that_are_none():
    by_layer = {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "default"}}
    assert ModelConfig.of({"rope_parameters": by_layer}).rope_rule == "one for each type of layer"
    assert ModelConfig.of({"rope_scaling": "linear", "rope_theta": 1e4}).rope_rule == "linear"
    assert ModelConfig.of({"rope_scaling": "linear", "rope_theta": 1e4}).base == 1e4
    assert ModelConfig.of({"model_type": "mixtral"}).base is None  # whose class has another than Llama's


def test_bases_that_a_model_carries():
    rope = {"rope_type": "harpe", "rope_theta": 1e4, "bases": [2e4, 5000000]}
    config = ModelConfig.of({"model_type": "harpe_llama", "rope_parameters": rope})
    assert (config.rope_rule, config.base, config.bases) == ("harpe", 1e4, (2e4, 5e6))
    assert ModelConfig.of(LLAMA).bases is None


def test_what_tells_one_model_from_another():
    sizes = {"num_hidden_layers": 4, "vocab_size": 9}
    expected = {"model_type": "llama", "hidden_size": 4096, **sizes, "heads": 32, "kv_heads": 32, "head_dim": 128}
    assert ModelConfig.of(LLAMA | sizes).identity() == expected | {"base": 1e4}
    with_images = {"model_type": "llava", "text_config": LLAMA | sizes, "quantization_config": {"bits": 4}}
    config = ModelConfig.of(with_images)
    assert config.identity() == expected | {"base": 1e4}  # of its language model
    assert (config.model_type, config.quantized, ModelConfig.of(LLAMA).quantized) == ("llava", True, False)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({}, "no rotary embedding settings found in its.json"),
        ({"format": "ropesearch.base-set"}, "no rotary embedding settings found in its.json; it looks like a base-set"),
        ({"format": "ropesearch.decay"}, "no rotary embedding settings found in its.json; it looks like a decay file"),
        ({"format": 3}, "no rotary embedding settings found in its.json$"),
    ],
)
def test_a_file_of_something_else(content, line):
    with pytest.raises(InputError, match=f"^{line}"):
        _ = ModelConfig.of(content, "its.json").shape


def test_a_config_that_would_never_end_is_refused(tmp_path):
    config = {"model_type": "llama", "num_attention_heads": 4, "hidden_size": 64}
    for layers in (10**12, 10_001):
        with pytest.raises(InputError, match=f"^c: num_hidden_layers must be at most 10000, not {layers}$"):
            assert ModelConfig.of(config | {"num_hidden_layers": layers}, "c").shape
    with pytest.raises(InputError, match=r"^c: head_dim must be at most 8192, not 200000000$"):
        assert ModelConfig.of(config | {"head_dim": 200_000_000}, "c").shape
    with pytest.raises(InputError, match=r"^/dev/zero is not a regular file$"):
        ModelConfig.read("/dev/zero")
    (tmp_path / "config.json").write_text("[" + " " * 4_000_000)
    with pytest.raises(InputError, match=r"config.json is too large: it may have at most 4 MB$"):
        ModelConfig.read(tmp_path)
