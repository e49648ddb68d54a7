"""Bases in a model in memory; what is said here of attention holds for checkpoints too, which share the code."""

import copy
import itertools

import numpy as np
import peft
import pytest
import torch
from toys import (
    BASE,
    BASES,
    HEAD_DIM,
    HEADS,
    REFUSED_BY_STOCK,
    SCALED,
    TOYS,
    VOCABULARY,
    base_set,
    naive_logits,
    scaled_toy,
    sets,
    tokens,
    toy,
    toy_by_layer_type,
    toy_config,
)
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ropesearch import AppliedBases, apply_bases, apply_scheme
from ropesearch.core.errors import InputError
from ropesearch.core.model_config import ROTATED_SHARES
from ropesearch.model import modeling_harpe

ATTENTIONS = ("eager", "sdpa")
NEW = [name for name, (family, *_) in TOYS.items() if family not in ("llama", "mistral", "qwen2", "qwen3")]
"""Toys of families beyond Llama, Mistral, Qwen2 and Qwen3."""
COPIED = [name for name, (family, *_) in TOYS.items() if family in ROTATED_SHARES]
"""Those whose stock rotation, as it may be of a part of each head, copies queries into another layout."""


pytestmark = pytest.mark.usefixtures("one_thread")


def logits(model, ids, **options):
    with torch.no_grad():
        return model(ids, **options).logits


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", TOYS)
def test_with_the_models_own_base_nothing_changes_at_all(name, attention):
    model, ids = toy(name, attention), tokens(2, 150)
    own, _ = sets(name)
    stock = logits(model, ids)
    with apply_bases(model, own):
        assert torch.equal(logits(model, ids), stock)
        far = torch.arange(130000, 130150)[None]
        ours = logits(model, ids, position_ids=far)
    assert torch.equal(logits(model, ids, position_ids=far), ours)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", TOYS)
def test_with_other_bases_it_is_what_the_naive_twin_computes(name, attention):
    model, ids = toy(name, attention), tokens(2, 60)
    _, other = sets(name)
    stock = logits(model, ids)
    with torch.no_grad():
        expected = naive_logits(model, other.bases, ids)
        torch.testing.assert_close(stock, naive_logits(model, [BASE] * len(other), ids), rtol=0, atol=1e-4)
    with apply_bases(model, other):
        torch.testing.assert_close(logits(model, ids), expected, rtol=0, atol=1e-4)
    assert (stock - expected).abs().max() > 0.05  # another tolerance would let a stock model pass


