"""A model is found once, by what the user typed; nothing is read, fetched or imported for it before it is needed."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors
from toys import base_set, save_gguf, toy

from ropesearch import BaseSet, uniform_bases
from ropesearch.core.errors import InputError
from ropesearch.core.model_config import ModelShape
from ropesearch.core.model_source import ModelSource, find_config

CONFIG = {"model_type": "llama", "hidden_size": 512, "num_attention_heads": 16, "num_key_value_heads": 4}
UNIFORM = ["--strategy", "uniform", "--bmin", 1e4, "--bmax", 5e4]


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The current folder, with a model's folder in it, a .gguf file, and a folder with one."""
    monkeypatch.chdir(tmp_path)
    for name in ("saved", "packed"):
        (tmp_path / name).mkdir()
    (tmp_path / "saved" / "config.json").write_text(json.dumps(CONFIG))
    save_gguf(toy("llama-multi-head"), tmp_path / "model.gguf")
    (tmp_path / "packed" / "only.gguf").symlink_to(tmp_path / "model.gguf")
    return tmp_path


@pytest.fixture
def hub(monkeypatch):
    """Let the hub answer with a path, or raise an error; gives what it was asked."""
    asked = []

    def answers(answer):
        def answer_to(name, **options):
            asked.append((name, options))
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        for function in ("hf_hub_download", "snapshot_download"):
            monkeypatch.setattr(huggingface_hub, function, answer_to)
        return asked

    return answers


@pytest.mark.parametrize(
    ("typed", "folder", "gguf_file", "path"),
    [
        ("saved", "saved", None, "saved"),
        ("saved/", "saved", None, "saved"),
        ("model.gguf", ".", "model.gguf", "model.gguf"),
        ("packed", "packed", "only.gguf", "packed/only.gguf"),
        (Path("packed/only.gguf"), "packed", "only.gguf", "packed/only.gguf"),
    ],
)
def test_what_is_on_disk(models, typed, folder, gguf_file, path):
    source = ModelSource.find(typed)
    assert (source.name, source.folder, source.gguf_file, source.path) == (
        str(typed),
        Path(folder),
        gguf_file,
        Path(path),
    )
    assert ModelSource.find(source) is source
    shape = ModelShape(16, 4, 32) if gguf_file is None else ModelShape(4, 4, 16)
    assert source.config().shape == find_config(typed).shape == shape
    assert source.config().name == str(typed)


def test_a_config_alone_is_no_model(models):
    assert find_config("saved/config.json").shape == ModelShape(16, 4, 32)
    with pytest.raises(InputError, match=r"^saved/config\.json is a file: `model` must be a model's folder, a \.gguf"):
        ModelSource.find("saved/config.json")


@pytest.mark.parametrize("typed", ["nowhere", "./org/model", "a/b/c", "org/model.json", "/org/model", "org/"])
def test_what_is_nowhere_asks_no_hub(models, typed, hub):
    asked = hub(OSError("asked"))
    with pytest.raises(InputError, match="does not exist: `model` must be a model's folder"):
        ModelSource.find(typed)
    with pytest.raises(FileNotFoundError):
        find_config(typed)
    assert asked == []


def test_finding_a_model_imports_nothing_heavy(models):
    code = """import sys
from ropesearch.core.model_source import ModelSource, find_config
assert find_config("saved").kv_heads == 4
assert ModelSource.find("org/model").local is None
try:
    ModelSource.find("nowhere")
except ValueError:
    print(*sys.modules)
"""
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert "ropesearch.core.model_source" in out.split()
    assert not set(out.split()) & {"numpy", "torch", "transformers", "huggingface_hub", "safetensors", "numba"}


