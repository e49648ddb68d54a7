"""Position schemes in models, in memory and on disk."""

import json
import math

import numpy as np
import peft
import pytest
import torch
from toys import BASE, BASES, HEAD_DIM, HEADS, VOCABULARY, base_set, save_gguf, tokens, toy
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ropesearch import BaseSet, apply_bases, apply_scheme, apply_to_checkpoint, load_model, parse_scheme, uniform_bases
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.presets import TABLE_2
from ropesearch.model import modeling_harpe

pytestmark = pytest.mark.usefixtures("one_thread")

ORIGINAL = 64
FAMILIES = ["llama-grouped", "mistral-grouped", "qwen2-grouped", "qwen3-grouped"]
# What transformers has a rule for: text, rope_type, and max_position_embeddings that follows from it.
STOCK = [
    ("rope:20000", "default", ORIGINAL),
    ("abf:5e6", "default", ORIGINAL),
    ("abf-multi-stage:1", "default", 32768),
    ("abf-multi-stage", "default", 131072),
    ("pi:4", "linear", 4 * ORIGINAL),
    ("ntk:4", "default", 4 * ORIGINAL),
    ("dynamic:4", "dynamic", ORIGINAL),
    ("dynamic:4,original=32", "dynamic", 32),
    ("ntk-by-parts:4", "yarn", 4 * ORIGINAL),
    ("yarn:4", "yarn", 4 * ORIGINAL),
    ("yarn:2.5,original=32,base=500", "yarn", 80),
    ("llama3:4", "llama3", 4 * ORIGINAL),
    ("llama3:8,low_freq_factor=0.5,high_freq_factor=9", "llama3", 8 * ORIGINAL),
    ("longrope:long", "longrope", 4 * ORIGINAL),
]
PER_HEAD = ["uniform", "uniform-descending", "harpe:bases.json"]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """An empty folder to work in, with what the texts name; the user's cache is another one."""
    monkeypatch.chdir(tmp_path)
    write_long_rope("long")
    base_set(BASES[2]).save("bases.json")
    monkeypatch.setattr("ropesearch.model.load.user_cache_folder", lambda: tmp_path / "cache")


def write_long_rope(name, head_dim=HEAD_DIM, **rule):
    n = head_dim // 2
    rule = {"short_factor": [1 + i / 50 for i in range(n)], "long_factor": [1.5 + i for i in range(n)], **rule}
    content = {
        "model_type": "phi3",
        "hidden_size": 4 * head_dim,
        "num_attention_heads": 4,
        "max_position_embeddings": 4 * ORIGINAL,
        "original_max_position_embeddings": ORIGINAL,
        "rope_theta": 20000.0,
        "rope_scaling": {"rope_type": "longrope", **rule},
    }
    with open(name, "w") as file:
        json.dump(content, file)


def small(name="llama-grouped", **more):
    return toy(name, max_position_embeddings=ORIGINAL, **more)


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def config_in(folder):
    with open(f"{folder}/config.json") as file:
        return json.load(file)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("text", "rope_type", "longest"), STOCK)