@pytest.mark.parametrize("name", [name for name in TOYS if name != "gemma2"])  # which runs on eager alone
def test_attention_is_told_what_stock_tells_it(name, monkeypatch):
    """Windows too, which eager and sdpa have from their masks, and flash attention from here alone."""
    model, ids = toy(name, attention_dropout=0.25).train(), tokens(1, 10)
    attend, told = ALL_ATTENTION_FUNCTIONS["sdpa"], []

    def spy(module, query, key, value, mask, **options):
        told.append(((query.shape, key.shape, value.shape), query.stride(), options))
        return attend(module, query, key, value, mask, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", spy)
    logits(model, ids)
    with apply_bases(model, sets(name)[1]):
        logits(model, ids)
    layers = model.config.num_hidden_layers
    assert len(told) == 2 * layers
    for stock, ours in zip(told[:layers], told[layers:], strict=True):
        assert ours[0] == stock[0]
        if name not in COPIED:
            assert ours[1] == stock[1]
        for option in ("dropout", "scaling", "sliding_window"):
            assert ours[2].get(option) == stock[2].get(option)


@pytest.mark.parametrize("name", TOYS)
def test_dropout_is_that_of_the_stock_model(name):
    more = {"residual_dropout": 0.25} if name == "starcoder2" else {}
    model, ids = toy(name, attention_dropout=0.25, **more).train(), tokens(2, 30)
    torch.manual_seed(7)
    stock = logits(model, ids)
    assert not torch.equal(logits(model, ids), stock)
    torch.manual_seed(7)
    with apply_bases(model, sets(name)[0]):
        assert torch.equal(logits(model, ids), stock)


def test_tables_are_in_float32_where_a_family_rotates_in_it():
    for name in ("olmo2", "llama-grouped"):
        model, ids = toy(name).to(torch.bfloat16), tokens(2, 60)
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # `.to` has rounded its frequencies
        stock = logits(model, ids)
        with apply_bases(model, sets(name)[0]):
            assert torch.equal(logits(model, ids), stock)


@pytest.mark.parametrize("name", TOYS)
def test_only_distances_count(name):
    model, ids = toy(name), tokens(1, 100)
    near = torch.arange(100)[None]
    change = (logits(model, ids, position_ids=near + 1000) - logits(model, ids, position_ids=near)).abs().max()
    with apply_bases(model, sets(name)[1]):
        ours = (logits(model, ids, position_ids=near + 1000) - logits(model, ids, position_ids=near)).abs().max()
    assert ours < 2 * change
    assert ours < 2e-4


def generated(model, ids, **options):
    return model.generate(
        ids, max_new_tokens=12, do_sample=False, return_dict_in_generate=True, output_logits=True, **options
    )


@pytest.mark.parametrize("name", TOYS)
def test_a_cache_changes_nothing(name):
    model, ids = toy(name), tokens(2, 30)
    with apply_bases(model, sets(name)[1]):
        mask = torch.ones_like(ids)
        cached = generated(model, ids, attention_mask=mask)
        uncached = generated(model, ids, attention_mask=mask, use_cache=False)
        static = generated(model, ids, attention_mask=mask, cache_implementation="static", disable_compile=True)
    for other in (uncached, static):
        assert torch.equal(cached.sequences, other.sequences)
        torch.testing.assert_close(torch.stack(cached.logits), torch.stack(other.logits), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama-multi-head", "llama-grouped", "mistral-grouped", "qwen3-grouped", *NEW])
def test_left_padding_changes_nothing(name):
    model, ids = toy(name), tokens(1, 20)
    padded = torch.cat((torch.zeros(1, 7, dtype=torch.long), ids), 1)
    longer = tokens(1, 27, seed=3)
    mask = torch.ones(2, 27, dtype=torch.long)
    mask[0, :7] = 0
    with apply_bases(model, sets(name)[1]):
        batch = generated(model, torch.cat((padded, longer)), attention_mask=mask)
        alone = [generated(model, one, attention_mask=torch.ones_like(one)) for one in (ids, longer)]
    for row, single in enumerate(alone):
        assert torch.equal(batch.sequences[row, -12:], single.sequences[0, -12:])
        together = torch.stack(batch.logits)[:, row]
        torch.testing.assert_close(together, torch.stack(single.logits)[:, 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["llama-multi-head", "llama-grouped", "qwen2-grouped", *NEW])
def test_a_prompt_in_chunks_is_the_prompt(name, static):
    model, ids = toy(name), tokens(2, 50)
    with apply_bases(model, sets(name)[1]):
        whole = logits(model, ids)
        cache = StaticCache(config=model.config, max_cache_len=64) if static else None
        chunks = []
        for start, end in ((0, 20), (20, 21), (21, 50)):
            with torch.no_grad():
                out = model(ids[:, start:end], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            chunks.append(out.logits)
    torch.testing.assert_close(torch.cat(chunks, 1), whole, rtol=0, atol=1e-4)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {key: parameter.grad.clone() for key, parameter in model.named_parameters()}


@pytest.mark.filterwarnings("ignore:.*in v6. Use .*activation_checkpointing:FutureWarning")  # a new name
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["llama-multi-head", "llama-one-kv-head", "qwen3-grouped", *NEW])
def test_gradients_are_those_of_the_naive_twin(name, checkpointing):
    model, ids = toy(name), tokens(2, 40)
    _, other = sets(name)
    expected = gradients(model, naive_logits(model, other.bases, ids).square().mean())
    if checkpointing:
        model.gradient_checkpointing_enable()
    with apply_bases(model.train(), other):
        found = gradients(model, model(ids, use_cache=False).logits.square().mean())
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max() + 1))


@pytest.mark.filterwarnings("ignore:.*in v6. Use .*activation_checkpointing:FutureWarning")  # inside peft
@pytest.mark.parametrize("name", ["llama-grouped", "qwen3-grouped"])
def test_lora_trains_before_and_after(name):
    ids = tokens(4, 30)
    _, other = sets(name)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(5)
    wrapped = peft.get_peft_model(toy(name), lora)
    applied = apply_bases(wrapped, other)
    plain = toy(name)
    apply_bases(plain, other)
    torch.testing.assert_close(logits(wrapped.eval(), ids), logits(plain, ids))  # a new adapter changes nothing

    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = wrapped.train()(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    applied.remove()
    merged = wrapped.merge_and_unload().eval()
    with torch.no_grad(), apply_bases(merged, other):
        torch.testing.assert_close(merged(ids).logits, naive_logits(merged, other.bases, ids), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["llama-multi-head", "llama-grouped", "mistral-grouped"])
def test_compiled_it_is_the_same(name):
    model, ids = toy(name), tokens(2, 40)
    with apply_bases(model, sets(name)[1]):
        expected = logits(model, ids)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(logits(compiled, ids), expected, rtol=0, atol=1e-4)
    torch._dynamo.reset()


def test_hidden_states_and_attentions_come_out():
    model, ids = toy("llama-grouped", "eager"), tokens(1, 10)
    with apply_bases(model, sets("llama-grouped")[1]):
        out = model(ids, output_hidden_states=True, output_attentions=True)
    assert [a.shape for a in out.attentions] == [(1, HEADS, 10, 10)] * 3
    assert len(out.hidden_states) == 4


@pytest.mark.parametrize("how", ["dtype", "to"])
def test_tables_are_right_to_131072_in_every_dtype(how, tmp_path):
    name = "llama-grouped"
    model = toy(name)
    _, other = sets(name)
    apply_bases(model, other)
    if how == "dtype":
        model.save_pretrained(tmp_path)
        model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    else:
        model = model.to(torch.bfloat16)
    assert model.dtype == torch.bfloat16
    positions = torch.tensor([[0, 1, 1000, 65535, 131071, 131072]])
    angles = positions[0, :, None, None].numpy() * other.inv_freq()
    for dtype, tolerance in ((torch.float32, 0.02), (torch.bfloat16, 0.024)):
        # Angles in float32, as transformers has them: at 131 072 their own rounding is 2^17 · 2^-24 and some.
        cos, sin = model.model.rotary_emb(torch.zeros(1, dtype=dtype), positions)
        assert cos.shape == (1, 6, 2, HEAD_DIM // 2)
        assert cos.dtype == sin.dtype == dtype
        np.testing.assert_allclose(cos[0].double().numpy(), np.cos(angles), rtol=0, atol=tolerance)
        np.testing.assert_allclose(sin[0].double().numpy(), np.sin(angles), rtol=0, atol=tolerance)
    ids = tokens(1, 30)
    half = logits(model, ids)
    assert half.dtype == torch.bfloat16
    full = logits(model.float(), ids)
    assert (half - full).abs().max() < 0.1 * full.abs().max()


def test_two_models_in_one_process_are_two(tmp_path):
    config = toy_config("llama-grouped")
    one, two = LlamaForCausalLM(config).eval(), LlamaForCausalLM(config).eval()  # and one config for both
    two.load_state_dict(one.state_dict())
    ids = tokens(1, 40)
    stock = logits(one, ids)
    first, second = base_set(BASES[2]), base_set(BASES[2][::-1])
    with apply_bases(one, first):
        with_first = logits(one, ids)
        assert torch.equal(logits(two, ids), stock)
        with apply_bases(two, second):
            with_second = logits(two, ids)
            assert torch.equal(logits(one, ids), with_first)
        assert torch.equal(logits(two, ids), stock)
    assert torch.equal(logits(one, ids), stock)
    assert len({float(x.sum()) for x in (stock, with_first, with_second)}) == 3


@pytest.mark.parametrize("name", TOYS)
def test_remove_gives_the_model_back(name):
    model, ids = toy(name), tokens(1, 40)
    stock, config = logits(model, ids), model.config
    before = {key: type(module) for key, module in model.named_modules()}
    state = copy.deepcopy(config.to_dict())
    applied = apply_bases(model, sets(name)[1])
    assert isinstance(applied, AppliedBases)
    assert not torch.equal(logits(model, ids), stock)
    applied.remove()
    applied.remove()
    assert torch.equal(logits(model, ids), stock)
    assert {key: type(module) for key, module in model.named_modules()} == before
    assert model.config is config
    assert config.to_dict() == state
    with pytest.raises(ZeroDivisionError), apply_bases(model, sets(name)[1]):
        _ = 1 / 0
    assert torch.equal(logits(model, ids), stock)


def test_a_bare_model_can_take_bases_too():
    model, ids = toy("qwen3-grouped"), tokens(1, 30)
    with apply_bases(model, sets("qwen3-grouped")[1]):
        expected = model.model(ids).last_hidden_state
    with apply_bases(model.model, sets("qwen3-grouped")[1]):
        assert torch.equal(model.model(ids).last_hidden_state, expected)


@pytest.mark.parametrize("name", TOYS)
def test_saved_while_applied_it_carries_the_bases(name, tmp_path):
    model, ids = toy(name), tokens(1, 40)
    _, other = sets(name)
    with apply_bases(model, other):
        expected = logits(model, ids)
        model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded).__name__.startswith("Harpe")
    rope = loaded.config.rope_parameters
    assert rope.get("full_attention", rope)["bases"] == list(other.bases)
    assert torch.equal(logits(loaded, ids), expected)
    with pytest.raises(REFUSED_BY_STOCK, match="harpe"):
        type(model).from_pretrained(tmp_path)


def add_hooks(model):
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for module in model.modules():
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu"))


def remove_hooks(model):
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(model, recurse=True)


NOTHING = (lambda model: None,)


@pytest.mark.parametrize("before", [*NOTHING, add_hooks, lambda model: (add_hooks(model), remove_hooks(model))])
@pytest.mark.parametrize("between", [*NOTHING, add_hooks, remove_hooks])
@pytest.mark.parametrize("after", [*NOTHING, add_hooks, remove_hooks])
def test_hooks_of_models_spread_over_devices_come_and_go_at_any_time(before, between, after):
    model, ids = toy("llama-grouped"), tokens(1, 30)
    stock = logits(model, ids)
    with apply_bases(model, sets("llama-grouped")[1]):
        expected = logits(model, ids)
    before(model)
    applied = apply_bases(model, sets("llama-grouped")[1])
    assert torch.equal(logits(model, ids), expected)
    between(model)
    assert torch.equal(logits(model, ids), expected)
    applied.remove()
    assert torch.equal(logits(model, ids), stock)
    after(model)
    assert torch.equal(logits(model, ids), stock)
    with apply_bases(model, sets("llama-grouped")[1]):
        assert torch.equal(logits(model, ids), expected)


@pytest.mark.parametrize("text", [None, "yarn:4"])
def test_remove_keeps_what_has_changed_meanwhile(text, tmp_path):
    twin_of_config = toy("llama-grouped")
    model, ids = toy("llama-grouped"), tokens(1, 30)
    twin_of_config.config = model.config  # other models do not get the changes
    wanted = apply_bases(model, sets("llama-grouped")[1]) if text is None else apply_scheme(model, text)
    model.resize_token_embeddings(VOCABULARY + 7)
    model.set_attn_implementation("eager")
    wanted.remove()
    assert model.config.vocab_size == model.model.config.vocab_size == VOCABULARY + 7
    assert twin_of_config.config.vocab_size == VOCABULARY
    assert model.config._attn_implementation == "eager"
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": BASE}
    assert type(model.config) is type(twin_of_config.config)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(logits(loaded, ids), logits(model, ids))
    assert torch.equal(logits(model, ids)[..., :VOCABULARY], logits(toy("llama-grouped", "eager"), ids))


@pytest.mark.parametrize("text", [None, "yarn:4"])
def test_a_model_around_one_with_bases_is_not_saved_without_them(text, tmp_path):
    model = toy("llama-grouped")
    put = (lambda m: apply_bases(m, sets("llama-grouped")[1])) if text is None else (lambda m: apply_scheme(m, text))
    with put(model.model):
        with pytest.raises(InputError, match="given to the LlamaModel alone, and the config of the model around it"):
            model.save_pretrained(tmp_path / "around")
        model.model.save_pretrained(tmp_path / "alone")
        torch.save(model.model, tmp_path / "pickled")
    with put(model):
        model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "around")


@pytest.mark.filterwarnings("ignore:.*in v6. Use .*activation_checkpointing:FutureWarning")  # inside peft
def test_adapters_around_a_bare_model_with_bases_are_saved(tmp_path):
    bare = toy("llama-grouped").model
    apply_bases(bare, sets("llama-grouped")[1])
    peft.get_peft_model(bare, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()


def test_a_language_model_among_images_is_saved_with_its_bases(tmp_path):
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = LlavaConfig(vision_config=vision, text_config=toy_config("llama-grouped"), image_token_index=3)
    model, ids = LlavaForConditionalGeneration(config).eval(), tokens(1, 30) % 90 + 4
    stock, own = logits(model, ids), copy.deepcopy(config.to_dict())
    applied = apply_bases(model, sets("llama-grouped")[1])
    expected = logits(model, ids)
    assert not torch.equal(expected, stock)
    model.save_pretrained(tmp_path)
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, ids), expected)
    assert type(loaded.model.language_model).__name__ == "HarpeLlamaModel"
    model.resize_token_embeddings(VOCABULARY + 7)
    applied.remove()
    assert torch.equal(logits(model, ids)[..., :VOCABULARY], stock)
    assert config.to_dict() == own
    assert model.config.text_config.vocab_size == VOCABULARY + 7
    assert model.config.text_config.model_type == "llama"


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_packed_sequences_need_a_model_without_cache(attention):
    """With one, transformers does not look for them: it would let each see those before it."""
    model, (one, two) = toy("llama-grouped", attention), (tokens(1, 20), tokens(1, 30, seed=1))
    packed = {"position_ids": torch.cat((torch.arange(20), torch.arange(30)))[None]}
    ids = torch.cat((one, two), 1)
    with apply_bases(model, sets("llama-grouped")[1]):
        apart = torch.cat((logits(model, one), logits(model, two)), 1)
        torch.testing.assert_close(logits(model, ids, use_cache=False, **packed), apart, rtol=0, atol=1e-4)
        if attention == "sdpa":  # the mask of eager hides it
            with pytest.raises(ValueError, match="packed sequences need use_cache=False"):
                logits(model, ids, **packed)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("rule", SCALED)
