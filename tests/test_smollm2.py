"""The same on real weights: SmolLM2-135M, 9 query heads, 3 KV heads, head_dim 64, base 100 000."""

import copy
import math

import naive
import numpy as np
import pytest
import torch
from smollm2 import BASE, HEAD_DIM, HEADS, KV_HEADS, LAYERS
from toys import base_set, naive_logits, naive_rotation
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ropesearch import apply_bases, apply_to_checkpoint, inv_freq, load_model, measure_decay
from ropesearch.model import modeling_harpe

pytestmark = pytest.mark.usefixtures("one_thread")

HARPE = (1e6, 3e6, 5e6)
CLOSE = (1.1e5,) * 3
TEXT = """\
The harbour lies where the river gives up its valley to the sea. In winter the wind comes down from the hills with the
smell of snow, and the boats stay in, tied two and three deep along the old stone wall. The men who own them mend nets
in the long shed behind the ice house, where a stove burns driftwood from October until the swallows return. Nobody is
in a hurry. A net that is mended badly in January will lose a season's catch in May, and everybody in the shed has seen
it happen to somebody.

My grandfather kept a notebook of the weather. Each morning before breakfast he walked to the end of the wall, looked
at the water and the sky, and wrote one line: the wind, the colour of the clouds over the island, whether the gulls sat
on the water or on the roofs. He did this for forty-one years. When he died we found the notebooks in a sea chest under
his bed, wrapped in oilcloth, and my mother, who teaches mathematics at the school in the town, spent a summer typing
them into a table. She wanted to know whether the gulls were any good at forecasting. They were not, as it turned out,
but the colour of the clouds was, a little, and the wind on one day told more about the wind on the next than anybody
in the shed would have believed.

What surprised her was something else. The handwriting changed with the seasons. In the months when the boats were out,
the lines were short and slanted, written quickly; in the winter they grew long, and small drawings appeared at the
edge of the page: a net, a knot, the head of a dog. In the last notebook there is no weather at all on some mornings,
only the drawings. The wall is there, and the island behind it, and the boats tied up along the stone, two and three
deep, waiting for the wind to turn.
"""


@pytest.fixture(scope="module")
def loaded(smollm2):
    return load_model(smollm2)


@pytest.fixture(scope="module")
def ids(loaded):
    return loaded[1](TEXT, return_tensors="pt").input_ids


def logits(model, ids, **options):
    with torch.no_grad():
        return model(ids, **options).logits


def smol_set(bases):
    return base_set(bases, heads=HEADS, head_dim=HEAD_DIM)


def perplexity(model, ids):
    return math.exp(model(ids, labels=ids).loss.item())


def test_with_the_models_own_base_nothing_changes_at_all(loaded, ids):
    model, _ = loaded
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        stock = logits(model, ids[:, :100])
        with apply_bases(model, smol_set([BASE] * KV_HEADS)):
            assert torch.equal(logits(model, ids[:, :100]), stock)
        assert torch.equal(logits(model, ids[:, :100]), stock)


def test_with_other_bases_it_is_what_the_naive_twin_computes_and_only_distances_count(loaded, ids):
    model, _ = loaded
    some = ids[:, :30]
    near = torch.arange(30)[None]
    stock_change = (logits(model, some, position_ids=near + 1000) - logits(model, some)).abs().max()
    with torch.no_grad():
        expected = naive_logits(model, HARPE, some)
    with apply_bases(model, smol_set(HARPE)):
        ours = logits(model, some)
        change = (logits(model, some, position_ids=near + 1000) - ours).abs().max()
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-3)  # of logits up to 30 that went through 30 layers
    assert change < 2 * stock_change
    assert change < 2e-4


def test_in_float64_a_shift_changes_nothing_so_that_what_float32_shows_is_rounding(loaded, ids, monkeypatch):
    bases = (2e5, 3e5, 5e5)  # float32 changes by twice as much as with those of above
    theta = torch.from_numpy(inv_freq(bases, HEAD_DIM))

    def tables(self, x, position_ids):
        angles = position_ids[..., None, None].double() * theta
        return angles.cos(), angles.sin()

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    # Both of them, and the softmax of eager, are float32 in a model of any dtype.
    monkeypatch.setattr(modeling_harpe.PerHeadRope, "forward", tables)
    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
    model, some, near = copy.deepcopy(loaded[0]).double(), ids[:, :60], torch.arange(60)[None]
    model.set_attn_implementation("sdpa")
    with apply_bases(model, smol_set(bases)):
        ours = logits(model, some)
        assert (logits(model, some, position_ids=near + 1000) - ours).abs().max() < 1e-9
    assert (logits(loaded[0], some).double() - ours).abs().max() > 0.1  # the bases were in it


@pytest.mark.slow
def test_it_generates_with_and_without_a_cache_and_in_padded_batches(loaded):
    model, tokenizer = loaded
    tokenizer.padding_side = "left"
    prompts = ["The capital of France is", "Once upon a time, in a village by the sea, there lived"]
    options = {"max_new_tokens": 12, "do_sample": False}
    with apply_bases(model, smol_set(HARPE)):
        batch = model.generate(**tokenizer(prompts, return_tensors="pt", padding=True), **options)
        for row, prompt in enumerate(prompts):
            one = tokenizer(prompt, return_tensors="pt")
            alone = model.generate(**one, use_cache=False, **options)
            assert torch.equal(batch[row, -12:], alone[0, -12:])
            assert len(set(tokenizer.decode(alone[0, -12:]).split())) > 3  # words, and not one word again and again


