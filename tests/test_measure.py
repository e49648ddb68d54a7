"""Attention by distance, measured on toys of every family and held against dense sums of a twin's scores."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from toys import (
    BASE,
    BASES,
    HEAD_DIM,
    SCALED,
    TOYS,
    VOCABULARY,
    WordTokenizer,
    base_set,
    naive_logits,
    naive_scale,
    naive_window,
    rotated_share,
    save_with_tokenizer,
    scaled_toy,
    sets,
    tokens,
    toy,
    toy_config,
    turning_layers,
)
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from ropesearch import Decay, apply_bases, load_model, measure_decay, shipped_texts, waveform
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.model_config import ModelConfig
from ropesearch.decay import measure, memory
from ropesearch.decay.capture import capture_layers
from ropesearch.decay.sums import correlate, pairs_by_block

LENGTH = 96
LAST = LENGTH // 2

pytestmark = pytest.mark.usefixtures("one_thread")


def passages(n=2, length=LENGTH):
    return {f"text {seed}": tokens(length, seed=seed) for seed in range(n)}


def llama_2(heads=8, layers=2):
    """A Llama-2 of few and narrow layers: head_dim 128, a KV head for every head, base 10 000."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128 * heads,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config).eval()


def seen_by_the_twin(model, bases, texts):
    """Of every layer and head, a list over the texts of (queries, keys, scores, weights)."""
    seen = []
    for ids in texts.values():
        seen.append([])
        with torch.no_grad():
            naive_logits(model, bases, ids[None], seen[-1])
    heads = model.config.num_attention_heads
    by_head = list(zip(*seen, strict=True))
    return [by_head[start : start + heads] for start in range(0, len(by_head), heads)]


def each_head(twin):
    for row, layer in enumerate(twin):
        for head, texts in enumerate(layer):
            yield row, head, list(zip(*texts, strict=True))