def test_a_rule_kept_with_the_models_own_base_changes_nothing_at_all(rule, attention, tmp_path):
    model, ids = scaled_toy(rule, attention), tokens(2, 150)
    own, other = sets("llama-grouped")
    stock = logits(model, ids)
    with apply_bases(model, own, scaling="keep") as applied:
        assert applied.change.scaling == "keep"
        assert torch.equal(logits(model, ids), stock)
        far = torch.arange(130000, 130150)[None]
        ours = logits(model, ids, position_ids=far)
    assert torch.equal(logits(model, ids, position_ids=far), ours)
    with apply_bases(model, other, scaling="keep"):
        expected = logits(model, ids)
        model.save_pretrained(tmp_path)
    assert (expected - stock).abs().max() > 0.05
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=attention)
    assert torch.equal(logits(loaded, ids), expected)


@pytest.mark.parametrize(
    ("name", "rule", "own"),
    [
        *(("gemma3_text", rule, {"rope_type": "default"}) for rule in SCALED),
        *itertools.product(
            ["gemma3_text"],
            ["yarn", "yarn in all its words"],
            [SCALED["yarn"], SCALED["yarn in all its words"]],
        ),
        ("olmo3", "yarn", SCALED["yarn in all its words"]),
    ],
)
def test_layers_with_a_window_keep_their_own_rope(name, rule, own, tmp_path):
    """Where each type of layer has one; with the rule of the others, transformers overlooks `truncate`."""
    model, ids = toy_by_layer_type(name, SCALED[rule], own), tokens(2, 100)
    same, other = sets(name)
    stock = logits(model, ids)
    with apply_bases(model, same, scaling="keep"):
        assert torch.equal(logits(model, ids), stock)
    plain = toy_by_layer_type(name, {"rope_type": "default"}, own)
    with apply_bases(model, same, scaling="replace"):
        assert torch.equal(logits(model, ids), logits(plain, ids))
    with apply_bases(model, other, scaling="keep"):
        expected = logits(model, ids)
        model.save_pretrained(tmp_path)
    assert (expected - stock).abs().max() > 0.05
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, ids), expected)
    assert loaded.config.rope_parameters["sliding_attention"] == model.config.rope_parameters["sliding_attention"]


