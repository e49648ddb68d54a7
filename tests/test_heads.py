"""Models with other heads than that of language modelling, and language models inside others."""

import os
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transformers
from toys import TOYS, save_with_tokenizer, sets, tokens, toy, toy_config

from ropesearch import Decay, apply_bases, apply_scheme, apply_to_checkpoint, load_model, measure_decay
from ropesearch.core.errors import InputError
from ropesearch.model import modeling_harpe

pytestmark = pytest.mark.usefixtures("one_thread")

HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering")
ONE_OF_EACH = {family: name for name, (family, *_) in reversed(TOYS.items())}


def auto(head):
    return getattr(transformers, f"AutoModelFor{head}")


def has(name, head):
    return toy_config(name).__class__ in auto(head)._model_mapping


# All heads of one family, and the first that there is of every other.
WITH_HEADS = [
    (name, head)
    for family, name in sorted(ONE_OF_EACH.items())
    for head in [head for head in HEADS if has(name, head)][: None if family == "llama" else 1]
]


def with_head(name, head, **more):
    torch.manual_seed(1)
    return auto(head).from_config(toy_config(name, num_labels=3, **more)).eval()


def outputs(model, ids):
    with torch.no_grad():
        out = model(ids)
    return torch.cat([x.flatten() for x in out.values() if torch.is_tensor(x)])


@pytest.mark.parametrize(("name", "head"), WITH_HEADS)
def test_other_heads_are_saved_and_loaded_with_their_bases(name, head, tmp_path):
    model, ids = with_head(name, head), tokens(2, 40)
    own, other = sets(name)
    stock = outputs(model, ids)
    model.save_pretrained(tmp_path / "stock")
    with apply_bases(model, own):
        assert torch.equal(outputs(model, ids), stock)
    with apply_bases(model, other):
        expected = outputs(model, ids)
        model.save_pretrained(tmp_path / "saved")
    assert torch.equal(outputs(model, ids), stock)
    assert not torch.equal(expected, stock)
    apply_to_checkpoint(tmp_path / "stock", other, tmp_path / "applied")
    for folder in ("saved", "applied"):
        loaded, info = auto(head).from_pretrained(tmp_path / folder, output_loading_info=True)
        assert not info["missing_keys"] | info["unexpected_keys"] | info["mismatched_keys"]
        assert type(loaded).__name__ == f"Harpe{type(model).__name__}"
        assert loaded.config.architectures == [type(loaded).__name__]
        assert torch.equal(outputs(loaded, ids), expected)
        assert loaded.config.num_labels == model.config.num_labels
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(outputs(auto(head).from_pretrained(tmp_path / "again"), ids), expected)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("with_bases", [False, True])
def test_the_command_measures_models_with_other_heads(head, with_bases, run, tmp_path):
    model, options = with_head("llama-grouped", head), {"length": 96, "layers": [1]}
    with apply_bases(model, sets("llama-grouped")[1]) if with_bases else nullcontext():
        save_with_tokenizer(model, tmp_path / "toy")
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "toy")
        expected = measure_decay(model, tokenizer, **options)
    code, _, err = run("measure", "toy", "--length", 96, "--layers", "1", "-o", "decay.json", "--quiet")
    assert code == 0, err
    found = Decay.load("decay.json")
    np.testing.assert_array_equal(found.score, expected.score)
    np.testing.assert_array_equal(found.inv_freq, expected.inv_freq)
    with pytest.raises(InputError, match=r"^toy has no weights for "):
        load_model("toy")


