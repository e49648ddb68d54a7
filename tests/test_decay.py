"""The decay file, and the order of bases by measured slope."""

import json
from dataclasses import fields, replace

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
    with np.load(tmp_path / "decay.npz") as arrays:
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
    (tmp_path / "decay.npz").touch()
    with pytest.raises(FileExistsError, match=r"decay\.npz exists already"):
        decay.save(path)
    assert not path.exists()
    decay.save(path, overwrite=True)
    Decay.load(path)
    with pytest.raises(InputError, match=r"must be one of \.json, not '\.npz'"):
        decay.save(tmp_path / "decay.npz")


def test_where_the_second_file_cannot_be_written_the_first_does_not_stay(tmp_path, monkeypatch):
    write = file.write_whole

    def full(path, content, **options):
        if str(path).endswith(".json"):
            raise OSError(28, "No space left on device")
        write(path, content, **options)

    monkeypatch.setattr(file, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        made_decay().save(tmp_path / "decay.json")
    assert list(tmp_path.iterdir()) == []


def changed(key, value):
    def change(content):
        content[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("format", "ropesearch.base-set"), "its format must be 'ropesearch.decay', not 'ropesearch.base-set'"),
        (changed("version", 2), "it is of version 2, and this ropesearch reads up to version 1"),
        (changed("version", None), "version must be an integer of at least 1, not None"),
        (lambda content: content.pop("layers"), "it has no key 'layers'"),
        (changed("arrays", {}), "it names no file of arrays: it was printed, not saved"),
        (
            changed("arrays", {"file": "gone.npz", "sha256": ""}),
            "the file of its arrays, gone.npz, cannot be read: ",
        ),
        (
            changed("arrays", {"file": "decay.npz", "sha256": ""}),
            "decay.npz beside it is not the file that was",
        ),
        (
            changed("layers", [1]),
            "its values do not fit together: coefficients has shape (2, 6, 8)",
        ),
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
    with pytest.raises(InputError, match=r"^[^\n]*decay\.json is not a decay file that can be used: ") as error:
        Decay.load(path)
    assert message in str(error.value)


def test_texts_that_are_no_decay_files(tmp_path):
    path = tmp_path / "decay.json"
    for text in ("", "[]", "{", "\x00", "[" * 100000):
        path.write_text(text)
        with pytest.raises(InputError, match="is not a decay file that can be used"):
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
        (["--order-by", "config.json"], "config.json is not a decay file that can be used: its format must be"),
        (["--order-by", "decay.json", "--order", "ascending"], "--order and --order-by exclude each other"),
    ]:
        code, out, err = run("search", *GRID, *SHAPE, *arguments)
        assert (code, out) == (2, "")
        assert message in err