def test_the_model_turns_by_our_frequencies(name, text, rope_type, longest):
    model = small(name)
    scheme = parse_scheme(text, model=model.config.to_dict())
    with apply_scheme(model, text) as applied:
        assert type(model.model.rotary_emb) is type(toy(name).model.rotary_emb)
        assert model.config.rope_parameters["rope_type"] == rope_type
        assert model.config.max_position_embeddings == applied.change.max_position_embeddings == longest
        assert applied.change.name == scheme.name
        for length in (20, ORIGINAL, 3 * ORIGINAL):  # only growing: `dynamic` of transformers remembers the longest
            cos, _ = model.model.rotary_emb(torch.zeros(1), torch.arange(length)[None])
            ours, factor = scheme.inv_freq(length), scheme.attention_factor(length)
            np.testing.assert_allclose(model.model.rotary_emb.inv_freq.double()[None], ours, rtol=1e-6, atol=0)
            assert model.model.rotary_emb.attention_scaling == pytest.approx(factor, rel=1e-6)
            angles = np.arange(length)[:, None] * ours
            np.testing.assert_allclose(cos[0, :, : HEAD_DIM // 2], factor * np.cos(angles), atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("text", [text for text, *_ in STOCK])
def test_a_stock_checkpoint_is_the_applied_model_to_the_last_bit(name, text, tmp_path):
    model, ids = small(name), tokens(2, 3 * ORIGINAL)
    model.save_pretrained("stock")
    before, config, rotary = logits(model, ids), model.config, model.model.rotary_emb
    applied = apply_scheme(model, text)
    ours = logits(model, ids)
    assert not torch.equal(ours, before)
    model.save_pretrained("saved")
    applied.remove()
    assert torch.equal(logits(model, ids), before)
    assert model.config is config
    assert model.model.rotary_emb is rotary
    assert all(module.config is config for module in model.modules() if "config" in vars(module))

    change = apply_to_checkpoint("stock", text, "written")
    assert change == applied.change
    for folder in ("saved", "written"):
        loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] | info["unexpected_keys"] | info["mismatched_keys"]
        assert torch.equal(logits(loaded, ids), ours)
        assert not list((tmp_path / folder).glob("*.py"))
        assert "auto_map" not in config_in(folder)
        assert config_in(folder)["model_type"] == model.config.model_type
    assert type(AutoModelForCausalLM.from_pretrained("written")) is type(model)
    assert (tmp_path / "written" / "model.safetensors").read_bytes() == (
        tmp_path / "stock" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("name", [*FAMILIES, "llama-one-kv-head", "qwen2-multi-head"])
@pytest.mark.parametrize("text", PER_HEAD)
def test_bases_per_head_are_those_of_apply_bases(name, text):
    model, ids = small(name), tokens(2, 80)
    kv_heads = model.config.num_key_value_heads
    if text.startswith("harpe"):
        base_set(BASES[kv_heads]).save("bases.json", overwrite=True)
        expected = BaseSet.load("bases.json")
    else:
        order = "descending" if text.endswith("descending") else "ascending"
        expected = uniform_bases(1e6, 5e6, HEADS, kv_heads=kv_heads, head_dim=HEAD_DIM, order=order)
    model.save_pretrained("stock")
    before = logits(model, ids)
    with apply_bases(model, expected):
        theirs = logits(model, ids)
    with apply_scheme(model, text) as applied:
        assert torch.equal(logits(model, ids), theirs)
        assert model.config.max_position_embeddings == ORIGINAL
        np.testing.assert_allclose(model.model.rotary_emb._inv_freq.double(), expected.inv_freq(), rtol=1e-6)
    assert torch.equal(logits(model, ids), before)
    assert applied.change.rope_parameters is None
    apply_to_checkpoint("stock", text, "written")
    loaded = AutoModelForCausalLM.from_pretrained("written")
    assert type(loaded).__module__ == modeling_harpe.__name__
    assert torch.equal(logits(loaded, ids), theirs)


def test_table_2_fits_32_kv_heads():
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=64,
        num_key_value_heads=32,
        head_dim=8,
    )
    model = LlamaForCausalLM(config)
    with apply_scheme(model, "table2"):
        assert model.config.rope_parameters["bases"] == list(TABLE_2)
    with apply_scheme(model, "uniform") as applied:
        assert applied.change.name == "uniform,original=2048,head_dim=8"
        assert model.config.rope_parameters["bases"] == list(uniform_bases(1e6, 5e6, 32))


@pytest.mark.parametrize(("asked", "longest"), [(None, ORIGINAL), (1000, 1000)])
@pytest.mark.parametrize("text", ["yarn:4", "abf:5e6", "uniform", "longrope:long"])
def test_the_length_that_is_asked_for_goes_first(text, asked, longest):
    model = small()
    model.save_pretrained("stock")
    inv_freq = parse_scheme(text, model=model.config.to_dict()).inv_freq(3 * ORIGINAL)
    if asked is None and text in ("yarn:4", "longrope:long"):
        longest *= 4
    with apply_scheme(model, text, max_position_embeddings=asked):
        assert model.config.max_position_embeddings == longest
        if text != "uniform":
            model.model.rotary_emb(torch.zeros(1), torch.arange(3 * ORIGINAL)[None])
            np.testing.assert_allclose(model.model.rotary_emb.inv_freq.double()[None], inv_freq, rtol=1e-6)
    assert model.config.max_position_embeddings == ORIGINAL
    apply_to_checkpoint("stock", text, "out", max_position_embeddings=asked)
    assert config_in("out")["max_position_embeddings"] == longest


def test_a_base_set_takes_a_length_too():
    small().save_pretrained("stock")
    change = apply_to_checkpoint("stock", BaseSet.load("bases.json"), "out", max_position_embeddings=1000)
    assert str(change) == "a base set: rope_type harpe, 2 bases; max_position_embeddings 1000, as asked"
    assert config_in("out")["max_position_embeddings"] == 1000
    assert config_in("out")["rope_parameters"]["bases"] == list(BASES[2])


def test_a_scheme_is_taken_as_it_is():
    model = small()
    with apply_scheme(model, parse_scheme(f"yarn:4,head_dim={HEAD_DIM}")):
        assert model.config.rope_parameters["original_max_position_embeddings"] == 4096
        assert model.config.max_position_embeddings == 4 * 4096


def test_stages_one_on_the_other():
    model = small()
    with apply_scheme(model, "abf-multi-stage:1"), apply_scheme(model, "abf-multi-stage:2") as second:
        assert model.config.rope_parameters["rope_theta"] == 2e6
        assert second.change.name == f"abf-multi-stage:2,original=32768,head_dim={HEAD_DIM}"
    assert model.config.rope_parameters["rope_theta"] == BASE


def test_models_in_bfloat16_keep_their_frequencies():
    small().save_pretrained("stock")
    ids = tokens(1, 200)
    apply_to_checkpoint("stock", "yarn:4", "out")
    loaded = LlamaForCausalLM.from_pretrained("out", dtype=torch.bfloat16)
    model = LlamaForCausalLM.from_pretrained("stock").to(torch.bfloat16)  # which rounds those of the old embedding
    with apply_scheme(model, "yarn:4"):
        assert torch.equal(logits(model, ids), logits(loaded, ids))


@pytest.mark.filterwarnings("ignore:.*in v6. Use .*activation_checkpointing:FutureWarning")  # inside peft
def test_wrapped_and_bare_models():
    ids = tokens(1, 200)
    model = small()
    with apply_scheme(model, "yarn:4"):
        expected, states = logits(model, ids), model.model(ids).last_hidden_state
    with apply_scheme(model.model, "yarn:4"):
        assert torch.equal(model.model(ids).last_hidden_state, states)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "k_proj"]))
    with apply_scheme(wrapped, "yarn:4"):
        assert torch.equal(logits(wrapped, ids), expected)
        assert wrapped.config.rope_parameters["rope_type"] == "yarn"


