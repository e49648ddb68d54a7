import errno
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ropesearch.cli import main
from safetensors import SafetensorError
from safetensors.torch import load_file
from toys import BASES, REFUSED_BY_STOCK, TOYS, base_set, save_gguf, scaled_toy, sets, tokens, toy
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from ropesearch import (
    BaseSet,
    apply_bases,
    apply_to_checkpoint,
    load_model,
    measure_decay,
    order_by_decay,
)
from ropesearch.core.errors import InputError
from ropesearch.model import modeling_harpe

pytestmark = pytest.mark.usefixtures("one_thread")

NAME = "llama-grouped"
STOCK_TOKENIZERS = {"llama": "PreTrainedTokenizerFast", "mistral": "LlamaTokenizer", "qwen2": "Qwen2Tokenizer"}


def save_tokenizer(folder, declared):
    """A tokenizer of letters, under whatever name its file declares."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = {letter: i for i, letter in enumerate("_abcdefghijklmnopqrstuvwxyz ")}
    tokenizer = Tokenizer(models.BPE(letters, [], unk_token="_"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="_").save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": declared}))


def save_toy(folder, name=NAME, **options):
    model = toy(name)
    model.save_pretrained(folder, **options)
    save_tokenizer(folder, STOCK_TOKENIZERS.get(model.config.model_type, "TokenizersBackend"))
    return model


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Folder of a model of two KV heads; not to be written to."""
    folder = tmp_path_factory.mktemp("models") / "stock"
    save_toy(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An empty folder in place of the user's cache, for every test; gives the one in it for models."""
    folder = tmp_path_factory.mktemp("user") / "cache"
    monkeypatch.setattr("ropesearch.model.load.user_cache_folder", lambda: folder)
    return folder / "models"


@pytest.fixture
def run(run):
    """Run `apply` in a folder with a base-set file."""
    base_set(BASES[2]).save("bases.json")

    def apply(model, *options, bases="bases.json", output="out"):
        return run("apply", model, "--bases", bases, "-o", output, *options)

    return apply


@pytest.fixture
def run_measure(run, capsys):
    """Run `measure` to an error of exit code 2; gives the line."""

    def measure(model):
        assert main(["measure", model, "--length", "64"]) == 2
        return capsys.readouterr().err

    return measure


def same_logits(model, other, ids):
    with torch.no_grad():
        return torch.equal(model(ids).logits, other(ids).logits)


@pytest.mark.parametrize("name", TOYS)
def test_written_and_loaded_it_is_the_model_with_bases(name, tmp_path):
    model, ids = save_toy(tmp_path / "stock", name), tokens(2, 40)
    _, other = sets(name)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "stock")
    apply_to_checkpoint(tmp_path / "stock", other, tmp_path / "out")
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"] | info["mismatched_keys"]
    assert type(loaded).__module__ == "ropesearch.model.modeling_harpe"
    assert type(loaded).__name__ == f"Harpe{type(model).__name__}"
    with apply_bases(model, other):
        assert same_logits(loaded, model, ids)
        bare = AutoModel.from_pretrained(tmp_path / "stock")
        apply_bases(bare, other)
        states = [m(ids).last_hidden_state for m in (AutoModel.from_pretrained(tmp_path / "out"), bare)]
        assert torch.equal(*states)
    with pytest.raises(REFUSED_BY_STOCK, match="harpe"):
        type(model).from_pretrained(tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(again) is type(tokenizer)
    assert again("a cab").input_ids == tokenizer("a cab").input_ids
    assert loaded.generation_config == model.generation_config

    loaded.save_pretrained(tmp_path / "again")
    assert same_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "again"), loaded, ids)
    ours = Path(modeling_harpe.__file__).read_text()
    assert (tmp_path / "out" / "modeling_harpe.py").read_text() == ours
    assert (tmp_path / "again" / "modeling_harpe.py").read_text() == ours


ELSEWHERE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ropesearch":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
folder, out = sys.argv[1:]
flag = {"trust_remote_code": True}
model = AutoModelForCausalLM.from_pretrained(folder, **flag)
bare = AutoModel.from_pretrained(folder, **flag)
ids = torch.arange(1, 40)[None]
with torch.no_grad():
    assert torch.equal(bare(ids).last_hidden_state, model.model(ids).last_hidden_state)
    torch.save(model(ids).logits, out)
AutoConfig.from_pretrained(folder, **flag)
print(AutoTokenizer.from_pretrained(folder, **flag)("abc").input_ids)
model.save_pretrained(folder + "-again")
for load, options in ((LlamaForCausalLM, {}), (AutoModelForCausalLM, {"trust_remote_code": False})):
    try:
        load.from_pretrained(folder, **options)
    except (KeyError, ValueError) as error:
        print(type(error).__name__)