def unrotated(model, ids):
    """Queries and keys of every layer before they turn: (H, S, D) and (K, S, D)."""
    kept = []
    hooks = [
        projection.register_forward_hook(lambda module, args, out: kept.append(out[0].unflatten(-1, (-1, HEAD_DIM))))
        for layer in model.model.layers
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    ]
    logits(model, ids)
    for hook in hooks:
        hook.remove()
    return [(q.transpose(0, 1), k.transpose(0, 1)) for q, k in zip(kept[::2], kept[1::2], strict=True)]


def model_curves(queries_and_keys, bases, distances):
    """Re Σ_f c_f e^{i m θ_f} / √d with c_f = mean(q_f) · conj(mean(k_f)), by layer and head: (layers, H, m)."""
    theta = torch.from_numpy(inv_freq(bases, HEAD_DIM)).repeat_interleave(HEADS // KV_HEADS, 0)  # (H, D/2)
    turns = torch.exp(1j * distances[:, None, None] * theta).to(torch.complex64)  # (distances, H, D/2)
    curves = []
    for q, k in queries_and_keys:
        means = [torch.complex(*x[:, 4:].mean(1).split(HEAD_DIM // 2, -1)) for x in (q, k)]
        c = means[0] * means[1].conj().repeat_interleave(HEADS // KV_HEADS, 0)
        curves.append((turns * c).sum(-1).real.T / HEAD_DIM**0.5)
    return torch.stack(curves)


@pytest.mark.slow
def test_perplexity_moves_as_the_model_curve_leads_one_to_expect(loaded, ids):
    model, _ = loaded
    distances = torch.arange(1, ids.shape[1] // 2)
    before = unrotated(model, ids)
    own = model_curves(before, [BASE] * KV_HEADS, distances)
    with torch.no_grad():
        stock = perplexity(model, ids)
        change, ratio = {}, {}
        for bases in ((BASE,) * KV_HEADS, CLOSE, HARPE):
            change[bases] = (model_curves(before, bases, distances) - own).square().mean().sqrt().item()
            with apply_bases(model, smol_set(bases)):
                ratio[bases] = perplexity(model, ids) / stock
    assert own.shape == (LAYERS, HEADS, len(distances))
    assert stock < 40
    # The same bases give the same curve; near ones bend it a little, and HARPE's, up to fifty times as large, much.
    assert (change[(BASE,) * KV_HEADS], ratio[(BASE,) * KV_HEADS]) == (0, 1)
    assert change[HARPE] > 3 * change[CLOSE]
    assert abs(ratio[CLOSE] - 1) < 0.02
    assert ratio[HARPE] > 1.2


@pytest.mark.slow
def test_the_attention_of_real_heads_by_distance(loaded, ids):
    model, tokenizer = loaded
    decay = measure_decay(model, tokenizer, length=512, base_set=smol_set((2e5, 3.5e5, 5e5)), verify=True, softmax=True)
    middle = {name: figures["50 %"] for name, figures in decay.summary().items()}
    assert decay.score.shape == (LAYERS, HEADS, 257)
    assert (decay.figures["slope"] < 0).mean() > 0.95  # attention decays, and a straight line over log m says how
    assert -4 < middle["slope"] < -2
    assert middle["curve"] > 0.995
    assert middle["agreement"] > 0.99
    assert 0.85 < middle["unit_waveform"] < middle["minus_log"] < 0.97
    assert middle["prediction"] > 0.995 > middle["no_change"] + 0.01
    assert middle["change_error"] < 0.3
    assert (decay.figures["sink_mass"] > 0.3).sum() > 20
    # Of the same text, and against what the model itself makes of queries and keys.
    one = measure_decay(model, None, {"text": ids[0, :150].tolist()}, length=150, layers=[7])
    for head in range(HEADS):
        query, key = unrotated(model, ids[:, :150])[7]
        q, k = (naive_rotation(x[None, i].float(), BASE)[0] for x, i in ((query, head), (key, head // 3)))
        scores = (q @ k.T / HEAD_DIM**0.5).numpy()
        np.testing.assert_allclose(one.score[0, head], naive.mean_scores([scores], 75), rtol=0, atol=1e-3)


def test_a_checkpoint_of_real_weights(loaded, ids, smollm2, tmp_path):
    model, tokenizer = loaded
    apply_to_checkpoint(smollm2, smol_set(HARPE), tmp_path / "out")
    written, again = load_model(tmp_path / "out")
    assert again(TEXT).input_ids == tokenizer(TEXT).input_ids
    with apply_bases(model, smol_set(HARPE)):
        expected = logits(model, ids[:, :50])
    assert torch.equal(logits(written, ids[:, :50]), expected)
    written.save_pretrained(tmp_path / "sharded", max_shard_size="200MB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    sharded = AutoModelForCausalLM.from_pretrained(tmp_path / "sharded")
    assert torch.equal(logits(sharded, ids[:, :50]), expected)