# What is on the disk.


def test_both_generations_of_names_say_the_same_rule():
    model, ids = small(), tokens(1, 200)
    model.save_pretrained("stock")
    for text, rope_type, _ in STOCK:
        folder = text.replace(":", "-")
        apply_to_checkpoint("stock", text, folder)
        config = config_in(folder)
        rule = config["rope_parameters"]
        assert rule["rope_type"] == rope_type
        assert config["rope_theta"] == rule["rope_theta"]
        both = logits(LlamaForCausalLM.from_pretrained(folder), ids)
        if rope_type == "default":
            assert "rope_scaling" not in config
        else:
            assert config["rope_scaling"] | {"rope_theta": config["rope_theta"]} == rule
        for names in (("rope_parameters",), ("rope_theta", "rope_scaling")):
            one = {
                key: value
                for key, value in config.items()
                if key not in {"rope_parameters", "rope_theta", "rope_scaling"} - set(names)
            }
            with open(f"{folder}/config.json", "w") as file:
                json.dump(one, file)
            assert torch.equal(logits(LlamaForCausalLM.from_pretrained(folder), ids), both)


def test_the_rest_of_a_config_stays(tmp_path):
    small().save_pretrained("stock")
    own = config_in("stock") | {"auto_map": {"AutoModel": "its_code.Model"}, "something": ["of", "theirs"]}
    own |= {"rope_theta": own.pop("rope_parameters")["rope_theta"], "original_max_position_embeddings": 5}
    (tmp_path / "stock" / "config.json").write_text(json.dumps(own))
    apply_to_checkpoint("stock", "yarn:4,base=500", "out")
    written = config_in("out")
    for key in ("auto_map", "original_max_position_embeddings", "max_position_embeddings", "rope_theta"):
        own.pop(key)
        written.pop(key, None)
    rule = written.pop("rope_parameters")
    assert (rule["rope_theta"], rule["original_max_position_embeddings"]) == (500, ORIGINAL)
    written.pop("rope_scaling")
    assert written == own
    model, ids = small(), tokens(1, 200)
    with apply_scheme(model, "yarn:4,base=500"):
        ours = logits(model, ids)
    assert torch.equal(logits(LlamaForCausalLM.from_pretrained("out"), ids), ours)
    model = small(original_max_position_embeddings=5)
    with apply_scheme(model, "yarn:4,base=500"):
        assert torch.equal(logits(model, ids), ours)