model = AutoModelForCausalLM.from_pretrained(folder + "-again", **flag)
assert torch.equal(model(ids).logits, torch.load(out, weights_only=True))
print(type(model).__name__, sorted(name for name in sys.modules if name.startswith("ropesearch")))
"""


def python(code, *arguments, **options):
    here = os.environ | {"HF_MODULES_CACHE": str(options.pop("cache", "")), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    pipes = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(command, env=here, **pipes, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_it_loads_where_there_is_no_ropesearch(stock, tmp_path):
    other = base_set(BASES[2])
    apply_to_checkpoint(stock, other, tmp_path / "out")
    out = python(ELSEWHERE, tmp_path / "out", tmp_path / "logits.pt", cache=tmp_path / "modules")
    assert out.splitlines() == ["[1, 2, 3]", "KeyError", "ValueError", "HarpeLlamaForCausalLM []"]
    model, _ = load_model(tmp_path / "out")
    with torch.no_grad():
        here = model(torch.arange(1, 40)[None]).logits
    torch.testing.assert_close(
        torch.load(tmp_path / "logits.pt", weights_only=True), here, rtol=0, atol=1e-5
    )  # perhaps more threads


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "from transformers import AutoModelForCausalLM; import ropesearch.model",
        "import ropesearch.model; from transformers import LlamaForCausalLM",
        "from ropesearch import apply_bases; apply_bases",
    ],
)
def test_with_our_models_imported_no_flag_is_needed(stock, tmp_path, imports):
    apply_to_checkpoint(stock, base_set(BASES[2]), tmp_path / "out")
    code = f"""import sys; {imports}
from transformers import AutoModelForCausalLM, AutoConfig, AutoTokenizer
folder = sys.argv[1]
print(AutoTokenizer.from_pretrained(folder)("abc").input_ids)
for options in ({{}}, {{"trust_remote_code": True}}):
    print(type(AutoModelForCausalLM.from_pretrained(folder, **options)).__module__)
print(type(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))).__name__)
"""
    ours = "ropesearch.model.modeling_harpe"
    assert python(code, tmp_path / "out", cache=tmp_path / "modules").splitlines() == [
        "[1, 2, 3]",
        ours,
        ours,
        "HarpeLlamaForCausalLM",
    ]


def test_importing_the_package_changes_nothing_in_the_process(stock, tmp_path):
    apply_to_checkpoint(stock, base_set(BASES[2]), tmp_path / "out")
    code = """import sys; from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
finders, known, kind = list(sys.meta_path), dict(CONFIG_MAPPING._extra_content), type(CONFIG_MAPPING._extra_content)
import ropesearch; ropesearch.BaseSet, ropesearch.search_bases, ropesearch.export
assert sys.meta_path == finders and CONFIG_MAPPING._extra_content == known
assert type(CONFIG_MAPPING._extra_content) is kind
try:
    AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=False)
except ValueError as error:
    print("trust_remote_code" in str(error))
import ropesearch.model
print(type(AutoModelForCausalLM.from_pretrained(sys.argv[1])).__name__)
"""
    out = python(code, tmp_path / "out", cache=tmp_path / "modules").splitlines()
    assert out == ["True", "HarpeLlamaForCausalLM"]


def test_the_code_file_needs_nothing_from_here():
    import ast

    tree = ast.parse(Path(modeling_harpe.__file__).read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert all(getattr(node, "level", 0) == 0 for node in nodes)
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= {"torch", "transformers", *sys.stdlib_module_names}


def test_transformers_4_is_told_of_the_bases_where_it_looks(stock, tmp_path, monkeypatch):
    """Its stock classes raise KeyError: 'harpe' then (tried with 4.57); without, they would load a base of 10000."""
    apply_to_checkpoint(stock, base_set(BASES[2]), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_scaling"] == config["rope_parameters"] | {"type": "harpe"}
    config.pop("rope_parameters")
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))  # transformers 5 reads either, to the same effect
    rope = AutoConfig.from_pretrained(tmp_path / "out").rope_parameters
    assert rope == {"rope_type": "harpe", "rope_theta": 10000.0, "bases": list(BASES[2])}

    monkeypatch.setattr("transformers.__version__", "4.57.6")
    with pytest.raises(ImportError, match=r"modeling_harpe.py needs transformers 5.0 or newer, not 4.57.6"):
        runpy.run_path(modeling_harpe.__file__)


def test_sharded_weights_and_their_dtype(tmp_path):
    model = toy(NAME).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "stock", max_shard_size="60kB")
    (tmp_path / "stock" / "optimizer.pt").write_bytes(b"left behind")
    (tmp_path / "stock" / "LICENSE").write_text("kept")
    (tmp_path / "stock" / "additional_chat_templates").mkdir()
    (tmp_path / "stock" / "additional_chat_templates" / "tool.jinja").write_text("kept")
    other = base_set(BASES[2])
    apply_to_checkpoint(tmp_path / "stock", other, tmp_path / "out")
    shards = sorted(file.name for file in (tmp_path / "stock").glob("*.safetensors"))
    assert len(shards) > 1
    for name in [*shards, "model.safetensors.index.json", "LICENSE", "additional_chat_templates/tool.jinja"]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "stock" / name).read_bytes()
    assert not (tmp_path / "out" / "optimizer.pt").exists()
    loaded, tokenizer = load_model(tmp_path / "out")
    assert (loaded.dtype, tokenizer) == (torch.bfloat16, None)
    with apply_bases(model, other):
        assert same_logits(loaded, model, tokens(1, 30))


def test_weights_in_bin_files(tmp_path):
    model = save_toy(tmp_path / "stock")
    (tmp_path / "stock" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "stock" / "pytorch_model.bin")
    apply_to_checkpoint(tmp_path / "stock", base_set(BASES[2]), tmp_path / "out")
    apply_bases(model, base_set(BASES[2]))
    assert same_logits(load_model(tmp_path / "out")[0], model, tokens(1, 30))


def contents(folder):
    """The weight files of a folder, and their index."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if ".safetensors" in file.name}