def test_the_hub_is_asked_for_what_is_needed(models, hub):
    asked = hub(models / "saved" / "config.json")
    source = ModelSource.find("org/model")
    assert asked == []
    assert source.config().shape == source.config().shape == ModelShape(16, 4, 32)
    assert asked == [("org/model", {"filename": "config.json"})]
    asked = hub(models / "saved")
    (models / "saved" / "model.safetensors").touch()
    assert source.folder == source.path == models / "saved"
    ((name, options),) = asked[1:]
    assert name == "org/model"
    assert "model*.safetensors*" in options["allow_patterns"]
    (models / "saved" / "model.safetensors").unlink()  # and without them, .bin files are
    assert ModelSource.find("org/model").folder == models / "saved"
    assert "pytorch_model*.bin*" in asked[-1][1]["allow_patterns"]


ANSWER = SimpleNamespace(headers={}, request=None)  # as much of one as the errors look at


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (errors.RepositoryNotFoundError("404\nmore", response=ANSWER), InputError, "the hub has no such model, or it "),
        (errors.GatedRepoError("403\nmore", response=ANSWER), InputError, "or it requires a login"),
        (errors.RemoteEntryNotFoundError("404", response=ANSWER), InputError, "on the hub it has no config.json"),
        (errors.LocalEntryNotFoundError("offline\nmore"), OSError, "could not be fetched from the hub: offline"),
        (TimeoutError(), OSError, "could not be fetched from the hub: TimeoutError"),
    ],
)
def test_what_the_hub_says_ends_as_one_line(run, hub, error, kind, line):
    hub(error)
    with pytest.raises(kind, match=rf"^org/model is not a folder here, and .*{line}[^\n]*$") as caught:
        ModelSource.find("org/model").config()
    assert isinstance(caught.value, InputError) == (kind is InputError)
    code, out, err = run("search", *UNIFORM, "--model-config", "org/model")
    assert (code, out) == (2 if kind is InputError else 1, "")
    assert err == f"Error: {caught.value}\n"


def test_without_the_hubs_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"^org/model, taken as a hub name, needs huggingface_hub: pip install 'rope"):
        _ = ModelSource.find("org/model").folder


@pytest.mark.parametrize("model", ["saved", "saved/config.json", "model.gguf", "packed", "org/model"])
def test_search_takes_the_shape_of_any_model(models, run, hub, model):
    hub(models / "saved" / "config.json")
    code, out, err = run("search", *UNIFORM, "--model-config", model, "--json")
    assert (code, err) == (0, "")
    shape = (4, 4, 16) if model in ("model.gguf", "packed") else (16, 4, 32)
    assert BaseSet.from_json(out).bases == uniform_bases(1e4, 5e4, shape[0], kv_heads=shape[1]).bases
    assert (BaseSet.from_json(out).heads, BaseSet.from_json(out).head_dim) == (shape[0], shape[2])


def test_what_search_says_of_other_files(models, run):
    base_set((2e4, 5e6)).save("bases.json")
    (models / "part.json").write_text(json.dumps(CONFIG | {"partial_rotary_factor": 0.5}))
    (models / "none.gguf").write_text("nothing")
    for model, line in [
        ("bases.json", "no rotary embedding settings found in bases.json; it looks like a base-set file"),
        ("part.json", "part.json: it rotates only part of each head (partial_rotary_factor 0.5): give --heads and"),
        ("none.gguf", "none.gguf is no .gguf file, or is cut off"),
        ("gone.gguf", "gone.gguf does not exist: --model-config must be a model's folder"),
    ]:
        code, out, err = run("search", *UNIFORM, "--model-config", model)
        assert (code, out) == (2, "")
        assert err.startswith(f"Error: {line}")
        assert err.count("\n") == 1


def test_the_header_of_a_gguf_file_is_what_the_package_gguf_reads(tmp_path):
    from gguf import GGUFReader

    from ropesearch.core.gguf_header import read_header

    file = tmp_path / "model.gguf"
    save_gguf(toy("llama-multi-head"), file)
    header, reader = read_header(file), GGUFReader(file)
    assert header.tensors == tuple(tensor.name for tensor in reader.tensors)
    own = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert header.fields == {name: value for name, value in own.items() if not isinstance(value, list)}
    content = file.read_bytes()
    for end in range(0, 400, 7):
        file.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"model.gguf is no .gguf file, or is cut off"):
            read_header(file)
