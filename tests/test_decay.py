"""The decay file, and the order of bases by measured slope."""

import io
import json
import os
import pickle
import signal
import sys
import warnings
import zipfile
from dataclasses import fields, replace
from hashlib import sha256

import numpy as np
import pytest

from ropesearch import BaseSet, Decay, order_by_decay, search_bases
from ropesearch.core.errors import InputError
from ropesearch.core.model_config import ModelConfig
from ropesearch.core.rope import inv_freq
from ropesearch.decay import file
from ropesearch.decay.order import check_order

LAYERS, HEADS, KV_HEADS, HEAD_DIM, LAST = 2, 6, 3, 16, 64
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 5,
    "hidden_size": 96,
    "vocab_size": 100,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "rope_theta": 10000.0,
}
SLOPES = np.array([[-1.0, -2.0, -5.0, -1.0, 0.5, 0.0], [-1.0, -2.0, -1.0, -4.0, 0.5, -1.0]])  # KV heads: -1.5 -2.75 0


def made_decay(slopes=SLOPES, **more):
    """A decay whose scores are straight lines over log10 m."""
    rng = np.random.default_rng(0)
    shape = (LAYERS, HEADS, LAST + 1)
    log_m = np.log10(np.maximum(np.arange(LAST + 1), 1))
    score = (slopes[..., None] * log_m).astype(np.float32)
    return Decay(
        model={"name": "a toy", **ModelConfig.of(CONFIG).identity(), "bases": None},
        texts=({"name": "a", "tokens": 200, "from": 0}, {"name": "b", "tokens": 300, "from": 0}),
        length=2 * LAST,
        layers=(1, 4),
        inv_freq=np.tile(inv_freq(10000.0, HEAD_DIM), (KV_HEADS, 1)),
        coefficients=rng.normal(size=(LAYERS, HEADS, HEAD_DIM // 2)) + 0j,
        pairs=np.arange(2 * LAST, LAST - 1, -1),
        score=score,
        standard_error=rng.random(shape, np.float32),
        parts=np.stack([score, score + rng.random(shape, np.float32)]),
        agreement_to=LAST,
        made_by={"ropesearch": "0"},
        **more,
    )


def base_set(bases=(3e4, 1e4, 2e4), heads=HEADS, **more):
    return BaseSet(heads, len(bases), HEAD_DIM, bases, tuple(sorted(bases)), "by hand", **more)


def everything():
    curves = np.random.default_rng(1).random((2, LAYERS, HEADS, LAST + 1), np.float32)
    sink_mass = np.full((LAYERS, HEADS), 0.5, np.float32)
    return made_decay(bases=(3e4, 1e4, 2e4), verified=curves[0], mass=curves[1], sink_mass=sink_mass)


@pytest.mark.parametrize("decay", [made_decay(), everything()], ids=["least", "all"])
def test_a_file_comes_back_as_it_was(decay, tmp_path):
    decay.save(tmp_path / "decay.json")
    again = Decay.load(tmp_path / "decay.json")
    for field in fields(decay):
        value = getattr(decay, field.name)
        np.testing.assert_array_equal(value, getattr(again, field.name), err_msg=field.name)
    assert again.figures.keys() == decay.figures.keys()
    content = json.loads((tmp_path / "decay.json").read_text())
    rows = content["heads"]
    assert [(row["layer"], row["head"], row["kv_head"]) for row in rows[5:8]] == [(1, 5, 2), (4, 0, 0), (4, 1, 0)]
    for row, slope in zip(rows, SLOPES.ravel(), strict=True):
        assert abs(row["slope"] - slope) < 1e-6
    assert content["summary"].keys() == decay.figures.keys()
    assert {path.name for path in tmp_path.iterdir()} == {"decay.json", content["arrays"]["file"]}
    with np.load(tmp_path / content["arrays"]["file"]) as arrays:
        np.testing.assert_array_equal(arrays["curve"], decay.curve)
        assert ("prediction" in arrays) == (decay.bases is not None)
        assert arrays["distances"].tolist() == list(range(LAST + 1))


def test_a_decay_is_equal_to_itself_alone(tmp_path):
    decay = everything()
    decay.save(tmp_path / "decay.json")
    again = Decay.load(tmp_path / "decay.json")
    assert decay == decay
    assert decay != again
    assert {decay: "key"} == {decay: "key"}
    assert len({decay, again}) == 2


def test_files_are_not_replaced_unless_asked(tmp_path):
    decay, path = made_decay(), tmp_path / "decay.json"
    (tmp_path / "decay.npz").touch()  # another's
    arrays = decay.save(path)
    with pytest.raises(FileExistsError, match=r"decay\.json already exists"):
        everything().save(path)
    assert Decay.load(path).bases is None
    assert everything().save(path, overwrite=True) != arrays
    assert Decay.load(path).bases is not None
    assert decay.save(path, overwrite=True) == decay.save(path, overwrite=True) == arrays
    assert {file.name for file in tmp_path.iterdir()} == {"decay.json", "decay.npz", arrays.name}
    with pytest.raises(InputError, match=r"must be one of \.json, not '\.npz'"):
        decay.save(tmp_path / "decay.npz")


def test_a_pair_written_by_an_older_version_is_read_and_replaced(tmp_path):
    path = tmp_path / "decay.json"
    arrays = made_decay().save(path)
    path.write_text(path.read_text().replace(arrays.name, "decay.npz"))
    arrays.rename(tmp_path / "decay.npz")
    assert Decay.load(path).bases is None
    new = everything().save(path, overwrite=True)
    assert {file.name for file in tmp_path.iterdir()} == {"decay.json", new.name}


def test_a_decay_file_names_no_file_of_others_for_removal(tmp_path):
    path = tmp_path / "decay.json"
    arrays = made_decay().save(path)
    (tmp_path / "other.npz").write_bytes(arrays.read_bytes())
    path.write_text(path.read_text().replace(arrays.name, "decay./../other.npz"))
    everything().save(path, overwrite=True)
    assert (tmp_path / "other.npz").exists()


@pytest.mark.parametrize("before", [False, True])
def test_where_the_second_file_cannot_be_written_the_old_pair_stays(tmp_path, monkeypatch, before):
    write = file.write_whole
    if before:
        made_decay().save(tmp_path / "decay.json")
    names = sorted(tmp_path.iterdir())

    def full(path, content, **options):
        if str(path).endswith(".json"):
            raise OSError(28, "No space left on device")
        write(path, content, **options)

    monkeypatch.setattr(file, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        everything().save(tmp_path / "decay.json", overwrite=True)
    assert sorted(tmp_path.iterdir()) == names
    if before:
        assert Decay.load(tmp_path / "decay.json").bases is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_anywhere_while_it_is_replaced_a_decay_is_the_old_one_or_the_new(tmp_path):
    path, old, new = tmp_path / "decay.json", made_decay(), everything()
    for decay in (old, new):
        decay.to_json()  # computes its curves, once for all
    found = []
    for n in range(1, 100):
        old.save(path, overwrite=True)
        with warnings.catch_warnings(action="ignore"):  # of forks and threads
            child = os.fork()
        if child == 0:

            def killed_at(event, args, left=[n], folder=str(tmp_path)):  # noqa: B006  (its own, of one child)
                if event in ("open", "os.link", "os.rename", "os.remove") and str(args[0]).startswith(folder):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(killed_at)
            new.save(path, overwrite=True)
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        found.append(Decay.load(path).bases is not None)
        if not killed:
            break
    assert not killed
    assert len(found) > 10
    assert found == sorted(found)  # from some step on it is the new one
    assert {found[0], found[-2], found[-1]} == {False, True}
    old.save(path, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 2  # what the kills left is gone


def changed(key, value):
    def change(content):
        content[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("format", "ropesearch.base-set"), "its format must be 'ropesearch.decay', not 'ropesearch.base-set'"),
        (changed("version", 3), "it has version 3, but this ropesearch reads versions up to 2"),
        (changed("version", None), "version must be an integer of at least 1, not None"),
        (lambda content: content.pop("layers"), "it has no key 'layers'"),
        (changed("arrays", {}), "it names no file of arrays: it was printed, not saved"),
        (
            changed("arrays", {"file": "gone.npz", "sha256": ""}),
            "the file of its arrays, gone.npz, cannot be read: ",
        ),
        (
            lambda content: content["arrays"].update(sha256=""),
            ".npz beside it is not the file that was",
        ),
        (changed("arrays", {"file": "/dev/zero", "sha256": ""}), "the file of its arrays, zero, cannot be read: "),
        (changed("arrays", {"file": "a\0b", "sha256": ""}), "the file of its arrays, a\\x00b, cannot be read: "),
        (changed("arrays", {"file": "..", "sha256": ""}), "the file of its arrays, .., cannot be read: Is a directory"),
        (changed("arrays", [1]), "it names no file of arrays"),
        (changed("texts", []), "texts must be a list of objects, not []"),
        (changed("texts", [1]), "texts must be a list of objects, not [1]"),
        (changed("layers", [4, 1]), "layers must be in ascending order, each once, not [4, 1]"),
        (changed("layers", [1, "x"]), "every layer must be an integer of at least 0, not 'x'"),
        (changed("length", 10**12), "length must be at most 2147483647, not 1000000000000"),
        (changed("length", 129.0), "length must be an integer of at least 8, not 129"),
        (changed("length", 130), "pairs has shape (65,), not (66,)"),
        (changed("agreement_to", 0), "agreement_to must be an integer of at least 1, not 0"),
        (changed("agreement_to", 65), "agreement_to must be at most 64, not 65"),
        (changed("bases", [2.0]), "bases must be one per KV head: 3, not [2.0]"),
        (changed("bases", [2.0, 3.0, "4"]), "every one of bases must be a finite number above 1, not '4'"),
        (changed("made_by", []), "made_by must be an object, not []"),
        (lambda content: content["model"].update(heads=0), "heads must be an integer of at least 1, not 0"),
        (lambda content: content["model"].update(heads=7), "kv_heads must be a divisor of the 7 heads, not 3"),
        (lambda content: content["model"].update(head_dim=10**9), "head_dim must be at most 8192"),
        (lambda content: content["model"].update(name=None), "name must be the name of the model, not None"),
        (
            changed("layers", [1]),
            "its values do not fit together: coefficients has shape (2, 6, 8)",
        ),
        (
            lambda content: content["model"].update(num_hidden_layers=2),
            "num_hidden_layers must be an integer of at least",
        ),
        (lambda content: content["model"].update(num_hidden_layers="5"), "num_hidden_layers must be an integer of at "),
        (lambda content: content["model"].update(num_hidden_layers=10**9), "num_hidden_layers must be at most 10000"),
        (changed("bases", [[2.0] * 3] * 4), "it has bases for 4 layers of 5"),
        (changed("model", {}), "its values do not fit together: 'heads'"),
        (changed("layers", 1), "its values do not fit together"),
    ],
)
def test_files_that_cannot_be_used(change, message, tmp_path):
    path = tmp_path / "decay.json"
    made_decay().save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"^[^\n]*decay\.json is not a usable decay file: ") as error:
        Decay.load(path)
    assert message in str(error.value)


def npy(values, version=(1, 0)):
    made = io.BytesIO()
    np.lib.format.write_array(made, values, version=version, allow_pickle=True)
    return made.getvalue()


def with_array(path, name, content, **options):
    """Replace one member of the file of arrays, and make the digest fit."""
    content = npy(content) if isinstance(content, np.ndarray) else content
    said = json.loads(path.read_text())
    arrays = path.with_name(said["arrays"]["file"])
    packed = io.BytesIO()
    with zipfile.ZipFile(arrays) as old, zipfile.ZipFile(packed, "w", **options) as new:
        for member in old.namelist():
            if member != f"{name}.npy":
                new.writestr(member, old.read(member))
        if content is not None:
            new.writestr(f"{name}.npy", content)
    with_packed(path, packed.getvalue())


def with_packed(path, packed):
    said = json.loads(path.read_text())
    path.with_name(said["arrays"]["file"]).write_bytes(packed)
    said["arrays"]["sha256"] = sha256(packed).hexdigest()
    path.write_text(json.dumps(said))


class Planted:
    def __reduce__(self):
        return (os.mkdir, ("code-ran",))


CURVES = (LAYERS, HEADS, LAST + 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("score", None, "its arrays cannot be read: \"There is no item named 'score.npy' in the archive\""),
        ("score", b"", "its arrays cannot be read: "),
        ("score", npy(np.zeros(CURVES, np.float32))[:-1], "score has not the size that its shape requires"),
        ("score", npy(np.zeros(CURVES, np.float32))[:9], "its arrays cannot be read: "),
        ("score", npy(np.zeros(CURVES, np.float32), version=(2, 0)), "score is of another version of .npy"),
        ("score", npy(np.zeros((1, 1), np.float32)).replace(b"(1, 1)", b"1" * 40), "its arrays cannot be read: "),
        ("score", np.zeros(CURVES), "score has type 'float64', not float32"),
        ("score", np.zeros(CURVES, ">f4"), "score has type '>f4', not float32"),
        ("score", np.zeros((1, 1), np.float32), "score has shape (1, 1), not (2, 6, 65)"),
        ("score", np.full(CURVES, np.inf, np.float32), "score has values that no model gives"),
        ("inv_freq", np.full((KV_HEADS, 8), np.nan), "inv_freq has values that no model gives"),
        ("pairs", np.full(LAST + 1, Planted(), object), "pairs has type 'object', not int64"),
        ("pairs", pickle.dumps(Planted()), "its arrays cannot be read: "),
        ("mass", np.zeros(CURVES, np.float32), "of mass and sink_mass it has only one"),
        ("verified", np.zeros(CURVES, np.float32), "it has curves verified with bases, and no bases"),
    ],
)
def test_arrays_that_cannot_be_used(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "decay.json"
    made_decay().save(path)
    with_array(path, name, content)
    with pytest.raises(InputError, match=r"^[^\n]*decay\.json is not a usable decay file: ") as error:
        Decay.load(path)
    assert message in str(error.value)
    assert not os.path.exists("code-ran")


def test_archives_that_cannot_be_used(tmp_path):
    path = tmp_path / "decay.json"
    arrays = made_decay().save(path)
    packed = arrays.read_bytes()
    for wrong in (b"", b"PK", packed[:-30], packed[: len(packed) // 2], packed[:40] + b"x" * 40 + packed[80:]):
        with_packed(path, wrong)
        with pytest.raises(InputError, match="is not a usable decay file: its arrays cannot be read: "):
            Decay.load(path)
    with_packed(path, packed)
    with_array(path, "score", np.zeros(CURVES, np.float32), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="is compressed"):  # it could unfold without end
        Decay.load(path)


def test_texts_that_are_no_decay_files(tmp_path):
    path = tmp_path / "decay.json"
    for text in ("", "[]", "{", "\x00", "[" * 100000):
        path.write_text(text)
        with pytest.raises(InputError, match="is not a usable decay file"):
            Decay.load(path)
    with pytest.raises(FileNotFoundError):
        Decay.load(tmp_path / "none.json")


def test_the_curve_of_a_real_coefficient_is_a_sum_of_cosines():
    decay, m = made_decay(), np.arange(LAST + 1)
    for bases, curves in ((None, decay.curve), ((20.0, 300.0, 4e5), decay.predict((20.0, 300.0, 4e5)))):
        for layer in range(LAYERS):
            for head in range(HEADS):
                theta = inv_freq(bases[head // 2] if bases else 10000.0, HEAD_DIM)
                expected = np.cos(m[:, None] * theta) @ decay.coefficients[layer, head].real / 4
                np.testing.assert_allclose(curves[layer, head], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(decay.predict(base_set()), decay.predict((3e4, 1e4, 2e4)))
    with pytest.raises(InputError, match="one per KV head: 3"):
        decay.predict([1e4])


def test_bases_of_layers_need_the_number_of_layers(tmp_path):
    """Every file that was measured has it; one made by hand may not, and does for bases of all layers."""
    decay, path = made_decay(), tmp_path / "decay.json"
    model = {key: value for key, value in decay.model.items() if key != "num_hidden_layers"}
    replace(decay, model=model).save(path)
    without, rows = Decay.load(path), [[3e4, 1e4, 2e4]] * 5
    np.testing.assert_array_equal(without.predict(rows[0]), decay.predict(rows))
    line = "num_hidden_layers of the decay must be an integer of at least 5, not "
    with pytest.raises(InputError, match=f"{line}None"):
        without.predict(rows)
    with pytest.raises(InputError, match=f"{line}2"):
        replace(decay, model={**model, "num_hidden_layers": 2}).predict(rows[:2])
    with pytest.raises(InputError, match=f"{line}None"):
        order_by_decay(base_set(), without, by_layer=True)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"version": 2, "bases": rows}))
    with pytest.raises(InputError, match="it has bases for 5 layers of None"):
        Decay.load(path)


def test_the_smallest_base_goes_to_the_steepest_kv_head():
    decay = made_decay()
    np.testing.assert_allclose(decay.kv_head_slopes(), [-1.5, -2.75, 0], atol=1e-6)
    figures = {"valleys_on_peaks": [0.3, 0.1, 0.2], "floor": 0.5}
    given = base_set(coverage_figures=figures, parameters={"order": "ascending", "bmin": 1e4})
    ordered = order_by_decay(given, decay, CONFIG)
    assert ordered.bases == (2e4, 1e4, 3e4)
    assert ordered.selection == given.selection
    assert ordered.coverage_figures == {"valleys_on_peaks": [0.2, 0.1, 0.3], "floor": 0.5}
    assert ordered.parameters["order"] == "measured"
    assert ordered.parameters["bmin"] == 1e4
    assert ordered.parameters["order_by"]["layers"] == [1, 4]
    assert BaseSet.from_json(ordered.to_json()) == ordered


def test_equal_slopes_and_equal_bases():
    decay = made_decay(np.zeros((LAYERS, HEADS)))
    assert order_by_decay(base_set(), decay).bases == (1e4, 2e4, 3e4)
    assert order_by_decay(base_set((3e4, 1e4, 1e4)), made_decay()).bases == (1e4, 1e4, 3e4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", 101),
        ("num_hidden_layers", 6),
        ("hidden_size", 128),
        ("rope_theta", 5e5),
        ("model_type", "mistral"),
    ],
)
def test_a_decay_of_another_model_orders_nothing(key, value):
    with pytest.raises(InputError, match="the decay is of another model: a toy has "):
        order_by_decay(base_set(), made_decay(), CONFIG | {key: value})
    nothing = {name: v for name, v in CONFIG.items() if name not in (key, "model_type")}  # as far as it is known
    check_order(made_decay(), nothing | {"model_type": "llama"})


def test_other_heads_or_a_model_with_bases_order_nothing():
    message = (
        "the bases are for 3 heads, 3 KV heads and head_dim 16; the decay was measured on a toy, which has 6 heads"
    )
    with pytest.raises(InputError, match=message):
        order_by_decay(base_set(heads=3), made_decay())
    decay = made_decay()
    with pytest.raises(InputError, match="which carries bases already"):
        order_by_decay(base_set(), replace(decay, model={**decay.model, "model_type": "harpe_llama"}))
    with pytest.raises(InputError, match="without a slope"):
        order_by_decay(base_set(), made_decay(np.full((LAYERS, HEADS), np.nan)))


GRID = ["--bmin", "10000", "--bmax", "30000", "--stride", "1000"]
SHAPE = ["--heads", "6", "--kv-heads", "3", "--head-dim", "16", "--max-distance", "3000"]


@pytest.fixture
def run(run, tmp_path):
    """The same, with decay.json and config.json in the folder."""
    made_decay().save(tmp_path / "decay.json")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return run


def test_search_orders_by_a_decay_file(run):
    code, out, err = run("search", *GRID, *SHAPE, "--order-by", "decay.json", "--coverage", "-o", "bases.json")
    assert (code, err) == (0, "wrote bases.json\n")
    assert "beyond the paper" in " ".join(out.split())
    found = BaseSet.load("bases.json")
    expected = search_bases(10000, 30000, 1000, 6, kv_heads=3, head_dim=16, max_distance=3000)
    assert found.bases == order_by_decay(expected, made_decay()).bases != expected.bases
    assert found.coverage_figures == found.with_coverage(3000).coverage_figures
    command = found.made_by["command"].split()
    assert command[-2:] == ["--order-by", "decay.json"]
    assert BaseSet.from_json(run(*command[1:], "--json")[1]).bases == found.bases
    of_model = ["--model-config", "config.json", "--max-distance", "3000", "--order-by", "decay.json", "--json"]
    assert BaseSet.from_json(run("search", *GRID, *of_model)[1]).bases == found.bases
    assert "beyond the paper" in " ".join(run("show", "bases.json")[1].split())


def test_an_order_that_may_be_one_of_chance_is_said_to_be(run):
    made_decay(SLOPES + np.array([[-3.0], [3.0]])).save("decay.json", overwrite=True)
    err = run("search", *GRID, *SHAPE, "--order-by", "decay.json")[2]
    assert err == (
        "note: the slopes of the KV heads are at most 2.75 apart, and their standard error between layers is 3.25: "
        "the order may be due to chance\n"
    )
    assert run("search", *GRID, *SHAPE, "--order-by", "decay.json", "--quiet")[2] == ""


def test_a_decay_file_of_another_model_is_refused(run, tmp_path):
    code, out, err = run("search", *GRID, "--heads", "8", "--order-by", "decay.json", "-o", "bases.json")
    assert (code, out) == (2, "")
    assert "the bases are for 8 heads, 8 KV heads and head_dim 128; the decay was measured on a toy" in err
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 7}))
    options = [
        "--model-config",
        "config.json",
        "--max-distance",
        "3000",
        "--order-by",
        "decay.json",
        "-o",
        "bases.json",
    ]
    code, out, err = run("search", *GRID, *options)
    assert (code, out) == (2, "")
    assert "the decay is of another model: a toy has vocab_size 100, this one has 7" in err
    assert not (tmp_path / "bases.json").exists()


def test_what_order_by_refuses(run):
    for arguments, message in [
        (["--order-by", "none.json"], "none.json cannot be read: No such file"),
        (["--order-by", "config.json"], "config.json is not a usable decay file: its format must be"),
        (["--order-by", "decay.json", "--order", "ascending"], "--order and --order-by exclude each other"),
    ]:
        code, out, err = run("search", *GRID, *SHAPE, *arguments)
        assert (code, out) == (2, "")
        assert message in err