@pytest.mark.parametrize("text", ["yarn:4", "uniform"])
@pytest.mark.parametrize("kept", [True, False])
def test_gguf_files(tmp_path, monkeypatch, text, kept):
    if not kept:
        monkeypatch.setattr("ropesearch.model.load.user_cache_folder", lambda: None)
    model, ids = small("llama-multi-head"), tokens(1, 100)
    save_gguf(model, "model.gguf")
    change = apply_to_checkpoint("model.gguf", text, "out")
    with apply_scheme(model, text) as applied:
        assert torch.equal(logits(load_model("out")[0], ids), logits(model, ids))
    assert change == applied.change
    stock = text == "yarn:4"
    assert config_in("out")["rope_scaling"]["rope_type"] == ("yarn" if stock else "harpe")
    assert (tmp_path / "out" / "modeling_harpe.py").exists() == (not stock)
    assert (tmp_path / "cache").exists() == kept


# The command.


@pytest.mark.parametrize(
    ("text", "options", "line"),
    [
        (
            "yarn:4",
            [],
            "yarn:4,original=64,head_dim=16: rope_type yarn, rope_theta 10000, factor 4,"
            f" original_max_position_embeddings 64, attention_factor {0.1 * math.log(4) + 1:.6g};"
            " max_position_embeddings 256, the length of the scheme",
        ),
        (
            "abf:5e6",
            [],
            "abf:5e6,original=64,head_dim=16: rope_type default, rope_theta 5000000; max_position_embeddings 64, the"
            " model's own",
        ),
        (
            "abf-multi-stage",
            ["--max-position-embeddings", "99"],
            "abf-multi-stage,original=64,head_dim=16: rope_type default, rope_theta 5000000;"
            " max_position_embeddings 99, as asked",
        ),
        (
            "dynamic:4",
            [],
            "dynamic:4,original=64,head_dim=16: rope_type dynamic, rope_theta 10000, factor 4; max_position_embeddings"
            " 64, the trained length, which the rule takes from there",
        ),
        (
            "longrope:long",
            [],
            "longrope:long: rope_type longrope, rope_theta 20000, factor 4, attention_factor"
            f" {math.sqrt(1 + math.log(4) / math.log(64)):.6g}, original_max_position_embeddings 64;"
            " max_position_embeddings 256, the length of the scheme",
        ),
        (
            "uniform",
            [],
            "uniform,original=64,head_dim=16,kv_heads=2: rope_type harpe, 2 bases; max_position_embeddings 64, the"
            " model's own",
        ),
    ],
)
def test_the_command_says_what_it_wrote(run, text, options, line):
    small().save_pretrained("stock")
    assert run("apply", "stock", "--scheme", text, "-o", "out", *options) == (0, "", f"{line}\nwrote out\n")
    assert run("apply", "stock", "--scheme", text, "-o", "quiet", "--quiet", *options) == (0, "", "")
    assert config_in("quiet") == config_in("out")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "either --bases or --scheme must be given"),
        (["--bases", "bases.json", "--scheme", "yarn:4"], "either --bases or --scheme must be given, not both"),
        (["--scheme", "yarn:4", "--order-by", "f"], "--order-by orders the bases of a file: it needs --bases"),
        (["--scheme", "yarm:4"], "; did you mean yarn?"),
        (["--scheme", "yarn"], "scheme 'yarn': a factor is missing, as in yarn:32"),
        (["--scheme", ""], "unknown position scheme ''"),
        (["--scheme", "yarn:4,head_dim=64"], "the scheme yarn:4,original=64,head_dim=64 is for head_dim 64, and stock"),
        (["--scheme", "yarn:1e9"], "factor must be at most 33554431 with original 64, not 1000000000"),
        (
            ["--scheme", "self-extend:9,group=2"],
            "no checkpoint can carry it, but `ropesearch evaluate` can put it into a model in memory",
        ),
        (
            ["--scheme", "table2"],
            "is for 32 KV heads, and stock has 4 heads and 2 KV heads (uniform takes the model's number)",
        ),
        (["--scheme", "uniform,kv_heads=4"], "is for 4 KV heads, and stock has 4 heads and 2 KV heads"),
        (["--scheme", "harpe:b4.json"], "is for 4 heads and 4 KV heads, and stock has 4 heads and 2 KV heads"),
        (["--scheme", "harpe:b64.json"], "is for head_dim 64, and stock has 16"),
        (["--scheme", "harpe:nowhere.json"], "nowhere.json cannot be read: No such file or directory"),
        (["--scheme", "longrope:long64"], "the scheme longrope:long64 is for head_dim 64, and stock has 16"),
        (["--scheme", "longrope:two"], "longrope:two has an attention factor for each of two ranges"),
        (
            ["--scheme", "yarn:4", "--max-position-embeddings", "0"],
            "--max-position-embeddings must be an integer of at least 1, not 0",
        ),
        (
            ["--bases", "bases.json", "--max-position-embeddings", "-5"],
            "--max-position-embeddings must be an integer of at least 1, not -5",
        ),
        (
            ["--scheme", "dynamic:4", "--max-position-embeddings", "256"],
            "--max-position-embeddings must be 64 for dynamic:4,original=64,head_dim=16, since the rule takes its",
        ),
    ],
)
def test_bad_input_writes_nothing(run, tmp_path, options, line):
    small().save_pretrained("stock")
    base_set(BASES[4]).save("b4.json")
    base_set(BASES[2], head_dim=64).save("b64.json")
    write_long_rope("long64", head_dim=64)
    write_long_rope("two", short_mscale=1.1, long_mscale=1.2)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("apply", "stock", "-o", "out", *options)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert line in err
    assert sorted(tmp_path.rglob("*")) == before