@pytest.mark.parametrize("length", [64, 96, 100, 255])
def test_the_sums_of_every_block_are_those_of_the_dense_scores(length):
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(*shape, generator=generator) for shape in ((3, length, 8), (length, 8)))
    kept = key.clone()
    last = length // 2
    sums = correlate(query, key, last)
    assert torch.equal(key, kept)
    dense = (query.double() @ key.double().T).numpy()
    size, counts = -(-length // 16), pairs_by_block(length, last)
    for m in range(last + 1):
        for block in range(16):
            found = [(i, j) for i, j in naive.pairs(m, length) if i // size == block]
            assert counts[block, m] == len(found)
            for head in range(3):
                assert abs(sums[head, block, m] - sum(dense[head, i, j] for i, j in found)) < 1e-10


@pytest.mark.parametrize("model", [llama_2(), toy("llama-grouped")], ids=["Llama-2's shape", "grouped"])
def test_the_score_is_the_mean_of_the_dense_one(model):
    """Of the very queries and keys that the model multiplies."""
    ids, taken = tokens(500), []
    capture_layers(model.model, ids, range(len(model.model.layers)), taken.append, report=list)
    decay = measure_decay(model, None, {"text": ids}, length=500)
    for layer in taken:
        group = layer.query.shape[1] // layer.key.shape[1]
        for head in range(layer.query.shape[1]):
            query, key = (
                x.double().numpy() for x in (layer.rotated_query[:, head], layer.rotated_key[:, head // group])
            )
            scores = query @ key.T / np.sqrt(query.shape[1])
            assert abs(naive.mean_scores([scores], 250) - decay.score[layer.row, head]).max() < 1e-6


@pytest.mark.parametrize("name", TOYS)
def test_every_array_is_what_the_twin_makes(name):
    model, texts = toy(name), passages()
    own, other = sets(name)
    decay = measure_decay(model, None, texts, length=LENGTH, base_set=other, verify=True, softmax=True)
    assert decay.pairs.tolist() == [2 * len(naive.pairs(m, LENGTH)) for m in range(LAST + 1)]
    group, scale = 4 // TOYS[name][1], naive_scale(model.config) * HEAD_DIM**0.5

    def curve_of(queries, keys, base):
        """That of the part that turns, and a constant from the part that stays."""
        part = int(HEAD_DIM * rotated_share(model.config))
        stay, turn = ([[x[:, s] for x in of] for of in (queries, keys)] for s in (slice(part, None), slice(part)))
        if "glm" in name:
            turn = [[np.concatenate((x[:, 0::2], x[:, 1::2]), 1) for x in of] for of in turn]
        mean_q, mean_k = (np.mean([x[4:].mean(0, dtype=float) for x in of], 0) for of in stay)
        turning = np.array(naive.model_curve(*turn, base, LAST)) * part**0.5
        return (turning + mean_q @ mean_k) * HEAD_DIM**-0.5

    twin, changed_twin = (
        [of_layers[layer] for layer in decay.layers]
        for of_layers in (seen_by_the_twin(model, bases, texts) for bases in (own.bases, other.bases))
    )
    assert decay.layers == tuple(turning_layers(model.config))
    for row, head, (queries, keys, scores, weights) in each_head(twin):
        of_head = {
            key: getattr(decay, key)[row, head] for key in ("score", "standard_error", "curve", "mass", "sink_mass")
        }
        predicted = decay.predict(other)[row, head]
        mass, on_sinks = naive.masses(weights, LAST)
        expected = {
            "score": naive.mean_scores(scores, LAST),
            "standard_error": naive.standard_errors(scores, LAST),
            "curve": scale * curve_of(queries, keys, BASE),
            "mass": mass,
            "sink_mass": on_sinks,
        }
        for key, values in expected.items():
            np.testing.assert_allclose(of_head[key], values, rtol=0, atol=3e-5, err_msg=key)
        np.testing.assert_allclose(
            predicted,
            scale * curve_of(queries, keys, other.bases[head // group]),
            rtol=0,
            atol=3e-5,
        )
        for part, one in enumerate(scores):
            np.testing.assert_allclose(decay.parts[part, row, head], naive.mean_scores([one], LAST), rtol=0, atol=3e-5)
    for row, head, (_, _, scores, _) in each_head(changed_twin):
        np.testing.assert_allclose(decay.verified[row, head], naive.mean_scores(scores, LAST), rtol=0, atol=3e-5)
    assert abs(decay.verified - decay.score).max() > 0.1  # another tolerance would let a stock model pass


def test_layers_that_do_not_rotate_are_not_measured():
    with pytest.raises(InputError, match="layer 1 of SmolLM3ForCausalLM does not rotate queries and keys"):
        measure_decay(toy("smollm3"), None, passages(), length=LENGTH, layers=[0, 1])


def test_channels_that_stay_are_saved_and_have_no_attention_factor(tmp_path):
    name, rule = "nemotron", {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 64}
    config = toy_config(name, max_position_embeddings=1024)
    config.rope_parameters |= rule
    model = type(toy(name))(config).eval()
    decay = measure_decay(model, None, passages(), length=LENGTH)
    assert (decay.model["head_dim"], decay.model["whole_head_dim"]) == (HEAD_DIM // 2, HEAD_DIM)
    assert decay.model["attention_factor"] > 1.2
    assert (decay.inv_freq[:, HEAD_DIM // 4 :] == 0).all()
    np.testing.assert_allclose(decay.predict(sets(name)[0], scaling="keep"), decay.curve, rtol=0, atol=1e-5)
    config.rope_parameters = {"rope_type": "default", "rope_theta": BASE, "partial_rotary_factor": 0.5}
    plain = type(model)(config).eval()
    plain.load_state_dict(model.state_dict())
    # Of the first layer alone, whose queries and keys are those of the model without the rule.
    expected = measure_decay(plain, None, passages(), length=LENGTH).curve[0]
    np.testing.assert_allclose(decay.predict(sets(name)[0], scaling="replace")[0], expected, rtol=0, atol=1e-5)
    decay.save(tmp_path / "decay.json")
    assert np.array_equal(Decay.load(tmp_path / "decay.json").curve, decay.curve)
    written = (tmp_path / "decay.json").read_text().replace('"whole_head_dim": 16', '"whole_head_dim": 6')
    (tmp_path / "decay.json").write_text(written)
    with pytest.raises(InputError, match="whole_head_dim must be at least head_dim, 8, not 6"):
        Decay.load(tmp_path / "decay.json")


def test_a_window_is_in_the_mass_and_not_in_the_score():
    model = toy("mistral-grouped")
    decay = measure_decay(model, None, passages(), length=LENGTH, softmax=True)
    window = naive_window(model.config, 0)
    assert (decay.mass[..., : window // 2] > 0).all()
    assert (decay.mass[..., window:] == 0).all()
    assert (decay.score[..., window:] != 0).all()


def test_a_model_that_carries_bases():
    model, texts = toy("qwen3-grouped"), passages()
    _, other = sets("qwen3-grouped")
    verified = measure_decay(model, None, texts, length=LENGTH, base_set=other, verify=True).verified
    with apply_bases(model, other):
        decay = measure_decay(model, None, texts, length=LENGTH)
        assert np.array_equal(decay.score, verified)
        assert decay.model["bases"] == list(other.bases)
        np.testing.assert_allclose(decay.curve, decay.predict(other), rtol=0, atol=1e-5)
        with pytest.raises(InputError, match="already carries bases"):
            measure_decay(model, None, texts, length=LENGTH, base_set=other)


def all_ones(name="llama-grouped"):
    """A toy whose queries and keys are ones, whatever it reads."""
    model = toy(name)
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            torch.nn.init.zeros_(projection.weight)
            torch.nn.init.ones_(projection.bias)
    return model


def test_queries_and_keys_of_ones_give_the_attention_waveform():
    decay = measure_decay(all_ones(), None, passages(length=512), length=512)
    expected = waveform(BASE, 16, 256)
    for curves in (decay.score, decay.curve, *decay.parts):
        assert abs(curves - expected).max() < 2e-5
    assert decay.standard_error.max() < 1e-5
    for name in ("unit_waveform", "curve", "agreement"):
        assert (abs(decay.figures[name] - 1) < 1e-9).all()
    other = base_set(BASES[2])
    for kv_head, base in enumerate(other.bases):
        assert abs(decay.predict(other)[:, 2 * kv_head : 2 * kv_head + 2] - waveform(base, 16, 256)).max() < 2e-5


@pytest.mark.parametrize(
    "rule",
    [
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        {"rope_type": "linear", "factor": 8.0},
    ],
)
def test_a_model_that_scales_its_rotation(rule):
    config = all_ones().config
    config.rope_parameters = {"rope_theta": BASE, **rule}
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(all_ones().state_dict())
    decay = measure_decay(model, None, passages(), length=LENGTH)
    assert abs(decay.score - decay.curve).max() < 2e-5
    assert abs(decay.score - waveform(BASE, 16, LAST)).max() > 0.1
    with pytest.raises(InputError, match=f"by the rule '{rule['rope_type']}'"):
        measure_decay(model, None, passages(), length=LENGTH, base_set=base_set(BASES[2]))


def test_queries_of_zeros_have_no_correlation(tmp_path):
    model = all_ones()
    torch.nn.init.zeros_(model.model.layers[1].self_attn.q_proj.bias)
    decay = measure_decay(model, None, passages(), length=LENGTH, softmax=True)
    assert (decay.figures["slope"][1] == 0).all()
    assert np.isnan(decay.figures["minus_log"][1]).all()
    np.testing.assert_allclose(decay.sink_mass[1], np.mean([4 / (i + 1) for i in range(4, LENGTH)]), rtol=1e-6)
    decay.save(tmp_path / "decay.json")
    assert '"minus_log": null' in (tmp_path / "decay.json").read_text()


def test_figures_are_those_of_numpy():
    other = base_set(BASES[4])
    decay = measure_decay(
        toy("qwen2-multi-head"), None, passages(3), length=LENGTH, base_set=other, verify=True, softmax=True
    )
    at = sorted({round(LAST ** (i / 59)) for i in range(60)})
    assert decay.fit_distances.tolist() == at
    assert decay.agreement_to == LAST
    log_m = np.log10(at)
    unit, predicted = waveform(BASE, 16, LAST)[at], decay.predict(other)[..., at].astype(float)

    def r(a, b):
        return np.corrcoef(a, b)[0, 1]

    for row in range(3):
        for head in range(4):
            score, curve, new, parts = (
                x[..., row, head, at].astype(float) for x in (decay.score, decay.curve, decay.verified, decay.parts)
            )
            prediction = predicted[row, head]
            missed, change = (prediction - curve) - (new - score), new - score
            expected = {
                "slope": np.polyfit(log_m, score, 1)[0],
                "unit_waveform": r(score, unit),
                "minus_log": r(score, -log_m),
                "curve": r(score, curve),
                "agreement": min(r(parts[0], parts[1]), r(parts[0], parts[2]), r(parts[1], parts[2])),
                "standard_error": np.median(decay.standard_error[row, head, at]),
                "spread": score.std(),
                "predicted_slope": np.polyfit(log_m, prediction, 1)[0],
                "verified_slope": np.polyfit(log_m, new, 1)[0],
                "prediction": r(new, prediction),
                "no_change": r(new, score),
                "change_error": np.sqrt((missed**2).mean() / (change**2).mean()),
                "sink_mass": decay.sink_mass[row, head],
                "mass_slope": np.polyfit(log_m, np.log10(decay.mass[row, head, at].astype(float)), 1)[0],
            }
            assert expected.keys() == decay.figures.keys()
            for name, value in expected.items():
                assert abs(decay.figures[name][row, head] - value) < 1e-6, name
    assert decay.summary()["slope"]["50 %"] == np.median(decay.figures["slope"])


def test_some_layers_are_those_of_all_and_no_layer_runs_after_the_last(monkeypatch):
    model, texts = toy("llama-grouped"), passages()
    whole = measure_decay(model, None, texts, length=LENGTH)
    ran = []
    model.model.layers[2].register_forward_pre_hook(lambda *_: ran.append(2))
    some = measure_decay(model, None, texts, length=LENGTH, layers=[1, 0, 1])
    assert some.layers == (0, 1)
    assert np.array_equal(some.score, whole.score[:2])
    assert ran == []


def test_of_one_text_two_halves_are_compared():
    model = toy("llama-grouped")
    long = tokens(2 * LENGTH, seed=3)
    halves = {"a": long[:LENGTH], "b": long[LENGTH:]}
    one, two = (measure_decay(model, None, t, length=LENGTH) for t in ({"all": long}, halves))
    assert np.array_equal(one.parts, two.parts)
    assert [dict(text) for text in one.texts] == [
        {"name": "all", "tokens": 2 * LENGTH, "from": 0},
        {"name": "all", "tokens": 2 * LENGTH, "from": LENGTH},
    ]

    short = measure_decay(model, None, {"short": long[:LENGTH]}, length=LENGTH)
    assert short.agreement_to == LENGTH // 4
    with torch.no_grad():
        seen = []
        naive_logits(model, [BASE] * 2, long[None, :LENGTH], seen)
    scores = seen[0][2]
    for part, queries in enumerate((range(LENGTH // 2), range(LENGTH // 2, LENGTH))):
        for m in (1, 10, LENGTH // 4):
            found = [scores[i, j] for i, j in naive.pairs(m, LENGTH) if i in queries]
            assert abs(short.parts[part, 0, 0, m] - np.mean(found)) < 3e-5


def test_texts_are_read_with_what_the_tokenizer_puts_first():
    model, words = toy("llama-grouped"), [f"{i}" for i in range(2 * LENGTH)]
    tokenizer = WordTokenizer()
    decay = measure_decay(model, tokenizer, {"text": " ".join(words)}, length=LENGTH)
    ids = tokenizer(" ".join(words)).input_ids
    halves = {"a": ids[:LENGTH], "b": [1, *ids[LENGTH + 1 :]]}
    assert np.array_equal(decay.parts, measure_decay(model, None, halves, length=LENGTH).parts)
    assert decay.texts[0]["tokens"] == 2 * LENGTH + 1


def test_the_shipped_texts():
    texts = shipped_texts()
    assert len(texts) == 2
    for text in texts.values():
        assert text.isascii()
        assert len(text.split()) > 4000
    decay = measure_decay(toy("llama-grouped"), WordTokenizer(), length=LENGTH)
    assert [text["name"] for text in decay.texts] == list(texts)


def test_the_model_is_left_as_it_was():
    model = toy("llama-grouped").train()
    attention = model.model.layers[0].self_attn
    ids = passages()
    measure_decay(model, None, ids, length=LENGTH, base_set=sets("llama-grouped")[1], verify=True)

    def stop(what, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_decay(model, None, ids, length=LENGTH, progress=stop)
    assert model.training
    for module in (attention, attention.q_proj, attention.k_proj):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert type(attention).__name__ == "LlamaAttention"


def test_progress_counts_layers():
    seen = []
    options = {"length": LENGTH, "base_set": sets("llama-grouped")[1], "verify": True, "layers": [0, 2]}
    measure_decay(toy("llama-grouped"), None, passages(), progress=lambda *step: seen.append(step), **options)
    assert seen == [("layers", i, 8) for i in range(1, 9)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 63}, "length must be an integer of at least 64, not 63"),
        ({"length": 97}, "the text text 0 has 96 tokens, fewer than the length 97"),
        ({"layers": [0, 3]}, "layer 3 does not exist: toy has 3 layers, 0 to 2"),
        ({"layers": []}, "layers must be at least one layer, not"),
        ({"layers": [-1]}, "every layer must be an integer of at least 0, not -1"),
        ({"verify": True}, "verify must be false unless a base_set is given, not True"),
        ({"verify": 1}, "verify must be true or false, not 1"),
        ({"base_set": base_set(BASES[4])}, "must have one per KV head"),
        ({"texts": {}}, "texts must be a mapping of at least one name to a text, not {}"),
        ({"texts": {"a": "some words"}}, "the model has no tokenizer that loads; without one, texts must be token ids"),
        (
            {"texts": {"a": [VOCABULARY] * LENGTH}},
            "the text a has the token 101; the model knows the tokens 0 to 100",
        ),
        ({"texts": {"a": [0.5] * LENGTH}}, "every token must be an integer of at least 0, not 0.5"),
    ],
)
def test_what_cannot_be_measured(options, message):
    arguments = {"texts": passages(), "length": LENGTH, "name": "toy"} | options
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        measure_decay(toy("llama-grouped"), None, **arguments)
    assert message in str(error.value)
    assert isinstance(error.value, InputError | ParameterError)


def test_a_model_of_another_type():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=10))
    with pytest.raises(InputError, match="type gpt2"):
        measure_decay(model, None, passages())


def test_out_of_memory_says_which_length_would_fit(monkeypatch):
    model, texts = toy("llama-grouped"), passages(length=4096)
    monkeypatch.setattr(memory, "available_memory", lambda: 10**7)
    with pytest.raises(
        MemoryError, match=r"a length of 4096 needs [\d.]+ MB .*: a length of (\d+) would fit$"
    ) as error:
        measure_decay(model, None, texts, length=4096)
    fits = int(str(error.value).split()[-3])
    measure_decay(model, None, texts, length=fits)
    with pytest.raises(MemoryError):
        measure_decay(model, None, texts, length=fits + 1)
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(MemoryError, match=r"no length would fit$"):
        measure_decay(model, None, texts, length=64)


def test_on_a_cpu_the_softmax_needs_no_more_than_a_cache_holds(monkeypatch):
    model, texts = toy("llama-grouped"), passages(length=512)
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * 10**7)  # a GPU's chunk takes 671 MB
    assert measure_decay(model, None, texts, length=512, softmax=True).mass is not None


@pytest.mark.parametrize(("of_device", "of_host"), [(10**7, 10**10), (10**12, 10**6)])
def test_on_a_gpu_its_own_memory_and_that_of_the_host_must_do(monkeypatch, of_device, of_host):
    model = toy("llama-grouped")
    identity = ModelConfig.of(model.config.to_dict()).identity()
    options = {"n_layers": 3, "n_passages": 2, "softmax": False, "verify": False}
    demand = replace(memory.Demand.of_decoder(model.model, identity, **options), device_type="cuda")
    for name, value in {"mem_get_info": (of_device, None), "memory_reserved": 0, "memory_allocated": 0}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(memory, "available_memory", lambda: of_host)
    with pytest.raises(MemoryError, match=r"10? MB is free: a length of (\d+) would fit$") as error:
        memory.require_memory(demand, 10**5, torch.device("cuda"))
    fits = int(str(error.value).split()[-3])
    memory.require_memory(demand, fits, torch.device("cuda"))
    assert max(demand.bytes_to_run(fits) / of_device, demand.bytes_of_sums(fits) / of_host) > 0.99


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux tells it")
def test_the_memory_demanded_is_what_a_run_takes_at_its_peak():
    script = Path(__file__).with_name("peaks.py")
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    found = subprocess.run([sys.executable, "-P", script], env=environment, capture_output=True, text=True, check=True)
    results = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(results) == 8
    for result in results:
        assert result["peak"] > 5 * 10**7, result  # well above what else varies
        assert result["peak"] < result["demanded"] < 2.5 * result["peak"], result


@pytest.mark.parametrize(
    "error",
    [RuntimeError("DefaultCPUAllocator: can't allocate memory: 3 bytes"), torch.cuda.OutOfMemoryError("CUDA …")],
)
def test_memory_that_runs_out_on_the_way(monkeypatch, error):
    def run(*_):
        raise error

    monkeypatch.setattr(measure, "capture_layers", run)
    with pytest.raises(MemoryError, match="out of memory at a length of 96; 48 takes half as much"):
        measure_decay(toy("llama-grouped"), None, passages(), length=LENGTH)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", TOYS)
def test_a_gpu_measures_the_same(name):
    model, texts = toy(name), passages()
    options = {"length": LENGTH, "base_set": sets(name)[1], "verify": True, "softmax": True}
    here, there = (measure_decay(model.to(device), None, texts, **options) for device in ("cpu", "cuda"))
    for key in ("score", "standard_error", "parts", "curve", "verified", "mass", "sink_mass"):
        np.testing.assert_allclose(getattr(here, key), getattr(there, key), rtol=0, atol=1e-4, err_msg=key)


@pytest.fixture
def run(run):
    """The same without the bars of transformers, which a command turns off before transformers is imported."""
    logging.disable_progress_bar()
    yield run
    logging.enable_progress_bar()


@pytest.fixture
def folder(tmp_path):
    save_with_tokenizer(toy("llama-grouped"), tmp_path / "toy")
    (tmp_path / "words.txt").write_text(" ".join(f"w{i % 97}" for i in range(150)))
    base_set(BASES[2]).save(tmp_path / "bases.json")
    base_set(BASES[4]).save(tmp_path / "four.json")
    return tmp_path / "toy"


def test_the_command_writes_and_prints(run, folder):
    options = ["--length", "96", "--bases", "bases.json", "--verify", "--softmax", "--layers", "0,2"]
    code, out, err = run("measure", "toy", *options, "-o", "decay.json")
    (arrays,) = folder.parent.glob("decay.*.npz")
    assert (code, err) == (0, f"wrote decay.json and {arrays.name}\n")
    assert "toy: 96 tokens of 2 texts, distances to 48" in out
    assert "with the bases 20000, 5000000" in out
    decay = Decay.load("decay.json")
    again = measure_decay(
        *load_model("toy"), length=96, base_set=base_set(BASES[2]), verify=True, softmax=True, layers=[0, 2]
    )
    assert np.array_equal(decay.verified, again.verified)
    code, out, err = run("measure", "toy", *options, "--json", "--quiet")
    assert (code, err) == (0, "")
    written = (folder.parent / "decay.json").read_text()
    cut = '  "arrays"'
    assert out.partition(cut)[0] == written.partition(cut)[0]


def test_the_command_reads_texts_and_warns_of_lengths_beyond_the_model(run, folder):
    code, out, err = run("measure", "toy", "--text", "words.txt", "--length", 128, "--dtype", "bfloat16", "--json")
    assert code == 0
    assert '"dtype": "bfloat16"' in out
    assert '"name": "words.txt", "tokens": 150' in out
    assert err == "note: of one short text, the two halves of the queries are compared\n"
    code, out, err = run("measure", "toy", "--length", 3000)
    assert code == 0
    assert err == "warning: length 3000 is beyond the 2048 positions that toy is made for\n"


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (
            2,
            ["toy", "--text", "words.txt", "--length", "200"],
            "the text words.txt has 150 tokens, fewer than the length",
        ),
        (2, ["toy", "--text", "nowhere.txt"], "nowhere.txt cannot be read: No such file"),
        (2, ["toy", "--text", "latin.txt"], "latin.txt is not a text in UTF-8: "),
        (2, ["toy", "--layers", "1-3"], "layer 3 does not exist: toy has 3 layers, 0 to 2"),
        (2, ["toy", "--layers", "2-1"], "--layers must be a list such as 0,5,10-12, not '2-1'"),
        (2, ["toy", "--bases", "four.json"], "it must have one per KV head"),
        (2, ["toy", "--verify"], "--verify needs --bases"),
        (2, ["toy", "--length", "9"], "--length must be an integer of at least 64, not 9"),
        (2, ["toy", "--dtype", "int8"], "--dtype must be one of float32, bfloat16, float16, not 'int8'"),
        (2, ["toy", "--device", "tpu"], "--device must be cpu, cuda or cuda:N, not 'tpu'"),
        (2, ["toy", "-o", "decay.npz"], "--output must be a .json file, not 'decay.npz'"),
        (2, ["nowhere"], "nowhere does not exist"),
        (1, ["toy", "--device", "cuda:99"], "device cuda:99: "),
        (1, ["org/Model-1.5B"], "could not be fetched from the hub"),
        (1, ["toy", "-o", "there.json"], "there.json already exists"),
        (1, ["toy", "-o", "nowhere/decay.json"], "the folder nowhere for decay.json does not exist"),
    ],
)
def test_the_command_refuses_in_one_line(run, folder, code, arguments, message):
    parent = folder.parent
    (parent / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (parent / "there.json").touch()
    before = sorted(parent.rglob("*"))
    found, out, err = run("measure", *arguments, *([] if "-o" in arguments else ["-o", "decay.json"]))
    assert (found, out) == (code, "")
    assert message in err.splitlines()[-1]
    assert sum(line.startswith("Error") for line in err.splitlines()) == 1
    assert sorted(parent.rglob("*")) == before


@pytest.mark.parametrize("rule", SCALED)
def test_scaled_models_are_measured_and_predicted_with_their_factor_on_attention(rule, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, own = scaled_toy(rule), sets("llama-grouped")[0]
    options = {"length": LENGTH, "layers": [0]}  # whose queries and keys before rotation no rule changes
    plain = measure_decay(toy("llama-grouped"), None, passages(), **options)
    dropped = measure_decay(model, None, passages(), base_set=own, scaling="replace", verify=True, **options)
    kept = measure_decay(model, None, passages(), base_set=own, scaling="keep", verify=True, **options)
    np.testing.assert_allclose(dropped.prediction, plain.curve, atol=1e-5)
    np.testing.assert_allclose(dropped.verified, plain.score, atol=1e-5)
    np.testing.assert_allclose(kept.prediction, kept.curve, atol=1e-5)
    np.testing.assert_array_equal(kept.verified, kept.score)
    np.testing.assert_array_equal(kept.score, dropped.score)
    assert np.abs(kept.curve - plain.curve).max() > 0.01
    kept.save("decay.json")
    np.testing.assert_array_equal(Decay.load("decay.json").prediction, kept.prediction)
    with pytest.raises(ParameterError, match=r"scaling must be 'replace', to drop the rule '\w+' of the model"):
        kept.predict(own)
    with pytest.raises(InputError, match=r"by the rule '\w+', which .*`scaling=keep`"):
        measure_decay(model, None, passages(), base_set=own, **options)


def test_bases_with_a_rule_are_measured_with_its_factor():
    model, ids = scaled_toy("yarn with a factor on attention"), passages()
    expected = measure_decay(model, None, ids, length=LENGTH)
    apply_bases(model, sets("llama-grouped")[0], scaling="keep")
    found = measure_decay(model, None, ids, length=LENGTH)
    np.testing.assert_array_equal(found.score, expected.score)
    np.testing.assert_allclose(found.curve, expected.curve, atol=1e-6)
    assert found.model["attention_factor"] == 1.25


@pytest.mark.parametrize("buffers", [False, True])
@pytest.mark.parametrize("carrying", [False, True])
def test_weights_that_are_kept_elsewhere_until_they_are_needed(buffers, carrying):
    from accelerate import cpu_offload

    model, wanted = toy("llama-grouped"), sets("llama-grouped")[1]
    if carrying:
        apply_bases(model, wanted)
    options = {"length": LENGTH} | ({} if carrying else {"base_set": wanted, "verify": True})
    expected = measure_decay(model, None, passages(), **options)
    cpu_offload(model, "cpu", offload_buffers=buffers)
    assert model.model.embed_tokens.weight.is_meta
    found = measure_decay(model, None, passages(), **options)
    np.testing.assert_array_equal(found.score, expected.score)
    np.testing.assert_array_equal(found.inv_freq, expected.inv_freq)
    np.testing.assert_array_equal(found.verified, expected.verified)
    assert (found.model["dtype"], found.made_by["device"]) == ("float32", "cpu")


def test_memory_is_a_matter_of_the_machine(run, folder, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 10**6)
    code, out, err = run("measure", "toy", "--length", 1000, "-o", "decay.json")
    assert (code, out) == (1, "")
    assert err.startswith("Error: a length of 1000 needs ")
    assert not (folder.parent / "decay.json").exists()