def test_ropes_by_layer_type_that_do_not_fit_are_refused():
    own, _ = sets("olmo3")
    model = toy_by_layer_type("olmo3", {"rope_type": "default"}, {"rope_type": "dynamic", "factor": 2.0})
    with pytest.raises(InputError, match="layers that keep their own rotary embedding, of the rule 'dynamic'; it can"):
        apply_bases(model, own)
    with pytest.raises(InputError, match="has a rotary embedding for each type of layer, of which yarn:4,"):
        apply_scheme(toy("olmo3"), "yarn:4")
    with pytest.raises(InputError, match="Olmo3ForCausalLM has no layer that sees the whole text, and only those get"):
        apply_bases(toy("olmo3", layer_types=["sliding_attention"] * 3), own)
    with pytest.raises(InputError, match="by the rule 'yarn'"):
        apply_bases(toy_by_layer_type("olmo3", SCALED["yarn"], {"rope_type": "default"}), own)


@pytest.mark.parametrize("rule", SCALED)
def test_a_rule_replaced_leaves_nothing_of_it(rule):
    model, plain, ids = scaled_toy(rule), toy("llama-grouped"), tokens(2, 150)
    own, other = sets("llama-grouped")
    assert not torch.equal(logits(model, ids), logits(plain, ids))
    with apply_bases(model, own, scaling="replace"):
        assert torch.equal(logits(model, ids), logits(plain, ids))
    with apply_bases(model, other, scaling="replace"), apply_bases(plain, other):
        assert torch.equal(logits(model, ids), logits(plain, ids))
    with apply_scheme(model, "pi:3", scaling="replace"), apply_scheme(plain, "pi:3"):
        assert torch.equal(logits(model, ids), logits(plain, ids))
    with apply_scheme(model, "uniform", scaling="keep"):
        assert model.config.rope_parameters["scaling"] == {
            key: value for key, value in scaled_toy(rule).config.rope_parameters.items() if key != "rope_theta"
        }