def tensors(folder):
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(
    ("name", "dtype", "size"),
    [
        ("llama-grouped", "bfloat16", None),
        ("llama-grouped", "float16", "60KB"),
        ("llama-grouped", None, "100KB"),
        ("llama-grouped", torch.float32, 50000),
        ("llama-grouped", None, 1),
        ("llama-one-kv-head", "float16", "60KB"),
        ("qwen2-multi-head", "float16", "60KB"),
        ("mixtral", "float16", "60KB"),
        ("olmo2", "float16", "60KB"),
    ],
)
def test_weights_written_anew_are_those_of_save_pretrained(tmp_path, name, dtype, size):
    """To the last bit, tied embeddings included. For mixtures of experts it puts more into a shard than it may."""
    save_toy(tmp_path / "stock", name)
    _, other = sets(name)
    apply_to_checkpoint(tmp_path / "stock", other, tmp_path / "out", dtype=dtype, max_shard_size=size)
    model, _ = load_model(tmp_path / "stock", dtype=dtype or "auto")
    apply_bases(model, other)
    model.save_pretrained(tmp_path / "reference", max_shard_size=size or "5GB")
    if name == "mixtral":
        assert {k: v.tolist() for k, v in tensors(tmp_path / "out").items()} == {
            k: v.tolist() for k, v in tensors(tmp_path / "reference").items()
        }
    else:
        assert contents(tmp_path / "out") == contents(tmp_path / "reference")
    assert ("model.safetensors.index.json" in contents(tmp_path / "out")) == (size is not None)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert loaded.dtype == model.dtype
    assert same_logits(loaded, model, tokens(1, 30))


def test_bin_files_and_shards_written_anew(tmp_path):
    """Of files of torch, with a tied weight twice in them; and of several files."""
    model = save_toy(tmp_path / "stock", "llama-one-kv-head")
    load_model(tmp_path / "stock")[0].save_pretrained(tmp_path / "reference", max_shard_size="50KB")
    shutil.copytree(tmp_path / "reference", tmp_path / "shards")
    (tmp_path / "stock" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "stock" / "pytorch_model.bin")
    for source in ("stock", "shards"):
        apply_to_checkpoint(tmp_path / source, "yarn:4", tmp_path / f"of-{source}", max_shard_size="50KB")
        assert contents(tmp_path / f"of-{source}") == contents(tmp_path / "reference")
        assert not list((tmp_path / f"of-{source}").glob("*.bin*"))
    apply_to_checkpoint(tmp_path / "shards", "yarn:4", tmp_path / "whole", max_shard_size="1GB", dtype="bfloat16")
    assert sorted(contents(tmp_path / "whole")) == ["model.safetensors"]
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert (config["dtype"], config["rope_parameters"]["rope_type"]) == ("bfloat16", "yarn")
    assert load_model(tmp_path / "whole")[0].dtype == torch.bfloat16


def test_what_a_dtype_cannot_hold_and_what_is_none(run, refused, stock, tmp_path):
    model = toy(NAME)
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = 1e5
    model.save_pretrained(tmp_path / "large")
    line = "model.layers.1.mlp.up_proj.weight has values that float16 cannot hold: --dtype bfloat16 can"
    assert line in refused(2, tmp_path / "large", "--dtype", "float16")
    assert "--dtype must be one of float32, bfloat16, float16, not 'int8'" in refused(2, stock, "--dtype", "int8")
    for size in ("5", "0GB", "5 gigabytes", "-1GB"):
        said = f"--max-shard-size must be a number and KB, MB, GB or TB, such as 5GB, not {size!r}"
        assert said in refused(2, stock, "--max-shard-size", size)
    for size in (0, -5, 1.5, True):
        with pytest.raises(InputError, match="max_shard_size must be"):
            apply_to_checkpoint(stock, base_set(BASES[2]), tmp_path / "out", max_shard_size=size)
    assert not list(tmp_path.glob("out*"))
    assert run(stock, "--dtype", "bfloat16", "--max-shard-size", "60 kB")[0] == 0


def test_a_bare_model_and_an_old_config(tmp_path):
    """Names without a prefix, no head, rope_theta at the top, and buffers that today's models do not have."""
    model = toy(NAME)
    model.model.save_pretrained(tmp_path / "stock")
    file = tmp_path / "stock" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"rope_theta": config.pop("rope_parameters")["rope_theta"]}))
    apply_to_checkpoint(tmp_path / "stock", base_set(BASES[2]), tmp_path / "out")
    loaded = AutoModel.from_pretrained(tmp_path / "out")
    apply_bases(model, base_set(BASES[2]))
    assert torch.equal(loaded(tokens(1, 30)).last_hidden_state, model.model(tokens(1, 30)).last_hidden_state)
    assert loaded.config.rope_parameters["rope_theta"] == 10000.0


def test_a_gguf_file(refused, tmp_path):
    model = toy("llama-multi-head")
    (tmp_path / "packed").mkdir()
    save_gguf(model, tmp_path / "packed" / "model.gguf")
    assert "head_dim 16, but " in refused(2, "packed/model.gguf")
    other = base_set(BASES[4])
    apply_to_checkpoint(tmp_path / "packed" / "model.gguf", other, tmp_path / "by-file")
    apply_to_checkpoint(tmp_path / "packed", other, tmp_path / "by-folder")
    apply_bases(model, other)
    for folder in ("by-file", "by-folder"):
        assert same_logits(load_model(tmp_path / folder)[0], model, tokens(1, 30))