# What is refused in memory.


def test_models_that_scale_or_carry_bases_are_refused():
    model, ids = small(), tokens(1, 100)
    stock = logits(model, ids)
    for first, line in (
        ("yarn:4", "scales its rotary embedding by the rule 'yarn', which pi:2 would silently undo"),
        ("uniform", r"already carries bases \(harpe_llama\), which pi:2 would silently undo"),
    ):
        with apply_scheme(model, first):
            ours = logits(model, ids)
            with pytest.raises(InputError, match=f"LlamaForCausalLM {line}"):
                apply_scheme(model, "pi:2")
            assert torch.equal(logits(model, ids), ours)
    assert torch.equal(logits(model, ids), stock)


def test_other_models_and_other_arguments_are_refused():
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=9))
    with pytest.raises(InputError, match=r"is a model of type gpt2; only llama, mistral, .* can take a"):
        apply_scheme(gpt2, "yarn:4")
    for wanted in (32, None, base_set(BASES[2])):
        with pytest.raises(ParameterError, match="scheme must be a text such as 'yarn:32', or a Scheme, not"):
            apply_scheme(small(), wanted)
    with pytest.raises(InputError, match="the scheme yarn:4 is for head_dim 128, and LlamaForCausalLM has 16"):
        apply_scheme(small(), parse_scheme("yarn:4"))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        apply_scheme(small(), "longrope:nowhere")


def test_a_rule_that_transformers_cannot_compute_leaves_the_model_alone(monkeypatch):
    def compute(*_, **__):
        raise OverflowError("math range error")

    monkeypatch.setitem(ROPE_INIT_FUNCTIONS, "yarn", compute)
    model = small()
    config, rotary = model.config, model.model.rotary_emb
    with pytest.raises(InputError, match=r"^math range error$"):
        apply_scheme(model, "yarn:4")
    assert model.config is config
    assert model.model.rotary_emb is rotary


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nemotron", "yarn:4"),
        ("nemotron", "abf:5e6"),
        ("glm4", "pi:4"),
        ("stablelm", "llama3:4"),
        ("phi3", "abf:5e6"),
        ("phi3", "longrope:long"),
        ("phi3 in part", "longrope:part"),
    ],
)
def test_schemes_are_for_the_part_of_each_head_that_turns(name, text):
    write_long_rope("part", head_dim=12)
    model, ids = small(name), tokens(2, 3 * ORIGINAL)
    model.save_pretrained("stock")
    scheme = parse_scheme(text, model=model.config.to_dict())
    before = logits(model, ids)
    with apply_scheme(model, text):
        ours = logits(model, ids)
        inv_freq = model.model.rotary_emb.inv_freq.double()[None]
        np.testing.assert_allclose(inv_freq, scheme.inv_freq(3 * ORIGINAL), rtol=1e-6, atol=0)
        model.save_pretrained("saved")
    assert not torch.equal(ours, before)
    assert torch.equal(logits(model, ids), before)
    apply_to_checkpoint("stock", text, "written")
    for folder in ("saved", "written"):
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder), ids), ours)


def test_rules_that_a_family_would_take_for_others_are_refused():
    """Phi-3's config calls every yarn a longrope."""
    model = small("phi3")
    model.save_pretrained("stock")
    line = r"^yarn:4.* is of rope_type yarn, and \S+, of type phi3, knows only default and longrope$"
    for put in (lambda: apply_scheme(model, "yarn:4"), lambda: apply_to_checkpoint("stock", "yarn:4", "out")):
        with pytest.raises(InputError, match=line):
            put()