def test_scaled_models_are_refused_unless_it_is_said_what_becomes_of_the_rule():
    own, ids = sets("llama-grouped")[0], tokens(1, 20)
    for rule in SCALED:
        model = scaled_toy(rule)
        stock, name = logits(model, ids), SCALED[rule]["rope_type"]
        line = (
            f"LlamaForCausalLM scales its rotary embedding by the rule '{name}', which a base per head would silently "
        )
        line += "undo: give `scaling=replace` to drop the rule, or `scaling=keep` to apply it to every base"
        with pytest.raises(InputError, match=line):
            apply_bases(model, own)
        with pytest.raises(InputError, match=r"pi:2.* is a rule itself and needs `scaling=replace`"):
            apply_scheme(model, "pi:2", scaling="keep")
        with pytest.raises(InputError, match="scaling must be one of replace, keep, not 'drop'"):
            apply_bases(model, own, scaling="drop")
        assert torch.equal(logits(model, ids), stock)
    config = toy_config("llama-grouped", max_position_embeddings=2048)
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": BASE}
    model = LlamaForCausalLM(config)
    with pytest.raises(InputError, match=r"rule 'dynamic', .*: give `scaling=replace` to drop the rule$"):
        apply_bases(model, own)
    with pytest.raises(InputError, match="'dynamic' of LlamaForCausalLM changes with the length and cannot be applied"):
        apply_bases(model, own, scaling="keep")