@pytest.mark.parametrize("kept", [True, False], ids=["kept unpacked", "no cache"])
def test_a_gguf_file_in_another_form(kept, tmp_path, monkeypatch):
    if not kept:
        monkeypatch.setattr("ropesearch.model.load.user_cache_folder", lambda: None)
    model = toy("llama-multi-head")
    save_gguf(model, tmp_path / "model.gguf")
    other, form = base_set(BASES[4]), {"dtype": "bfloat16", "max_shard_size": "60KB"}
    apply_to_checkpoint(tmp_path / "model.gguf", other, tmp_path / "out", **form)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    apply_bases(model.to(torch.bfloat16), other)
    loaded, _ = load_model(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    assert same_logits(loaded, model, tokens(1, 30))
    with torch.no_grad():
        model.float().model.layers[1].mlp.up_proj.weight[3, 4] = 1e5
    save_gguf(model, tmp_path / "large.gguf")
    with pytest.raises(InputError, match=r"model.layers.1.mlp.up_proj.weight has values that float16 cannot hold"):
        apply_to_checkpoint(tmp_path / "large.gguf", other, tmp_path / "no", dtype="float16")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("scaling", "divisors", "said"),
    [
        ({}, ["rope_freqs.weight"], "rope_freqs.weight"),
        ({}, ["rope_factors_long.weight", "rope_factors_short.weight"], "rope_factors_long.weight"),
        ({"scaling.type": "yarn", "scaling.factor": 4.0}, [], "llama.rope.scaling.type yarn"),
        ({"scaling.factor": 2.0}, [], "llama.rope.scaling.factor 2.0"),
        ({"scale_linear": 8.0}, [], "llama.rope.scale_linear 8.0"),
    ],
)
def test_a_gguf_file_with_scaled_frequencies_is_refused(refused, run_measure, tmp_path, scaling, divisors, said):
    """As Llama 3.1 to 3.3: transformers would read the file and forget the rule."""
    save_gguf(toy("llama-multi-head"), tmp_path / "model.gguf", scaling, divisors)
    base_set(BASES[4]).save(tmp_path / "b4.json")
    line = f"model.gguf scales its rotary embedding ({said}), and transformers drops the rule when it reads a .gguf"
    assert line in refused(2, "model.gguf", bases="b4.json")
    assert line in run_measure("model.gguf")
    with pytest.raises(InputError, match=re.escape(line)):
        load_model(tmp_path / "model.gguf")


def test_a_gguf_file_that_says_it_does_not_scale_is_read(tmp_path):
    scaling = {"scaling.type": "none", "scaling.factor": 1.0, "scale_linear": 0.0}
    save_gguf(toy("llama-multi-head"), tmp_path / "model.gguf", scaling)
    assert same_logits(load_model(tmp_path / "model.gguf")[0], toy("llama-multi-head"), tokens(1, 30))


def test_a_gguf_file_is_kept_unpacked(cache, tmp_path, monkeypatch):
    model, file, ids = toy("llama-multi-head"), tmp_path / "model.gguf", tokens(1, 30)
    save_gguf(model, file)
    load_model(file)
    assert not cache.exists()
    assert same_logits(load_model(file, keep_unpacked=True)[0], model, ids)
    (kept,) = cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("ropesearch.model.load._unpacking", None)  # it is not unpacked again
        again, _ = load_model(file, keep_unpacked=True, dtype=torch.float64)
    assert again.dtype == torch.float64
    assert same_logits(again.float(), model, ids)

    with torch.no_grad():
        model.lm_head.weight += 1
    save_gguf(model, file)
    os.utime(file, ns=(1, 1))
    assert same_logits(load_model(file, keep_unpacked=True)[0], model, ids)
    (newer,) = cache.iterdir()
    assert newer != kept


def test_unpacking_reports_its_begin_and_its_end(stock, tmp_path):
    save_gguf(toy("llama-multi-head"), tmp_path / "model.gguf")
    told = []
    for _ in range(2):  # the second time there is nothing to unpack
        load_model(tmp_path / "model.gguf", keep_unpacked=True, progress=lambda *step: told.append(step))
    load_model(stock, progress=lambda *step: told.append(step))
    what = f"unpacking {tmp_path / 'model.gguf'}"
    assert told == [(what, 0, 1), (what, 1, 1)]


def test_apply_uses_and_keeps_the_unpacked_copy(cache, run, tmp_path, monkeypatch):
    model, ids, other = toy("llama-multi-head"), tokens(1, 30), base_set(BASES[4])
    save_gguf(model, tmp_path / "model.gguf")
    other.save(tmp_path / "b4.json")
    code, _, err = run("model.gguf", bases="b4.json")
    (kept,) = cache.iterdir()
    lines = err.splitlines()  # with bars of transformers between them, in a process that showed some before
    assert (code, lines[0]) == (0, "unpacking model.gguf; a large one takes minutes")
    assert lines[-2:] == [f"note: model.gguf is kept unpacked in {kept}", "wrote out"]
    with monkeypatch.context() as patch:
        patch.setattr("ropesearch.model.load._unpacking", None)  # it is not unpacked again, by nobody
        load_model(tmp_path / "model.gguf", keep_unpacked=True)
        assert run("model.gguf", "--quiet", bases="b4.json", output="again") == (0, "", "")
    monkeypatch.setattr("ropesearch.model.load.user_cache_folder", lambda: None)
    assert run("model.gguf", "--quiet", bases="b4.json", output="without")[:2] == (0, "")
    apply_bases(model, other)
    for folder in ("out", "again", "without"):
        assert same_logits(load_model(tmp_path / folder)[0], model, ids)
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("out", "again")]
    assert weights[0] == weights[1] == (kept / "model.safetensors").read_bytes()


