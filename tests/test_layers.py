"""Bases for each layer and KV head: in a model, on disk, measured, as tables, and on the command line."""

import gc
import json
import runpy
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_models import add_hooks, generated, gradients, logits, remove_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from toys import (
    BASE,
    BASES,
    REFUSED_BY_STOCK,
    SCALED,
    base_set,
    naive_logits,
    reader_toy,
    scaled_toy,
    sets,
    sets_by_layer,
    tokens,
    toy,
    toy_config,
    word_tokenizer,
)
from transformers import AutoConfig, AutoModelForCausalLM, StaticCache

from ropesearch import (
    BaseSet,
    Decay,
    apply_bases,
    apply_scheme,
    evaluate,
    find_bases,
    measure_decay,
    order_by_decay,
    parse_scheme,
    shipped_texts,
    waveform,
)
from ropesearch.core.errors import InputError
from ropesearch.core.model_config import ModelConfig
from ropesearch.core.rope import inv_freq
from ropesearch.model import modeling_harpe

# One for each way in which families differ: part of a head rotates or some layers do not, neighbours rotate, one
# projection for all, norms, a rope for each type of layer, tables in float32.
SOME = ["llama-grouped", "llama-one-kv-head", "gemma3_text", "olmo3", "glm4", "phi3 in part", "smollm3"]
OTHERS = ["olmo2", "stablelm", "phi"]
"""With norms and projections of other kinds."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", SOME + OTHERS)
def test_layers_with_the_same_bases_are_the_model_with_one_set_to_the_last_bit(name):
    model, ids = toy(name), tokens(2, 150)
    same, different = sets_by_layer(name)
    far = torch.arange(130000, 130150)[None]
    with apply_bases(model, sets(name)[1]):
        expected = logits(model, ids), logits(model, ids, position_ids=far)
    with apply_bases(model, same):
        assert torch.equal(logits(model, ids), expected[0])
        assert torch.equal(logits(model, ids, position_ids=far), expected[1])
    with apply_bases(model, different):
        assert (logits(model, ids) - expected[0]).abs().max() > 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_so_they_are_in_every_dtype_and_the_tables_do_not_depend_on_it(dtype):
    for name in ("llama-grouped", "olmo2"):
        model, ids = toy(name).to(dtype), tokens(2, 40)
        with apply_bases(model, sets(name)[1]):
            expected = logits(model, ids)
        with apply_bases(model, sets_by_layer(name)[0]):
            assert torch.equal(logits(model, ids), expected)


@pytest.mark.parametrize("name", SOME + OTHERS)
def test_layers_that_differ_are_what_the_naive_twin_computes(name):
    model, ids = toy(name), tokens(2, 60)
    _, different = sets_by_layer(name)
    with torch.no_grad():
        expected = naive_logits(model, different.bases, ids)
    with apply_bases(model, different):
        torch.testing.assert_close(logits(model, ids), expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*in v6. Use .*activation_checkpointing:FutureWarning")  # a new name
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", SOME)
def test_gradients_are_those_of_the_naive_twin(name, checkpointing):
    model, ids = toy(name), tokens(2, 40)
    _, different = sets_by_layer(name)
    expected = gradients(model, naive_logits(model, different.bases, ids).square().mean())
    if checkpointing:
        model.gradient_checkpointing_enable()
    with apply_bases(model.train(), different):
        found = gradients(model, model(ids, use_cache=False).logits.square().mean())
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max() + 1))


@pytest.mark.parametrize("name", SOME)
def test_caches_chunks_and_padding_change_nothing(name):
    model, ids, longer = toy(name), tokens(1, 30), tokens(1, 37, seed=3)
    with apply_bases(model, sets_by_layer(name)[1]):
        whole = logits(model, ids)
        alone = generated(model, ids, attention_mask=torch.ones_like(ids), use_cache=False)
        mask = torch.ones(2, 37, dtype=torch.long)
        mask[0, :7] = 0
        padded = torch.cat((torch.zeros(1, 7, dtype=torch.long), ids), 1)
        batch = generated(model, torch.cat((padded, longer)), attention_mask=mask)
        chunks = []
        for cache in (None, StaticCache(config=model.config, max_cache_len=64)):
            for part in (slice(0, 12), slice(12, 13), slice(13, 30)):
                with torch.no_grad():
                    out = model(ids[:, part], past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                chunks.append(out.logits)
    assert torch.equal(batch.sequences[0, -12:], alone.sequences[0, -12:])
    together = torch.stack(batch.logits)[:, 0]
    torch.testing.assert_close(together, torch.stack(alone.logits)[:, 0], rtol=0, atol=1e-4)
    for of_cache in (chunks[:3], chunks[3:]):
        torch.testing.assert_close(torch.cat(of_cache, 1), whole, rtol=0, atol=1e-4)


def test_compiled_it_is_the_same():
    model, ids = toy("llama-grouped"), tokens(2, 40)
    with apply_bases(model, sets_by_layer("llama-grouped")[1]):
        expected = logits(model, ids)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(logits(compiled, ids), expected, rtol=0, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize("between", [add_hooks, lambda model: (add_hooks(model), remove_hooks(model))])
def test_hooks_come_and_go_and_remove_gives_the_model_back(between):
    model, ids = toy("llama-grouped"), tokens(1, 30)
    stock, names = logits(model, ids), set(model.state_dict())
    applied = apply_bases(model, sets_by_layer("llama-grouped")[1])
    expected = logits(model, ids)
    assert set(model.state_dict()) == names
    between(model)
    assert torch.equal(logits(model, ids), expected)
    applied.remove()
    assert torch.equal(logits(model, ids), stock)


@pytest.mark.parametrize("name", ["llama-grouped", "gemma3_text", "phi3", "glm4"])
def test_saved_and_loaded_it_is_the_same_model(name, tmp_path):
    model, ids = toy(name), tokens(1, 40)
    _, different = sets_by_layer(name)
    with apply_bases(model, different):
        expected = logits(model, ids)
        model.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", attn_implementation=model.config._attn_implementation
    )
    assert ModelConfig.of(loaded.config.to_dict()).bases == different.bases
    assert torch.equal(logits(loaded, ids), expected)
    with pytest.raises(REFUSED_BY_STOCK, match="harpe"):
        type(model).from_pretrained(tmp_path / "saved")
    loaded.save_pretrained(tmp_path / "again")
    assert ModelConfig.read(tmp_path / "again").bases == different.bases


@pytest.mark.parametrize("rule", SCALED)
def test_a_rule_is_kept_in_every_layer(rule, tmp_path):
    model, ids = scaled_toy(rule), tokens(2, 60)
    stock = logits(model, ids)
    with apply_bases(model, base_set([[BASE] * 2] * 3), scaling="keep"):
        assert torch.equal(logits(model, ids), stock)
    with apply_bases(model, sets_by_layer("llama-grouped")[1], scaling="keep"):
        expected = logits(model, ids)
        model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path), ids), expected)


def test_tables_of_one_layer_are_alive_at_a_time(monkeypatch):
    model, ids, alive = toy("llama-grouped"), tokens(1, 30), []
    make = modeling_harpe.PerHeadRope.tables

    def tables(*arguments, **options):
        gc.collect()
        assert all(table() is None for table in alive)
        made = make(*arguments, **options)
        alive.extend(weakref.ref(table) for table in made)
        return made

    monkeypatch.setattr(modeling_harpe.PerHeadRope, "tables", tables)
    with apply_bases(model, sets_by_layer("llama-grouped")[1]):
        logits(model, ids)
    assert len(alive) == 3 * 2


class Peak(TorchDispatchMode):
    """The most bytes that tensors made here took at one time."""

    def __init__(self):
        super().__init__()
        self.bytes = self.highest = 0
        self.seen = {}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                place = tensor.untyped_storage()
                self.take(place.data_ptr(), place.nbytes())
                weakref.finalize(tensor, self.leave, place.data_ptr())
        return out

    def take(self, place, size):
        self.seen[place] = [self.seen[place][0] + 1 if place in self.seen else 1, size]
        self.bytes = sum(size for _, size in self.seen.values())
        self.highest = max(self.highest, self.bytes)

    def leave(self, place):
        self.seen[place][0] -= 1
        if not self.seen[place][0]:
            del self.seen[place]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("by_layer", [False, True])
def test_tables_take_at_most_twice_their_size_while_they_are_made(dtype, by_layer):
    n, bases = 4096, [1e6 + 1e5 * head for head in range(32)]
    config = modeling_harpe.HarpeLlamaConfig(
        hidden_size=4096,
        num_attention_heads=32,
        num_hidden_layers=2,
        rope_parameters={"rope_type": "harpe", "rope_theta": BASE, "bases": [bases] * 2 if by_layer else bases},
    )
    rope, x, positions = modeling_harpe.PerHeadRope(config), torch.zeros(1, dtype=dtype), torch.arange(n)[None]
    with Peak() as peak:
        cos, sin = rope(x, positions).of(1, x.device) if by_layer else rope(x, positions)
    final = 2 * n * 32 * 64 * dtype.itemsize
    assert final <= peak.highest < 2 * final
    angles = positions[0, ::97, None, None].float() * rope._inv_freq[1 if by_layer else ...]
    assert torch.equal(cos[0, ::97], angles.cos().to(dtype))
    assert torch.equal(sin[0, ::97], angles.sin().to(dtype))


def test_sets_that_do_not_fit_are_refused():
    model = toy("llama-grouped")
    with pytest.raises(InputError, match="bases for 2 layers, and LlamaForCausalLM has 3"):
        apply_bases(model, base_set([BASES[2]] * 2))
    with pytest.raises(InputError, match="1 KV heads and head_dim 16, but LlamaForCausalLM has 4 heads, 2 KV heads"):
        apply_bases(model, base_set([BASES[1]] * 3))
    for bases, message in [
        ([[1e6, 1e6]] * 2, "must hold 'bases' of 3 layers, not of 2"),
        ([[1e6, 1e6]] * 2 + [[1e6]], r"one per KV head: 2, not \[1000000.0\]"),
        ([[1e6, 1e6]] * 2 + [1e6], "one per KV head: 2, not 1000000.0"),
        ([[1e6, 1e6]] * 2 + [[1e6, 1]], "finite number above 1, not 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            modeling_harpe.with_bases(toy_config("llama-grouped"), bases)


def test_a_checkpoint_is_written_shown_and_measured(run):
    model, ids = toy("qwen3-grouped"), tokens(1, 40)
    model.save_pretrained("stock")
    _, different = sets_by_layer("qwen3-grouped")
    different.save("bases.json")
    assert run("apply", "stock", "--bases", "bases.json", "-o", "out") == (0, "", "wrote out\n")
    with apply_bases(model, different):
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained("out"), ids), logits(model, ids))
    err = run("apply", "stock", "--scheme", "harpe:bases.json", "-o", "by-scheme")[2]
    assert ": rope_type harpe, 2 bases in each of 3 layers; max_position_embeddings 32768" in err
    assert AutoConfig.from_pretrained("by-scheme").rope_parameters == AutoConfig.from_pretrained("out").rope_parameters
    assert run("bases", "out", "-o", "again.json")[0] == 0
    assert BaseSet.load("again.json").bases == different.bases


def test_one_layer_of_a_file_goes_where_a_set_does(run):
    _, different = sets_by_layer("llama-grouped")
    different.save("bases.json")
    assert BaseSet.load("bases.json#1") == different.layer(1) == find_bases("bases.json#1")
    assert parse_scheme("harpe:bases.json#1").bases == different.bases[1]
    for command in (["show", "--coverage"], ["compare"], ["export"], ["plot", "coverage", "-o", "a.png"]):
        assert run(*command, "bases.json#1", *(["--max-distance", "2000"] if "export" not in command else []))[0] == 0
    figures = (["plot", figure, "-o", "b.png"] for figure in ("coverage", "overlay", "alignment"))
    for command in (["show", "--coverage"], ["compare"], ["waveform"], *figures):
        code, out, err = run(*command, "bases.json")
        assert (code, out) == (2, "")
        assert "bases for each of 3 layers: choose a layer, as in bases.json#0" in " ".join(err.split())
    assert run("compare", "harpe:bases.json")[0] == 2
    assert "choose one, as in harpe:FILE#0" in run("compare", "harpe:bases.json")[2]
    assert "bases.json#3: layer 3 does not exist: the set has 3 layers, 0 to 2" in run("show", "bases.json#3")[2]
    different.layer(0).save("one.json")
    assert "one.json#0: all layers of the set have the same bases" in run("show", "one.json#0")[2]
    assert "bases.json#-1: layer -1 does not exist: layers are counted from 0" in run("show", "bases.json#-1")[2]
    assert run("plot", "bases", "bases.json", "-o", "c.png")[0] == 0
    assert "choose a layer, as in bases.json#0" in run("plot", "bases", "one.json", "bases.json", "-o", "d.png")[2]


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("name", ["llama-grouped", "smollm3", "gemma3_text", "glm4"])
def test_measured_it_is_what_one_measures_layer_by_layer(name, softmax, tmp_path):
    """A model with bases of layers, and what is predicted of it; saved, both are read again."""
    model, texts, length = toy(name), {f"text {seed}": tokens(96, seed=seed) for seed in range(2)}, 96
    _, different = sets_by_layer(name)
    options = {"length": length, "softmax": softmax}
    stock = measure_decay(model, None, texts, base_set=different, verify=True, **options)
    with apply_bases(model, different):
        decay = measure_decay(model, None, texts, **options)
        one = measure_decay(model, None, texts, layers=[2], **options)
    assert np.array_equal(decay.score, stock.verified)
    assert decay.model["bases"] == [list(row) for row in different]
    rows = [different.bases[layer] for layer in decay.layers]
    theta = inv_freq(rows, different.head_dim)
    np.testing.assert_allclose(decay.inv_freq[..., : theta.shape[-1]], theta, rtol=1e-6)
    assert not decay.inv_freq[..., theta.shape[-1] :].any()
    np.testing.assert_allclose(decay.curve, decay.predict(different), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(decay.predict(different.bases), decay.predict(different))
    for row, layer in enumerate(decay.layers):
        alone = decay.predict(different.layer(layer))
        np.testing.assert_array_equal(decay.predict(different)[row], alone[row])
    for of_one, of_all in ((one.score, decay.score), (one.curve, decay.curve)):
        np.testing.assert_array_equal(of_one[0], of_all[-1])
    for key, values in one.figures.items():
        np.testing.assert_array_equal(values[0], decay.figures[key][-1], err_msg=key)
    for name_of_file, saved in (("a.json", stock), ("b.json", decay), ("c.json", one)):
        saved.save(tmp_path / name_of_file)
        assert json.loads((tmp_path / name_of_file).read_text())["version"] == 2
        again = Decay.load(tmp_path / name_of_file)
        assert again.bases == saved.bases
        for key in ("inv_freq", "score", "curve", "prediction"):
            np.testing.assert_array_equal(getattr(again, key), getattr(saved, key))
    with pytest.raises(InputError, match=r"the bases are for 2 layers; the decay was measured on \w+ForCausalLM"):
        stock.predict([(1e6, 2e6)] * 2)


def test_figures_show_each_layer_by_its_own_bases():
    from ropesearch.plots.bases import plot_bases
    from ropesearch.plots.decay import plot_head, plot_heads

    _, different = sets_by_layer("llama-grouped")
    _, other = sets("llama-grouped")
    cells, bar = plot_bases({"layers": different}).axes
    np.testing.assert_array_equal(cells.images[0].get_array(), different.bases)
    assert (cells.get_xlabel(), cells.get_ylabel(), bar.get_ylabel()) == ("KV head", "layer", "base")
    with pytest.raises(
        InputError, match=r"several sets is of one layer's bases, .* 3 layers: choose a layer, as in FILE#0"
    ):
        plot_bases({"one": other, "layers": different})
    decay = measured(base_set=different)
    texts = [text.get_text() for text in plot_head(decay, 1, 2).legends[0].get_texts()]
    assert any(text.startswith(f"predicted with base {different.bases[1][1]:,.12g}") for text in texts)
    low, high = (f"{end(different.bases):,.12g}" for end in (np.min, np.max))
    texts = [text.get_text() for text in plot_heads(decay, other).legends[0].get_texts()]
    assert not any(low in text for text in texts)
    texts = [text.get_text() for text in plot_heads(decay).legends[0].get_texts()]
    assert any(text == f"predicted with bases {low} to {high}" for text in texts)
    model = toy("llama-grouped")
    with apply_bases(model, different):
        own = measure_decay(model, None, {"a": tokens(200)}, length=96, layers=[1])
    units = own.unit_waveforms()
    assert units.shape == (1, 2, 49)
    np.testing.assert_allclose(units[0, 1], waveform(different.bases[1][1], 16, 48), atol=1e-4)
    plot_head(own, 1, 2)


def measured(name="llama-grouped", **options):
    return measure_decay(toy(name), None, {"a": tokens(200), "b": tokens(200, seed=1)}, length=96, **options)


def test_by_layer_the_smallest_base_goes_to_the_steepest_head_of_each():
    decay, given = measured("llama-multi-head", layers=[0, 2]), base_set(BASES[4])
    found = order_by_decay(given, decay, by_layer=True)
    slopes = decay.figures["slope"]  # a KV head for each head
    expected = {0: slopes[0], 1: slopes.mean(0), 2: slopes[1]}
    for layer, of_layer in expected.items():
        by_slope = sorted(range(4), key=lambda head, own=of_layer: own[head])
        assert [found.bases[layer][head] for head in by_slope] == sorted(BASES[4])
        assert found.selection[layer] == given.selection
    of_means = order_by_decay(given, decay)
    assert found.bases[1] == of_means.bases
    assert decay.differing_layers() == tuple(layer for layer in (0, 2) if found.bases[layer] != of_means.bases)
    assert decay.differing_layers()
    assert json.loads(decay.to_json())["differing_layers"] == list(decay.differing_layers())
    assert found.parameters["order_by"]["slopes_by_layer"] == slopes.tolist()
    assert BaseSet.from_json(found.to_json()) == found
    with pytest.raises(InputError, match="the order is of one layer's bases"):
        order_by_decay(found, decay)


def test_the_commands_order_by_layer(run):
    toy("llama-multi-head").save_pretrained("stock")
    decay, given = measured("llama-multi-head"), base_set(BASES[4])
    decay.save("decay.json")
    given.save("given.json")
    code, _, err = run("apply", "stock", "--bases", "given.json", "--order-by", "decay.json", "--by-layer", "-o", "out")
    assert code == 0
    n = len(decay.differing_layers())
    assert f"note: {n} of 3 layers measured get the bases in another order than that of the mean slopes\n" in err
    expected = order_by_decay(given, decay, by_layer=True)
    assert ModelConfig.read("out").bases == expected.bases
    grid = ["--bmin", "10000", "--bmax", "30000", "--stride", "1000", "--max-distance", "2000"]
    search = ["search", *grid, "--model-config", "stock", "--order-by", "decay.json", "--by-layer"]
    code, out, err = run(*search, "--json", "--plot", "a.png")
    found = BaseSet.from_json(out)
    assert (code, found.layers) == (0, 3)
    assert found.made_by["command"].endswith(" --order-by decay.json --by-layer")
    for wrong, message in [
        ([*search, "--coverage"], "--coverage is of one layer"),
        (["search", *grid, "--heads", "4", "--by-layer"], "--by-layer needs --order-by"),
        (["apply", "stock", "--bases", "given.json", "--by-layer", "-o", "x"], "--by-layer needs --order-by"),
    ]:
        code, out, err = run(*wrong)
        assert (code, out) == (2, "")
        assert message in err


def test_schemes_of_files_with_layers(tmp_path):
    _, different = sets_by_layer("llama-grouped")
    different.save(tmp_path / "bases.json")
    scheme = parse_scheme(f"harpe:{tmp_path}/bases.json")
    np.testing.assert_array_equal(scheme.inv_freq(), different.inv_freq().reshape(6, 8))
    model, ids = toy("llama-grouped"), tokens(1, 30)
    with apply_bases(model, different):
        expected = logits(model, ids)
    with apply_scheme(model, scheme.name) as applied:
        assert torch.equal(logits(model, ids), expected)
        assert applied.change.base_set.bases == different.bases
    config = ModelConfig.of(replace(toy_config("llama-grouped"), num_hidden_layers=5).to_dict(), "this")
    with pytest.raises(InputError, match="is for 3 layers, and this has 5"):
        parse_scheme(scheme.name, model=config)
    with pytest.raises(InputError, match=r"bases for each of 3 layers, and a waveform is of one layer's"):
        scheme.coverage(2000)


def test_an_evaluation_under_such_a_scheme_is_one_of_the_model_with_the_bases(tmp_path):
    tokenizer = word_tokenizer(*shipped_texts().values())
    model, path = reader_toy(tokenizer), tmp_path / "docs.jsonl"
    bases = BaseSet.of([[20.0, 5e3], [7e3, 40.0]], heads=4, head_dim=8)
    bases.save(tmp_path / "bases.json")
    path.write_text(json.dumps({"text": " ".join(shipped_texts()["essay"].split()[:300])}) + "\n")
    options = {"lengths": [64], "stride": 32, "data": [path], "limit": 2}
    own, under = evaluate(
        model, tokenizer, "perplexity", schemes=["own", f"harpe:{tmp_path}/bases.json"], **options
    ).rows
    with apply_bases(model, bases):
        (applied,) = evaluate(model, tokenizer, "perplexity", **options).rows
    assert under["perplexity"] == applied["perplexity"] != own["perplexity"]


def test_the_benchmark_of_overhead_takes_part_of_a_head(tmp_path, monkeypatch, capsys):
    toy("phi3 in part").save_pretrained(tmp_path)
    script = Path(__file__).parents[1] / "benchmarks" / "rope_overhead.py"
    options = ["--runs", "1", "--tokens", "20", "--decode", "2", "--dtype", "float32", "--by-layer"]
    monkeypatch.setattr("sys.argv", [str(script), str(tmp_path), *options])
    runpy.run_path(str(script), run_name="__main__")
    assert "4 KV heads, torch.float32; 1 pairs" in capsys.readouterr().out