def test_what_does_not_fit_is_refused():
    model = toy("llama-grouped")
    with pytest.raises(
        InputError, match="for 8 heads, 2 KV heads and head_dim 16, but LlamaForCausalLM has 4 heads, 2"
    ):
        apply_bases(model, base_set(BASES[2], heads=8))
    with pytest.raises(InputError, match="head_dim 32, but LlamaForCausalLM has 4 heads, 2 KV heads and head_dim 16"):
        apply_bases(model, base_set(BASES[2], head_dim=32))
    with pytest.raises(InputError, match="1 KV heads and head_dim 16, but LlamaForCausalLM has 4 heads, 2 KV heads"):
        apply_bases(model, base_set(BASES[1]))
    with pytest.raises(InputError, match=r"one base per query head .4.,.* `kv_heads=2`"):
        apply_bases(model, base_set(BASES[4]))
    with pytest.raises(InputError, match=r"base_set must be a BaseSet, not 'bases.json'"):
        apply_bases(model, "bases.json")
    with apply_bases(model, base_set(BASES[2])), pytest.raises(InputError, match="already carries bases"):
        apply_bases(model, base_set(BASES[2]))
    with pytest.raises(InputError, match=r"type gpt2; only llama, mistral, .* can take bases"):
        apply_bases(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=9)), base_set(BASES[2]))
    with pytest.raises(InputError, match="Linear is a model of type None"):
        apply_bases(torch.nn.Linear(2, 2), base_set(BASES[2]))