def test_measure_says_where_a_gguf_file_is_kept(cache, tmp_path, capsys, monkeypatch):
    save_gguf(toy("llama-multi-head"), tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)
    assert main(["measure", "model.gguf", "--length", "64"]) == 2  # its file brings no tokenizer
    (kept,) = cache.iterdir()
    lines = capsys.readouterr().err.splitlines()
    assert f"note: model.gguf is kept unpacked in {kept}" in lines
    assert lines[-1] == "Error: the model has no tokenizer that loads; without one, texts must be token ids"


def test_measure_refuses_before_a_gguf_file_is_unpacked(cache, tmp_path, capsys, monkeypatch):
    save_gguf(toy("llama-multi-head"), tmp_path / "model.gguf")
    base_set(BASES[2]).save(tmp_path / "b2.json")
    monkeypatch.chdir(tmp_path)
    assert main(["measure", "model.gguf", "--bases", "b2.json"]) == 2
    assert capsys.readouterr().err.startswith("Error: the base set is for 4 heads, 2 KV heads and head_dim 16, but mod")
    assert not cache.exists()


@pytest.mark.parametrize("broken", ["no room", "no folder", "no cache"])
def test_a_gguf_file_that_cannot_be_kept_is_loaded_all_the_same(cache, tmp_path, monkeypatch, broken):
    model, file = toy("llama-multi-head"), tmp_path / "model.gguf"
    save_gguf(model, file)
    if broken == "no room":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 0))
    elif broken == "no folder":
        cache.parent.touch()
    else:
        monkeypatch.setattr("ropesearch.model.load.user_cache_folder", lambda: None)
    assert same_logits(load_model(file, keep_unpacked=True)[0], model, tokens(1, 30))
    assert not cache.exists() or not list(cache.iterdir())


def test_a_gguf_file_that_is_none_keeps_nothing(cache, tmp_path):
    (tmp_path / "model.gguf").write_text("nothing")
    with pytest.raises(InputError, match=r"model\.gguf is no .gguf file, or is cut off"):
        load_model(tmp_path / "model.gguf", keep_unpacked=True)
    assert not cache.exists()


def test_apply_orders_the_bases_by_a_decay_file(run, stock, tmp_path):
    decay = measure_decay(load_model(stock)[0], None, {"a": tokens(200), "b": tokens(200, seed=1)}, length=96)
    decay.save(tmp_path / "decay.json")
    code, out, err = run(stock, "--order-by", "decay.json")
    assert (code, out) == (0, "")
    assert "note: the bases are assigned to the heads by measured slope, which is beyond the paper\n" in err
    assert err.splitlines()[-1] == "wrote out"
    ordered = order_by_decay(BaseSet.load("bases.json"), decay)
    assert AutoConfig.from_pretrained("out").rope_parameters["bases"] == list(ordered.bases)
    other = changed(stock, tmp_path / "other", max_window_layers=None, hidden_size=96)
    code, out, err = run(other, "--order-by", "decay.json", output="nothing")
    assert (code, out) == (2, "")
    assert "the decay is of another model" in err
    assert not (tmp_path / "nothing").exists()