ELSEWHERE = """
import sys
sys.modules["ropesearch"] = None
import torch, transformers
folder, head, out = sys.argv[1:]
model = getattr(transformers, f"AutoModelFor{head}").from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    torch.save(next(iter(model(torch.arange(1, 40)[None]).values())), out)
model.save_pretrained(f"{folder}-again")
again = getattr(transformers, f"AutoModelFor{head}").from_pretrained(f"{folder}-again", trust_remote_code=True)
print(type(again).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("llama-grouped", "QuestionAnswering"),
        ("gemma3_text", "SequenceClassification"),
        ("gemma3_text", "ImageTextToText"),
    ],
)
def test_they_load_where_there_is_no_ropesearch(name, head, tmp_path):
    model = with_images(name)[0] if head == "ImageTextToText" else with_head(name, head)
    with apply_bases(model, sets(name)[1]), torch.no_grad():
        expected = next(iter(model(torch.arange(1, 40)[None]).values()))
        model.save_pretrained(tmp_path / "saved")
    here = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-P", "-c", ELSEWHERE, tmp_path / "saved", head, tmp_path / "out.pt"]
    done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [f"Harpe{type(model).__name__}"]
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # perhaps more threads


def test_a_scheme_is_written_for_any_head(tmp_path):
    model, ids = with_head("llama-grouped", "TokenClassification", tie_word_embeddings=True), tokens(2, 40)
    model.save_pretrained(tmp_path / "stock")
    with apply_scheme(model, "abf:1e6"):
        expected = outputs(model, ids)
    apply_to_checkpoint(tmp_path / "stock", "abf:1e6", tmp_path / "out")
    loaded = auto("TokenClassification").from_pretrained(tmp_path / "out")
    assert type(loaded) is type(model)
    assert torch.equal(outputs(loaded, ids), expected)


def test_what_the_config_says_of_classes_is_what_there_is():
    for family in modeling_harpe.FAMILIES.values():
        for loader, ours in family.models.items():
            assert ours.config_class is family.config
            assert getattr(modeling_harpe, ours.__name__) is ours
            assert ours._auto_class == loader


VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def with_images(name):
    """A model of text and images around a toy, a text with an image for it, and what it makes of it."""
    text, vision = toy_config(name), transformers.CLIPVisionConfig(**VISION)
    if name == "gemma3_text":
        vision = transformers.SiglipVisionConfig(**VISION)
        more = {"mm_tokens_per_image": 4, "boi_token_index": 1, "eoi_token_index": 2}
        config = transformers.Gemma3Config(vision_config=vision, text_config=text, image_token_index=3, **more)
    elif name == "gemma":
        vision = transformers.SiglipVisionConfig(**VISION, projection_dim=64)
        config = transformers.PaliGemmaConfig(
            vision_config=vision, text_config=text, image_token_index=3, projection_dim=64
        )
    else:
        config = transformers.LlavaConfig(
            vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-1
        )
    torch.manual_seed(4)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    ids = torch.cat((torch.full((1, 4), 3), tokens(1, 36) % 90 + 4), 1)
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(5))

    return model, {"input_ids": ids, "pixel_values": pixels}


def logits(model, given):
    with torch.no_grad():
        return model(**given).logits


@pytest.mark.parametrize("name", ["gemma3_text", "gemma", "llama-grouped", "qwen2-grouped", "phi3", "olmo3"])
def test_language_models_among_images_are_saved_through_the_outer_config(name, tmp_path):
    model, given = with_images(name)
    own, other = sets(name)
    stock, config = logits(model, given), model.config
    before = config.to_dict()
    with apply_bases(model, own):
        assert torch.equal(logits(model, given), stock)
    with apply_bases(model, other):
        expected = logits(model, given)
        model.save_pretrained(tmp_path / "saved")
    assert not torch.equal(expected, stock)
    assert type(model.config) is type(config)
    assert config.to_dict() == before
    assert torch.equal(logits(model, given), stock)
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded, given), expected)
    rope = loaded.config.text_config.rope_parameters
    assert rope.get("full_attention", rope)["bases"] == list(other.bases)
    loaded.save_pretrained(tmp_path / "again")
    again = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again, given), expected)


def test_what_is_not_saved_or_not_possible_is_said(tmp_path):
    """A folder of a model of text and images is not written anew; three positions of a token are not one."""
    own, _ = sets("llama-grouped")
    with_images("llama-grouped")[0].save_pretrained(tmp_path / "llava")
    line = r"llava is a model of type llava around one of type llama: load it in Python, give it bases with apply_bases"
    with pytest.raises(InputError, match=line):
        apply_to_checkpoint(tmp_path / "llava", own, tmp_path / "out")
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = {**toy_config("qwen2-grouped").to_dict(), "rope_parameters": rope, "model_type": "qwen2_vl_text"}
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 64}
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision)
    line = r"has three positions for each token, in time, height and width \(mrope\): bases are for one"
    model = transformers.Qwen2VLForConditionalGeneration(config)
    with pytest.raises(InputError, match=f"Qwen2VLForConditionalGeneration {line}"):
        apply_bases(model, own)
    model.save_pretrained(tmp_path / "qwen")
    with pytest.raises(InputError, match=f"qwen {line}"):
        apply_to_checkpoint(tmp_path / "qwen", own, tmp_path / "out")


def test_a_config_that_would_lose_the_bases_is_refused(monkeypatch):
    """As Gemma3Config's, were there no class of ours for it."""
    model, given = with_images("gemma3_text")
    stock = logits(model, given)
    monkeypatch.setattr(modeling_harpe, "OUTER", {})
    with pytest.raises(InputError, match="a Gemma3Config would read the config of its language model as a stock one"):
        apply_bases(model, sets("gemma3_text")[1])
    assert torch.equal(logits(model, given), stock)
    with apply_bases(model.model.language_model, sets("gemma3_text")[1]):
        assert not torch.equal(logits(model, given), stock)


def test_families_that_this_transformers_has_otherwise_are_refused(monkeypatch):
    monkeypatch.delitem(modeling_harpe.FAMILIES, "nemotron")
    with pytest.raises(InputError, match=r"models of type nemotron need another version of transformers than \d"):
        apply_bases(toy("nemotron"), sets("nemotron")[0])