def test_an_attention_that_other_code_has_changed_is_refused():
    model, ids = toy("llama-grouped"), tokens(1, 20)
    attention = model.model.layers[1].self_attn
    own = attention.forward
    attention.forward = lambda *args, **options: own(*args, **options)
    stock, config = logits(model, ids), model.config
    with pytest.raises(InputError, match="LlamaAttention that other code has changed"):
        apply_bases(model, sets("llama-grouped")[1])
    assert torch.equal(logits(model, ids), stock)
    assert model.config is config


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_split_heads_turn_by_their_own_tables(devices):
    """By the rank that vLLM's layers tell; with more devices than KV heads, several have the same one."""
    config = modeling_harpe.with_bases(toy_config("llama-multi-head"), BASES[4])
    config.num_attention_heads = 8
    model = modeling_harpe.HarpeLlamaForCausalLM(config).model
    assert config.base_model_tp_plan == LlamaConfig.base_model_tp_plan
    attention, tables = model.layers[0].self_attn, model.rotary_emb(torch.zeros(1), torch.arange(5)[None])
    query, key = torch.randn(2, 5, 8, HEAD_DIM), torch.randn(2, 5, 4, HEAD_DIM)
    whole = attention._turned(query, key, *tables)
    attention.k_proj.tp_size = devices
    for rank in range(devices):
        attention.k_proj.tp_rank = rank
        of_queries = slice(rank * 8 // devices, (rank + 1) * 8 // devices)
        of_keys = slice(rank * 4 // devices, max((rank + 1) * 4 // devices, rank * 4 // devices + 1))
        parts = attention._turned(query[:, :, of_queries], key[:, :, of_keys], *tables)
        assert torch.equal(parts[0], whole[0][:, :, of_queries])
        assert torch.equal(parts[1], whole[1][:, :, of_keys])


def test_split_heads_that_nothing_names_are_refused():
    config = modeling_harpe.with_bases(toy_config("llama-grouped"), BASES[2])
    attention = modeling_harpe.HarpeLlamaForCausalLM(config).model.layers[0].self_attn
    tables = torch.zeros(1, 3, 4, HEAD_DIM // 2)
    with pytest.raises(ValueError, match="2 KV heads, but bases for 4: nothing says which"):
        attention(torch.zeros(1, 3, HEADS * HEAD_DIM), position_embeddings=(tables, tables))


@pytest.mark.parametrize("bases", [None, [1e6], [1e6, 1.0], [1e6, float("nan")], [1e6, "1e6"], [1e6, True], 1e6])
def test_configs_hold_one_right_base_per_kv_head(bases):
    rope = {"rope_type": "harpe", "rope_theta": BASE} | ({} if bases is None else {"bases": bases})
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1}

    def build():  # the config raises, or the model, by the version of transformers
        config = modeling_harpe.HarpeLlamaConfig(**shape, vocab_size=VOCABULARY, rope_parameters=rope)
        modeling_harpe.HarpeLlamaForCausalLM(config)

    with pytest.raises(ValueError, match="bases"):
        build()


def test_a_config_without_bases_makes_no_model():
    with pytest.raises(ValueError, match="rope_type 'harpe' with 'bases'"):
        modeling_harpe.HarpeLlamaModel(modeling_harpe.HarpeLlamaConfig(hidden_size=32, num_hidden_layers=0))