def test_a_gguf_file_and_no_room_for_what_is_in_it(refused, tmp_path, monkeypatch, capsys):
    save_gguf(toy("llama-multi-head"), tmp_path / "model.gguf")
    base_set(BASES[4]).save(tmp_path / "b4.json")

    def full(*arguments, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.modeling_utils.safe_save_file", full)
        with pytest.raises(OSError, match=r"out cannot be written: Error while serializing: .*No space left on device"):
            apply_to_checkpoint(tmp_path / "model.gguf", base_set(BASES[4]), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b4.json", "bases.json", "model.gguf"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 0))
    capsys.readouterr()  # the bars of the unpacking
    for room in ("load", "write"):  # it is not even unpacked
        monkeypatch.setattr(f"ropesearch.model.{room}.load_model", None)
    assert "but the disk has only 0 bytes free" in refused(1, "model.gguf", bases="b4.json")


@pytest.mark.slow
def test_no_bar_of_other_code_is_between_the_lines(tmp_path):
    save_gguf(toy("llama-multi-head"), tmp_path / "model.gguf")
    base_set(BASES[4]).save(tmp_path / "bases.json")
    command = [sys.executable, "-m", "ropesearch", "apply", "model.gguf", "--bases", "bases.json", "-o"]
    here = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    unpacking = "unpacking model.gguf; a large one takes minutes\n"
    for output, options, expected in (
        ("out", [], [unpacking, "note: model.gguf is kept unpacked in {}\n", "wrote out\n"]),
        ("again", [], ["note: model.gguf is kept unpacked in {}\n", "wrote again\n"]),
        ("quiet", ["--quiet"], []),
    ):
        done = subprocess.run(
            [*command, output, *options], cwd=tmp_path, env=here, capture_output=True, text=True, timeout=200
        )
        (kept,) = (tmp_path / "cache" / "ropesearch" / "models").iterdir()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "".join(expected).format(kept))


def test_the_command(run, stock, tmp_path):
    assert run(stock) == (0, "", "wrote out\n")
    assert AutoConfig.from_pretrained("out").rope_parameters["bases"] == list(BASES[2])
    assert run(stock, "--quiet", output="quiet") == (0, "", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bases.json", "out", "quiet"]


@pytest.fixture
def refused(run, tmp_path):
    """Run `apply` to an error, and see that it wrote nothing; gives the line."""

    def refused(code, model, *more, **options):
        before = sorted(tmp_path.rglob("*"))
        found, out, err = run(model, *more, **options)
        assert (found, out) == (code, "")
        assert sorted(tmp_path.rglob("*")) == before
        assert err.startswith("Error: ")
        assert err.count("\n") == 1
        return err

    return refused


def changed(stock, folder, **values):
    """Copy of a model with other values in its config; None takes one out."""
    shutil.copytree(stock, folder)
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


def test_models_that_are_not_there(refused, stock, tmp_path):
    assert "MODEL must be a model's folder, a .gguf file or a hub name such as org/name, not ''" in refused(2, "")
    assert "nowhere does not exist: MODEL must be a model's folder" in refused(2, "nowhere")
    assert "./no/where does not exist" in refused(2, "./no/where")
    assert "a/b/c does not exist" in refused(2, "a/b/c")
    assert "org/model.gguf does not exist" in refused(2, "org/model.gguf")
    assert "is a file: MODEL must be" in refused(2, stock / "config.json")
    (tmp_path / "empty").mkdir()
    assert "empty does not hold one model: it has no config.json and no .gguf" in refused(2, "empty")
    for name in "ab":
        (tmp_path / "empty" / f"{name}.gguf").touch()
    assert "it has 2 .gguf files: name one of them" in refused(2, "empty")
    assert "a.gguf is no .gguf file, or is cut off" in refused(2, "empty/a.gguf")


def test_a_hub_name_without_a_network(refused):
    assert "org/Model-1.5B is not a folder here, and could not be fetched from the hub" in refused(1, "org/Model-1.5B")


def test_a_hub_name_that_is_there(stock, tmp_path, monkeypatch):
    asked, configs = [], []

    def snapshot_download(name, allow_patterns):
        asked.append(name)
        return str(stock)

    def hf_hub_download(name, filename):
        configs.append(name)
        return str(stock / filename)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the base set has one base per query head"):
        apply_to_checkpoint("org/model", base_set(BASES[4]), "out")
    assert (asked, configs) == ([], ["org/model"])  # the weights of a model that cannot take them are left there
    apply_to_checkpoint("org/model", base_set(BASES[2]), "out")
    assert asked == ["org/model"]
    assert load_model("out")[0].config.model_type == "harpe_llama"


def test_weights_that_are_not_there(refused, stock, tmp_path):
    shutil.copytree(stock, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    assert "model holds no weights: none of model.safetensors, " in refused(2, "model")
    weights.write_bytes(content[:2000])
    assert "model.safetensors cannot be read as weights" in refused(2, "model")
    weights.write_bytes(content[: len(content) // 2])
    assert "model.safetensors cannot be read as weights" in refused(2, "model")
    weights.unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"nonsense")
    assert "pytorch_model.bin cannot be read as weights" in refused(2, "model")
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    assert "lists model-1.safetensors and 1 more, not found in its folder" in refused(2, "model")
    index.write_text("{")
    assert "model.safetensors.index.json is not JSON" in refused(2, "model")
    index.write_text("{}")
    assert "has no weight_map" in refused(2, "model")


def test_weights_that_would_run_code_run_none(refused, stock, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    shutil.copytree(stock, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Trap()}, tmp_path / "model" / "pytorch_model.bin")
    assert "pytorch_model.bin cannot be read as weights" in refused(2, "model")
    with pytest.raises(InputError, match="model cannot be loaded"):
        load_model(tmp_path / "model")
    assert not (tmp_path / "trapped").exists()


AUTO_MAP = {"AutoConfig": "configuration_its.Config", "AutoModelForCausalLM": "modeling_its.Model"}


@pytest.mark.parametrize("scheme", [None, "yarn:4"])
def test_code_of_a_model_is_left_behind_with_a_note(run, stock, tmp_path, scheme):
    model = changed(stock, tmp_path / "model", auto_map=AUTO_MAP)
    own = json.loads((model / "tokenizer_config.json").read_text())
    own_map = {"auto_map": {"AutoTokenizer": ["tokenization_its.Slow", "tokenization_its.Fast"]}}
    (model / "tokenizer_config.json").write_text(json.dumps(own | own_map))
    for name in ("tokenizer_its.py", "vocab_its.py", "modeling_its.py", "LICENSE.so"):
        (model / name).write_text("raise SystemExit('ran')")
    if scheme is None:
        code, out, err = run(model)
    else:
        code, out, err = main(["apply", str(model), "--scheme", scheme, "-o", "out"]), "", None
    assert (code, out) == (0, "")
    if err is not None:
        left = "names code of its own by auto_map, which is left behind: transformers' own classes are used"
        assert err.splitlines() == [
            f"note: config.json {left}",
            f"note: tokenizer_config.json {left}",
            "note: LICENSE.so, modeling_its.py, tokenizer_its.py, vocab_its.py are code, and left behind",
            "wrote out",
        ]
    code_files = [] if scheme else [tmp_path / "out" / "modeling_harpe.py"]
    assert [*(tmp_path / "out").rglob("*.py"), *(tmp_path / "out").rglob("*.so")] == code_files
    for name in ("config.json", "tokenizer_config.json"):
        assert "_its" not in (tmp_path / "out" / name).read_text()
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert {**own, "tokenizer_class": written["tokenizer_class"]} == written
    model, tokenizer = load_model(tmp_path / "out")
    assert tokenizer("abc").input_ids == [1, 2, 3]


@pytest.mark.parametrize("name", ["vocab_x.txt", "tokenizer.json", "config.json", "model.safetensors", "templates"])
def test_links_that_leave_the_folder_are_refused(refused, stock, tmp_path, name):
    shutil.copytree(stock, tmp_path / "model")
    shutil.copytree(stock, tmp_path / "outside")
    if name == "templates":
        (tmp_path / "model" / "additional_chat_templates").symlink_to(tmp_path / "outside")
    else:
        (tmp_path / "outside" / "vocab_x.txt").write_text("secret")
        (tmp_path / "model" / name).unlink(missing_ok=True)
        (tmp_path / "model" / name).symlink_to(tmp_path / "outside" / name)
    assert "is a link that leaves its folder, to " in refused(2, "model")


def test_links_into_the_folder_and_into_the_store_of_the_hub_are_followed(stock, tmp_path):
    snapshot, blobs = tmp_path / "models--org--its" / "snapshots" / "abc", tmp_path / "models--org--its" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(stock.iterdir())):
        shutil.copyfile(file, blobs / str(i))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(i))
    (snapshot / "LICENSE").symlink_to("config.json")
    (tmp_path / "link").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "link"):
        apply_to_checkpoint(folder, base_set(BASES[2]), tmp_path / f"out-{folder.name}")
        assert not any(file.is_symlink() for file in (tmp_path / f"out-{folder.name}").iterdir())


def test_weights_of_another_shape(refused, stock, tmp_path):
    more = changed(stock, tmp_path / "more", num_hidden_layers=4)
    assert "more holds no weights for model.layers.3." in refused(2, more)
    tied = changed(stock, tmp_path / "tied", tie_word_embeddings=True)
    from safetensors.torch import load_file, save_file

    weights = load_file(tied / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tied / "model.safetensors", {"format": "pt"})
    apply_to_checkpoint(tied, base_set(BASES[2]), tmp_path / "fits")
    untied = changed(tied, tmp_path / "untied", tie_word_embeddings=False)
    assert "untied holds no weights for lm_head.weight" in refused(2, untied)
    wider = changed(stock, tmp_path / "wider", intermediate_size=97)
    assert "has the shape (96, 64), but its config requires (97, 64)" in refused(2, wider)


def test_configs_that_cannot_be_used(refused, stock, tmp_path):
    for values, line in [
        (
            {"model_type": "cohere"},
            "is a model of type cohere; only llama, mistral, ministral",
        ),
        ({"model_type": None}, "is a model of type None; only"),
        ({"num_attention_heads": None}, "it has no num_attention_heads"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "scales its rotary embedding by the rule 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "scales its rotary embedding by the rule 'linear'"),
        ({"rope_scaling": "linear"}, "scales its rotary embedding by the rule 'linear'"),
        ({"partial_rotary_factor": 0.5}, "it rotates only part of each head"),
        ({"quantization_config": {"quant_method": "gptq"}}, "are quantized"),
        ({"vocab_size": "many"}, "config.json cannot be used: "),
    ]:
        folder = changed(stock, tmp_path / "changed", **values)
        assert line in refused(2, "changed")
        shutil.rmtree(folder)
    shutil.copytree(stock, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{")
    assert "config.json is not JSON" in refused(2, "model")


def test_scaled_models_need_a_decision(run, refused, tmp_path):
    model, ids, other = scaled_toy("llama3"), tokens(1, 30), base_set(BASES[2])
    model.save_pretrained(tmp_path / "scaled")
    line = "scaled scales its rotary embedding by the rule 'llama3', which a base per head would silently undo: give"
    line += " --scaling replace to drop the rule, or --scaling keep to apply it to every base"
    assert line in refused(2, "scaled")
    for scaling, said in (("keep", ", each scaled by the model's own rule"), ("replace", "")):
        code, _, err = run("scaled", "--scaling", scaling, output=scaling)
        line = f"a base set: rope_type harpe, 2 bases{said}; max_position_embeddings 2048, the model's own\n"
        assert (code, err) == (0, f"{line}wrote {scaling}\n")
        with apply_bases(model, other, scaling=scaling):
            assert same_logits(load_model(scaling)[0], model, ids)
    assert "scaling" not in json.loads((tmp_path / "replace" / "config.json").read_text())["rope_parameters"]


def test_search_says_in_time_that_a_model_is_scaled(run, capsys):
    scaled_toy("llama3").save_pretrained("scaled")
    toy(NAME).save_pretrained("plain")
    line = "note: scaled scales its rotary embedding by the rule llama3: apply and measure take bases for it with"
    for name, expected in (("scaled", f"{line} --scaling replace or keep\n"), ("plain", "")):
        capsys.readouterr()
        main(["search", "--model-config", name, "--strategy", "uniform", "--bmin", "2e4", "--bmax", "5e6"])
        assert capsys.readouterr().err == expected


def test_bases_that_do_not_fit(refused, stock, tmp_path):
    base_set(BASES[4]).save("b4.json")
    assert "one base per query head (4)" in refused(2, stock, bases="b4.json")
    base_set(BASES[2], head_dim=8).save("b8.json")
    assert "for 4 heads, 2 KV heads and head_dim 8, but " in refused(2, stock, bases="b8.json")
    assert "nothing.json cannot be read" in refused(2, stock, bases="nothing.json")
    apply_to_checkpoint(stock, base_set(BASES[2]), "once")
    assert "once already carries bases (harpe_llama)" in refused(2, "once")


def test_a_folder_that_exists_is_not_replaced(refused, stock, tmp_path):
    (tmp_path / "out").mkdir()
    assert "out already exists and is never replaced" in refused(1, stock)
    assert "the folder nowhere for out does not exist" in refused(1, stock, output="nowhere/out")


def test_no_room_on_the_disk(refused, stock, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 0))
    assert "but the disk has only 0 bytes free" in refused(1, stock)


def test_a_disk_that_fills_up_leaves_nothing(refused, stock, monkeypatch):
    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    assert "No space left on device" in refused(1, stock)


@pytest.mark.slow
def test_interrupted_it_leaves_nothing(stock, tmp_path):
    base_set(BASES[2]).save(tmp_path / "bases.json")
    code = """
import shutil, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background of a shell ignores it
def copyfile(source, target):
    open(target, "wb").close()
    print("copying", flush=True)
    time.sleep(60)
shutil.copyfile = copyfile
from ropesearch.cli import main
sys.exit(main(["apply", sys.argv[1], "--bases", "bases.json", "-o", "out"]))
"""
    command = [sys.executable, "-P", "-c", code, str(stock)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "copying\n"
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().endswith("Interrupted.\n")
    assert [p.name for p in tmp_path.iterdir()] == ["bases.json"]


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_without_torch_the_extra_is_named(stock, tmp_path, missing):
    """By everything that needs it; what does not, works."""
    code = f"""import sys; sys.modules[{missing!r}] = None
import ropesearch
for name in ("apply_bases", "apply_scheme", "load_model", "apply_to_checkpoint", "measure_decay"):
    try:
        exec(f"from ropesearch import {{name}}")
    except ImportError as error:
        print(error)
base_set = ropesearch.BaseSet.of([20000, 5e6], heads=4, head_dim=16)
base_set.save("bases.json")
ropesearch.export(base_set, "bases.npz")
from ropesearch.cli import main
for command in ("apply", "measure"):
    print(main([command, sys.argv[1], "--bases", "bases.json", "-o", "out.json"]))
print(main(["search", "--model-config", sys.argv[1], "--strategy", "uniform", "--bmin", "2e4", "--bmax", "5e6"]))
"""
    command = [sys.executable, "-P", "-c", code, str(stock)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    line = "working with a model needs torch and transformers: pip install 'ropesearch[torch]'"
    assert done.stdout.splitlines()[:7] == [*[line] * 5, "1", "1"]
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr.splitlines() == [f"Error: {line}"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bases.json", "bases.npz"]


def test_what_training_needs_loads_neither_numba_nor_scipy(stock, tmp_path):
    base_set(BASES[2]).save(tmp_path / "bases.json")
    code = """import sys
for name in ("numba", "llvmlite", "scipy", "ropesearch.kernels"):
    sys.modules[name] = None
from ropesearch import (
    BaseSet, apply_bases, apply_scheme, apply_to_checkpoint, export, load_model, parse_scheme,
)
base_set = BaseSet.load("bases.json")
assert BaseSet.of(base_set, heads=4, head_dim=16, strategy="by hand") == base_set
for suffix in ("json", "csv", "md", "npz", "safetensors", "pt"):
    export(base_set, f"exported.{suffix}")
model, tokenizer = load_model(sys.argv[1])
with apply_bases(model, base_set):
    model(tokenizer("abc", return_tensors="pt").input_ids)
for text in ("yarn:4", "abf-multi-stage", "dynamic:4", "uniform", "harpe:bases.json"):
    scheme = parse_scheme(text, model=model.config.to_dict())
    scheme.inv_freq(), scheme.attention_factor(), scheme.distances([1, 2])
    with apply_scheme(model, scheme):
        model(tokenizer("abc", return_tensors="pt").input_ids)
apply_to_checkpoint(sys.argv[1], base_set, "out")
load_model("out")
apply_to_checkpoint(sys.argv[1], "yarn:4", "yarn")
load_model("yarn")
"""
    python(code, stock, cwd=tmp_path)
    assert len(list(tmp_path.glob("exported.*"))) == 6


def test_without_gguf_the_extra_is_named(refused, tmp_path, monkeypatch):
    (tmp_path / "model.gguf").touch()
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "a .gguf file needs gguf and accelerate: pip install 'ropesearch[torch]'" in refused(1, "model.gguf")


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("unable to mmap 5 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
    ],
)
def test_weights_that_do_not_fit_in_memory(stock, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(MemoryError, match=r"^the weights of .* do not fit in "):
        load_model(stock)


def test_load_model_says_what_is_wrong(stock, tmp_path):
    model, tokenizer = load_model(stock)
    assert not model.training
    assert tokenizer("abc").input_ids == [1, 2, 3]
    with pytest.raises(InputError, match=r"more has no weights for model.layers.3"):
        load_model(changed(stock, tmp_path / "more", num_hidden_layers=4))
    with pytest.raises(InputError, match="other cannot be loaded"):
        load_model(changed(stock, tmp_path / "other", model_type="other"))
    with pytest.raises(InputError, match="nowhere does not exist"):
        load_model(tmp_path / "nowhere")
