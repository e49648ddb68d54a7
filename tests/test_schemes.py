import dataclasses
import json
import math

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropesearch import PRESETS, Scheme, parse_scheme, search_bases, uniform_bases, waveform
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.presets import TABLE_2
from ropesearch.schemes.grammar import SCHEMES

# The texts of the design that need no file.
TEXTS = [
    "rope:10000",
    "pi:32",
    "abf:5e6",
    "abf-multi-stage",
    "ntk:32",
    "dynamic:32",
    "ntk-by-parts:32",
    "yarn:32",
    "llama3:8",
    "self-extend:1024,group=32",
    "uniform",
    "uniform-descending",
    "table2",
    "ms-poe",
]


# Agreement with transformers, which computes in float32: 1e-6 is some ten of its roundings.


def theirs(rope_parameters, *, head_dim, base, longest=4096, length=None, **others):
    """Frequencies and attention factor by the rule of transformers."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=longest,
        rope_parameters={"rope_theta": base, **rope_parameters},
        **others,
    )
    if rope_parameters["rope_type"] == "default":
        frequencies, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        frequencies, factor = ROPE_INIT_FUNCTIONS[rope_parameters["rope_type"]](config, None, seq_len=length)
    return frequencies.double().numpy(), factor


def assert_same_rule(scheme, expected, length=None):
    frequencies, factor = expected
    np.testing.assert_allclose(scheme.inv_freq(length), frequencies[np.newaxis], rtol=1e-6, atol=0)
    assert scheme.attention_factor(length) == pytest.approx(factor, rel=1e-6)


SHAPES = [(64, 10000.0), (96, 10000.0), (128, 10000.0), (128, 500000.0), (64, 5e6)]


@pytest.mark.parametrize(("head_dim", "base"), SHAPES)
def test_rope_is_the_default_of_transformers(head_dim, base):
    expected = theirs({"rope_type": "default"}, head_dim=head_dim, base=base)
    assert_same_rule(parse_scheme(f"rope:{base},head_dim={head_dim}"), expected)
    assert_same_rule(parse_scheme(f"abf:{base},head_dim={head_dim}"), expected)


@pytest.mark.parametrize(("head_dim", "base"), SHAPES)
@pytest.mark.parametrize("factor", [1.0, 2.5, 32.0])
def test_pi_is_linear_of_transformers(head_dim, base, factor):
    expected = theirs({"rope_type": "linear", "factor": factor}, head_dim=head_dim, base=base)
    assert_same_rule(parse_scheme(f"pi:{factor},base={base},head_dim={head_dim}"), expected)


@pytest.mark.parametrize(("head_dim", "base"), SHAPES)
@pytest.mark.parametrize("factor", [1.0, 2.5, 32.0])
@pytest.mark.parametrize("original", [2048, 4096])
@pytest.mark.parametrize("length", [1, 2048, 4097, 10001, 131072])
def test_dynamic_is_that_of_transformers(head_dim, base, factor, original, length):
    expected = theirs(
        {"rope_type": "dynamic", "factor": factor}, head_dim=head_dim, base=base, longest=original, length=length
    )
    scheme = parse_scheme(f"dynamic:{factor},base={base},head_dim={head_dim},original={original}")
    assert_same_rule(scheme, expected, length)


@pytest.mark.parametrize(("head_dim", "base"), SHAPES)
@pytest.mark.parametrize("factor", [1.0, 2.5, 32.0])
@pytest.mark.parametrize("original", [4, 200, 4096, 32768])
def test_yarn_is_that_of_transformers(head_dim, base, factor, original):
    expected = theirs(
        {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original},
        head_dim=head_dim,
        base=base,
    )
    options = f"{factor},base={base},head_dim={head_dim},original={original}"
    assert_same_rule(parse_scheme(f"yarn:{options}"), expected)
    assert_same_rule(parse_scheme(f"ntk-by-parts:{options}"), (expected[0], 1.0))


# Both ends of the ramp fall on frequency 0; one end lies beyond the last frequency.
@pytest.mark.parametrize(("original", "base"), [(6, 10000.0), (32768, 10.0)])
def test_yarn_at_the_ends_of_its_ramp(original, base):
    expected = theirs(
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": original}, head_dim=64, base=base
    )
    assert_same_rule(parse_scheme(f"yarn:4,head_dim=64,original={original},base={base}"), expected)


def test_yarn_has_frequencies_where_its_ramp_is_beyond_64_bits():
    # The rule of transformers ends in an OverflowError here.
    frequencies = parse_scheme(f"yarn:4,head_dim=4096,original=500000000,base={1 + 2**-52!r}").inv_freq()
    assert np.all((frequencies >= 0.25 * (1 - 1e-12)) & (frequencies <= 1))


@pytest.mark.parametrize(("head_dim", "base"), SHAPES)
@pytest.mark.parametrize("factor", [1.0, 8.0, 32.0])
@pytest.mark.parametrize(("original", "low", "high"), [(4096, 1.0, 4.0), (8192, 1.0, 4.0), (8192, 0.5, 9.0)])
def test_llama3_is_that_of_transformers(head_dim, base, factor, original, low, high):
    rule = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    expected = theirs(
        {"rope_type": "llama3", "original_max_position_embeddings": original, **rule}, head_dim=head_dim, base=base
    )
    options = f"base={base},head_dim={head_dim},original={original},low_freq_factor={low},high_freq_factor={high}"
    assert_same_rule(parse_scheme(f"llama3:{factor},{options}"), expected)


def long_rope_config(head_dim, rule, **others):
    divisors = {
        "short_factor": [1 + i / 100 for i in range(head_dim // 2)],
        "long_factor": [1 + i / 2 for i in range(head_dim // 2)],
    }
    return {
        "model_type": "phi3",
        "hidden_size": 4 * head_dim,
        "num_attention_heads": 4,
        "max_position_embeddings": 131072,
        "rope_scaling": {"rope_type": "longrope", **divisors, **rule},
        **others,
    }


@pytest.mark.parametrize("head_dim", [64, 96, 128])
@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize("length", [1, 4096, 4097, 131072])
@pytest.mark.parametrize(
    "rule",
    [{}, {"factor": 8.0}, {"factor": 1.0}, {"attention_factor": 1.25}, {"factor": 8.0, "attention_factor": 1.25}],
    ids=str,
)
def test_longrope_is_that_of_transformers(tmp_path, head_dim, base, length, rule):
    config = long_rope_config(head_dim, {"original_max_position_embeddings": 4096, **rule}, rope_theta=base)
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = theirs(config["rope_scaling"], head_dim=head_dim, base=base, longest=131072, length=length)
    assert_same_rule(parse_scheme(f"longrope:{tmp_path}"), expected, length)


def test_longrope_reads_what_phi_3_writes(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    written = long_rope_config(64, {})
    config = transformers.Phi3Config(
        hidden_size=256,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        original_max_position_embeddings=2048,
        rope_parameters={"rope_theta": 20000.0, **written["rope_scaling"]},
        pad_token_id=0,
    )
    config.save_pretrained(tmp_path)
    scheme = parse_scheme(f"longrope:{tmp_path / 'config.json'}")
    assert (scheme.head_dim, scheme.original, scheme.bases) == (64, 2048, (20000.0,))
    for length in (2048, 2049):
        frequencies, factor = ROPE_INIT_FUNCTIONS["longrope"](config, None, seq_len=length)
        assert_same_rule(scheme, (frequencies.double().numpy(), factor), length)
    np.testing.assert_array_equal(scheme.inv_freq(), scheme.inv_freq(32768))


def test_longrope_with_an_attention_factor_for_each_range(tmp_path):
    rule = {"original_max_position_embeddings": 4096, "short_mscale": 1.1, "long_mscale": 1.3}
    (tmp_path / "config.json").write_text(json.dumps(long_rope_config(64, rule)))
    scheme = parse_scheme(f"longrope:{tmp_path}")
    assert [scheme.attention_factor(length) for length in (4096, 4097, None)] == [1.1, 1.3, 1.3]


# The schemes that transformers does not have.


def test_ntk_divides_the_lowest_frequency_by_the_factor():
    for factor, head_dim in ((32, 128), (2.5, 64), (8, 4)):
        plain = parse_scheme(f"rope:10000,head_dim={head_dim}").inv_freq()
        ntk = parse_scheme(f"ntk:{factor},head_dim={head_dim}").inv_freq()
        assert ntk[0, 0] == 1
        assert ntk[0, -1] == pytest.approx(plain[0, -1] / factor, rel=1e-12)
        np.testing.assert_allclose(ntk[0], naive.inv_freq(10000 * factor ** (head_dim / (head_dim - 2)), head_dim))


@pytest.mark.parametrize(
    ("text", "base"),
    [("abf-multi-stage:1", 1e6), ("abf-multi-stage:2", 2e6), ("abf-multi-stage:3", 5e6), ("abf-multi-stage", 5e6)],
)
def test_multi_stage_abf_has_the_base_of_the_stage(text, base):
    assert parse_scheme(text).bases == (base,)
    np.testing.assert_array_equal(parse_scheme(text).inv_freq(), parse_scheme(f"abf:{base}").inv_freq())


def test_sets_of_bases_have_a_row_per_base():
    assert list(search_bases(**PRESETS["table2"])) == list(TABLE_2)
    uniform = uniform_bases(1e6, 5e6, 32)
    descending = uniform_bases(1e6, 5e6, 32, order="descending")
    for text, bases in (("table2", TABLE_2), ("uniform", uniform), ("uniform-descending", descending)):
        scheme = parse_scheme(f"{text},head_dim=64")
        assert scheme.bases == tuple(bases)
        np.testing.assert_array_equal(scheme.inv_freq(), [naive.inv_freq(base, 64) for base in bases])


def test_harpe_has_a_row_per_kv_head(tmp_path):
    base_set = uniform_bases(1e6, 5e6, 8, kv_heads=4, head_dim=64, order="descending")
    base_set.save(tmp_path / "set.json")
    scheme = parse_scheme(f"harpe:{tmp_path}/set.json,original=8192")
    assert (scheme.head_dim, scheme.original, scheme.bases) == (64, 8192, base_set.bases)
    np.testing.assert_array_equal(scheme.inv_freq(), base_set.inv_freq())
    for row, base in zip(scheme.waveforms(500), base_set, strict=True):
        np.testing.assert_array_equal(row, waveform(base, 64, 500))


def test_only_dynamic_and_longrope_depend_on_the_length():
    for text in TEXTS:
        scheme = parse_scheme(text)
        changes = not np.array_equal(scheme.inv_freq(1), scheme.inv_freq(131072))
        assert changes == (text == "dynamic:32")
    dynamic = parse_scheme("dynamic:32")
    np.testing.assert_array_equal(dynamic.inv_freq(), dynamic.inv_freq(32 * 4096))
    np.testing.assert_array_equal(dynamic.inv_freq(4096), parse_scheme("rope:10000").inv_freq())
    assert not np.array_equal(dynamic.waveforms(100, length=4096), dynamic.waveforms(100))


# Self-Extend.


@given(m=st.integers(0, 400), window=st.integers(1, 200), group=st.integers(1, 40))
def test_self_extend_sees_the_distances_of_grouped_positions_and_no_others(m, window, group):
    scheme = parse_scheme(f"self-extend:{window},group={group}")
    seen = {int(scheme.distances(m)), int(scheme.distances(m, upper=True))}
    assert seen == naive.self_extend_distances(m, window, group)
    assert scheme.distances(m) == min(seen)


def test_distances_are_those_of_the_array():
    m = np.array([[0, 1023], [1024, 1025]], dtype=np.uint16)
    extend = parse_scheme("self-extend:1024,group=32")
    np.testing.assert_array_equal(extend.distances(m), [[0, 1023], [1024, 1024]])
    np.testing.assert_array_equal(extend.distances(m, upper=True), [[0, 1023], [1024, 1025]])
    assert extend.distances(m).dtype == np.int64
    np.testing.assert_array_equal(parse_scheme("yarn:32").distances(m, upper=True), m)


# Curves.


@pytest.mark.parametrize("text", [*TEXTS, "self-extend:20,group=7", "yarn:4,head_dim=64", "rope:100,head_dim=2"])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 300), (1020, 1100)])
@pytest.mark.parametrize("upper", [False, True])
def test_curves_equal_one_cosine_at_a_time(text, first, last, upper):
    scheme = parse_scheme(text)
    window = {"min_distance": first, "upper": upper}
    seen = [int(m) for m in scheme.distances(range(first, last + 1), upper=upper)]
    scale = scheme.attention_factor() ** 2
    waveforms, bounds = scheme.waveforms(last, **window), scheme.decay_bounds(last, **window)
    assert waveforms.shape == bounds.shape == (len(scheme.inv_freq()), last - first + 1)
    # The first and the last row stand for those between them.
    for row in (0, -1):
        theta = scheme.inv_freq()[row]
        np.testing.assert_allclose(waveforms[row], np.multiply(naive.waveform_of(theta, seen), scale), atol=1e-10)
        np.testing.assert_allclose(bounds[row], np.multiply(naive.decay_bound_of(theta, seen), scale), atol=1e-10)


def test_pi_is_the_waveform_at_positions_divided_by_the_factor():
    values = parse_scheme("pi:32").waveforms(2000)[0]
    frequencies = naive.inv_freq(10000, 128)
    direct = naive.waveform_of(frequencies, [m / 32 for m in range(2001)])
    np.testing.assert_allclose(values, direct, rtol=0, atol=1e-10)
    np.testing.assert_allclose(values[::32], waveform(10000, 128, 62), rtol=0, atol=1e-10)


def test_yarn_scales_the_scores_by_the_square_of_its_attention_factor():
    by_parts, yarn = parse_scheme("ntk-by-parts:32"), parse_scheme("yarn:32")
    np.testing.assert_array_equal(by_parts.inv_freq(), yarn.inv_freq())
    scale = (0.1 * math.log(32) + 1) ** 2
    np.testing.assert_allclose(yarn.waveforms(500), by_parts.waveforms(500) * scale, rtol=1e-14)
    np.testing.assert_allclose(yarn.decay_bounds(500), by_parts.decay_bounds(500) * scale, rtol=1e-14)


def test_self_extend_draws_the_waveform_at_the_distances_that_it_sees():
    plain = waveform(10000, 128, 5000)
    extend = parse_scheme("self-extend:1024,group=32")
    np.testing.assert_array_equal(extend.waveforms(5000)[0, :1024], plain[:1024])
    grouped = extend.waveforms(5000, upper=True)[0, 1024:]
    np.testing.assert_allclose(grouped, plain[extend.distances(range(1024, 5001), upper=True)], rtol=0, atol=1e-12)


def test_curves_that_cannot_fit_in_memory_say_how_much_they_need(monkeypatch):
    monkeypatch.setattr("ropesearch.core.machine.available_memory", lambda: 10**9)
    with pytest.raises(MemoryError, match=r"32 curves over 100000001 distances needs 30\.4 GB"):
        parse_scheme("table2").waveforms(10**8)


# The grammar.


@pytest.mark.parametrize("text", TEXTS)
def test_the_designs_texts_are_canonical(text):
    assert parse_scheme(text).name == text
    assert isinstance(parse_scheme(text), Scheme)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("  yarn : 32 , original = 4096 ", "yarn:32"),
        ("yarn:32,original=8192,head_dim=128", "yarn:32,original=8192"),
        ("yarn:32.0,head_dim=64,base=5e5,original=8192", "yarn:32,original=8192,base=500000,head_dim=64"),
        ("rope:500000.5", "rope:500000.5"),
        ("rope:1e4", "rope:10000"),
        ("abf:4990000", "abf:4.99e6"),
        ("abf:1234567.25", "abf:1234567.25"),
        ("abf-multi-stage:3", "abf-multi-stage"),
        ("abf-multi-stage:,head_dim=64", "abf-multi-stage,head_dim=64"),
        ("llama3:8,high_freq_factor=4,low_freq_factor=0.5", "llama3:8,low_freq_factor=0.5"),
        ("self-extend:1024,base=5e6,group=1", "self-extend:1024,group=1,base=5e6"),
        ("table2,original=1e6", "table2,original=1e6"),
    ],
)
def test_round_trips(text, name):
    scheme = parse_scheme(text)
    assert scheme.name == name
    assert parse_scheme(scheme.name) == scheme
    assert hash(parse_scheme(scheme.name)) == hash(scheme)


@given(base=st.floats(1, 1e300, exclude_min=True), factor=st.floats(1, 1e5))
def test_numbers_round_trip(base, factor):
    scheme = parse_scheme(f"pi:{factor!r},base={base!r}")
    assert scheme.bases == (base,)
    assert scheme.factor == factor
    assert parse_scheme(scheme.name) == scheme


def test_files_round_trip_even_with_commas_in_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a, b").mkdir()
    uniform_bases(1e6, 5e6, 2).save("a, b/c:d.json")
    (tmp_path / "a, b" / "config.json").write_text(json.dumps(long_rope_config(64, {"factor": 2.0})))
    for text in ("harpe:a, b/c:d.json", "harpe:a, b/c:d.json,original=8192", "longrope:a, b"):
        scheme = parse_scheme(text)
        assert scheme.name == text
        assert parse_scheme(text) == scheme


def test_options_reach_the_scheme():
    scheme = parse_scheme("ntk-by-parts:4,original=8192,base=5e5,head_dim=64")
    assert (scheme.head_dim, scheme.original, scheme.bases) == (64, 8192, (5e5,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        scheme.original = 1


def test_every_kind_has_a_description_and_an_example_that_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uniform_bases(1e6, 5e6, 2).save("bases.json")
    (tmp_path / "config.json").write_text(json.dumps(long_rope_config(64, {"factor": 2.0})))
    for name, kind in SCHEMES.items():
        assert parse_scheme(kind.example).name == kind.example.replace("base=5e5", "base=500000")
        assert kind.example.startswith(name)
        assert "\n" not in kind.description


LIST = (
    "rope, pi, abf, abf-multi-stage, ntk, dynamic, ntk-by-parts, yarn, llama3, longrope, self-extend, uniform,"
    " uniform-descending, table2, ms-poe, harpe"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yarm:32", f"unknown position scheme 'yarm'; known are {LIST}; did you mean yarn?"),
        ("PI:32", f"unknown position scheme 'PI'; known are {LIST}; did you mean pi?"),
        ("self_extend", f"unknown position scheme 'self_extend'; known are {LIST}; did you mean self-extend?"),
        ("", f"unknown position scheme ''; known are {LIST}"),
        ("???", f"unknown position scheme '???'; known are {LIST}"),
        ("pi", "scheme 'pi': a factor is missing, as in pi:32"),
        ("pi:", "scheme 'pi:': a factor is missing, as in pi:32"),
        ("pi:,base=100", "scheme 'pi:,base=100': a factor is missing, as in pi:32"),
        ("rope", "scheme 'rope': a base is missing, as in rope:10000"),
        ("harpe", "scheme 'harpe': a file is missing, as in harpe:bases.json"),
        ("longrope: ", "scheme 'longrope: ': a file is missing, as in longrope:config.json"),
        ("self-extend,group=2", "scheme 'self-extend,group=2': a window is missing, as in self-extend:1024,group=32"),
        ("self-extend:9", "scheme 'self-extend:9': the option group is missing, as in self-extend:1024,group=32"),
        ("uniform:5e6..1e6", "scheme 'uniform:5e6..1e6': the range must rise, not '5e6..1e6'"),
        ("uniform:1..5e6", "scheme 'uniform:1..5e6': each end of the range must be a finite number above 1, not 1"),
        (
            "uniform,heads=6,kv_heads=4",
            "scheme 'uniform,heads=6,kv_heads=4': kv_heads must be a divisor of the 6 heads, not 4",
        ),
        ("uniform:5", "scheme 'uniform:5': the range must be LOW..HIGH, as in uniform:1e6..3e6,heads=8, not '5'"),
        ("uniform,5", "scheme 'uniform,5': an option must be key=value, not '5'"),
        ("pi:32,5", "scheme 'pi:32,5': factor must be a number of at least 1, not '32,5'"),
        ("pi:32,", "scheme 'pi:32,': factor must be a number of at least 1, not '32,'"),
        ("pi:0.5", "scheme 'pi:0.5': factor must be a number of at least 1, not 0.5"),
        ("yarn:nan", "scheme 'yarn:nan': factor must be a number of at least 1, not nan"),
        ("yarn:1e9", "scheme 'yarn:1e9': factor must be at most 524287 with original 4096, not 1000000000"),
        ("ntk:x", "scheme 'ntk:x': factor must be a number of at least 1, not 'x'"),
        ("rope:1", "scheme 'rope:1': base must be a finite number above 1, not 1"),
        ("pi:2,base=0.5", "scheme 'pi:2,base=0.5': base must be a finite number above 1, not 0.5"),
        ("pi:2,base=inf", "scheme 'pi:2,base=inf': base must be a finite number above 1, not inf"),
        ("ntk:9,base=1.7e308", "scheme 'ntk:9,base=1.7e308': base must be a finite number above 1, not inf"),
        ("pi:2,head_dim=7", "scheme 'pi:2,head_dim=7': head_dim must be even, not 7"),
        ("pi:2,head_dim=", "scheme 'pi:2,head_dim=': head_dim must be an integer of at least 2, not ''"),
        (
            "ntk:2,head_dim=2",
            "scheme 'ntk:2,head_dim=2': head_dim must be at least 4 here, for the exponent head_dim / (head_dim - 2),"
            " not 2",
        ),
        (
            "dynamic:2,head_dim=2",
            "scheme 'dynamic:2,head_dim=2': head_dim must be at least 4 here, for the exponent"
            " head_dim / (head_dim - 2), not 2",
        ),
        ("pi:2,original=0", "scheme 'pi:2,original=0': original must be an integer of at least 1, not 0"),
        ("pi:2,original=4.5", "scheme 'pi:2,original=4.5': original must be an integer of at least 1, not 4.5"),
        ("pi:2,seed=1", "scheme 'pi:2,seed=1': unknown option seed; known are original, base, head_dim"),
        ("rope:2,base=2", "scheme 'rope:2,base=2': unknown option base; known are original, head_dim"),
        ("table2,base=2", "scheme 'table2,base=2': unknown option base; known are original, head_dim"),
        ("pi:2,group=2", "scheme 'pi:2,group=2': unknown option group; known are original, base, head_dim"),
        ("harpe:f,head_dim=64", "scheme 'harpe:f,head_dim=64': unknown option head_dim; known are original"),
        ("longrope:f,base=2", "scheme 'longrope:f,base=2': unknown option base; the file sets everything"),
        ("pi:2,base=3,base=3", "scheme 'pi:2,base=3,base=3': the option base is given twice"),
        ("self-extend:0,group=2", "scheme 'self-extend:0,group=2': window must be an integer of at least 1, not 0"),
        ("self-extend:9,group=0", "scheme 'self-extend:9,group=0': group must be an integer of at least 1, not 0"),
        (
            "self-extend:9,group=1.5",
            "scheme 'self-extend:9,group=1.5': group must be an integer of at least 1, not 1.5",
        ),
        ("abf-multi-stage:4", "scheme 'abf-multi-stage:4': stage must be at most 3, not 4"),
        ("abf-multi-stage:0", "scheme 'abf-multi-stage:0': stage must be an integer of at least 1, not 0"),
        (
            "llama3:8,low_freq_factor=0",
            "scheme 'llama3:8,low_freq_factor=0': low_freq_factor must be a finite number above 0, not 0",
        ),
        (
            "llama3:8,low_freq_factor=4",
            "scheme 'llama3:8,low_freq_factor=4': high_freq_factor must be greater than low_freq_factor, 4, not 4",
        ),
    ],
)
def test_bad_texts(text, message):
    with pytest.raises(InputError) as caught:
        parse_scheme(text)
    assert str(caught.value) == message
    assert not isinstance(caught.value, ParameterError)


def test_a_text_must_be_one():
    with pytest.raises(ValueError, match=r"scheme must be text such as 'yarn:32', not 32"):
        parse_scheme(32)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("inv_freq", {"length": 0}, "length must be an integer of at least 1, not 0"),
        ("attention_factor", {"length": 1.5}, "length must be an integer of at least 1, not 1.5"),
        ("distances", {"m": [1, -1]}, r"m must be integers of at least 0, not \[1, -1\]"),
        ("distances", {"m": 1.5}, "m must be integers of at least 0, not 1.5"),
        ("distances", {"m": True}, "m must be integers of at least 0, not True"),
        ("waveforms", {"max_distance": 0}, "max_distance must be an integer of at least 1, not 0"),
        (
            "waveforms",
            {"max_distance": 9, "min_distance": 9},
            "min_distance must be less than `max_distance`, 9, not 9",
        ),
        ("decay_bounds", {"max_distance": 9, "length": -1}, "length must be an integer of at least 1, not -1"),
    ],
)
def test_bad_arguments(method, arguments, message):
    with pytest.raises(ParameterError, match=message):
        getattr(parse_scheme("yarn:32"), method)(**arguments)


def config_without(key):
    config = long_rope_config(64, {"original_max_position_embeddings": 4096})
    del config[key]
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            config_without("rope_scaling") | {"rope_theta": 1e4},
            "it has no short_factor and long_factor in rope_scaling",
        ),
        (long_rope_config(64, {"long_factor": [1.0]}), r"long_factor must be a list of 32 numbers.*, not \[1.0\]"),
        (long_rope_config(64, {"short_factor": None}), "short_factor must be a list of 32 numbers.*, not None"),
        (long_rope_config(64, {"short_factor": [0.0] * 32}), "every value of short_factor must be .* above 0, not 0"),
        (long_rope_config(64, {"factor": "x"}), "factor must be a finite number above 0, not 'x'"),
        (long_rope_config(64, {"original_max_position_embeddings": 1}), "original_max_position_embeddings must be"),
        (long_rope_config(64, {"rope_theta": 1}), "rope_theta must be a finite number above 1, not 1"),
        (config_without("max_position_embeddings"), "it has no max_position_embeddings"),
        (long_rope_config(64, {}, partial_rotary_factor=0.5), "short_factor must be a list of 16 numbers"),
        (long_rope_config(64, {}, partial_rotary_factor=0.3), r"rotates 19 of the 64 channels of each head \(partial"),
        (
            long_rope_config(64, {}, partial_rotary_factor=0.5, model_type="mistral"),
            r"part of each head \(partial_rotary_factor 0.5\)$",
        ),
        ([], "it is not a JSON object"),
    ],
)
def test_bad_long_rope_files(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message) as caught:
        parse_scheme(f"longrope:{tmp_path}")
    assert str(caught.value).startswith(str(tmp_path / "config.json"))


def test_files_that_are_missing_or_no_base_sets(tmp_path):
    for name in ("harpe", "longrope"):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            parse_scheme(f"{name}:{tmp_path}/nowhere")
    (tmp_path / "set.json").write_text("{}")
    with pytest.raises(InputError, match=r"set\.json is not a usable base-set file"):
        parse_scheme(f"harpe:{tmp_path}/set.json")


# Schemes for a model.

MODEL = {
    "model_type": "llama",
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_size": 512,
    "max_position_embeddings": 2048,
    "rope_theta": 500000.0,
}


@pytest.mark.parametrize(
    ("text", "name", "target"),
    [
        ("yarn:32", "yarn:32,original=2048,base=500000,head_dim=64", 65536),
        ("yarn:32,original=4096,base=10000", "yarn:32,head_dim=64", 131072),
        ("rope:10000", "rope:10000,original=2048,head_dim=64", None),
        ("ntk:2.5", "ntk:2.5,original=2048,base=500000,head_dim=64", 5120),
        ("abf-multi-stage:2", "abf-multi-stage:2,original=2048,head_dim=64", 65536),
        ("self-extend:9,group=2", "self-extend:9,group=2,original=2048,base=500000,head_dim=64", None),
        ("uniform", "uniform,original=2048,head_dim=64,kv_heads=4", None),
        ("uniform-descending", "uniform-descending,original=2048,head_dim=64,kv_heads=4", None),
    ],
)
def test_what_the_text_does_not_say_is_the_models(text, name, target):
    scheme = parse_scheme(text, model=MODEL)
    assert scheme.name == name
    assert parse_scheme(name) == scheme
    assert scheme.target_length == target


def test_longrope_is_made_for_the_longest_length_of_its_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(long_rope_config(64, {"original_max_position_embeddings": 4096})))
    assert parse_scheme(f"longrope:{tmp_path}", model=MODEL).target_length == 131072


def test_uniform_takes_a_range_and_heads():
    scheme = parse_scheme("uniform:10k..30k,heads=6,kv_heads=3")
    assert (scheme.bases, scheme.heads) == ((10000, 20000, 30000), 6)
    assert scheme.name == "uniform:10000..30000,heads=6,kv_heads=3"
    assert parse_scheme(scheme.name) == scheme
    assert parse_scheme("uniform,heads=2").bases == (1e6, 5e6)
    assert parse_scheme("uniform:1e6..5e6").name == "uniform"


def test_ms_poe_divides_the_positions_of_every_head():
    scheme = parse_scheme("ms-poe,kv_heads=4,head_dim=8")
    expected = [
        naive.waveform_of(np.array(naive.inv_freq(1e4, 8)) / ratio, range(300)) for ratio in (1.2, 1.4, 1.6, 1.8)
    ]
    np.testing.assert_allclose(scheme.waveforms(299), expected, atol=1e-9)
    one, two = parse_scheme("ms-poe:1..3,kv_heads=2,head_dim=8"), parse_scheme("pi:3,head_dim=8")
    np.testing.assert_array_equal(one.inv_freq()[1], two.inv_freq()[0])
    assert one.name == "ms-poe:1..3,head_dim=8,kv_heads=2"


def test_k_and_m_are_thousands_in_bases_and_1024s_in_lengths():
    assert parse_scheme("abf:5m") == parse_scheme("abf:5e6")
    assert parse_scheme("yarn:32,original=8k,base=500K") == parse_scheme("yarn:32,original=8192,base=5e5")
    assert parse_scheme("self-extend:1k,group=32") == parse_scheme("self-extend:1024,group=32")


def test_uniform_has_as_many_bases_as_are_asked_for():
    assert parse_scheme("uniform,kv_heads=5").bases == (1e6, 2e6, 3e6, 4e6, 5e6)
    assert parse_scheme("uniform-descending,kv_heads=2").bases == (5e6, 1e6)
    assert parse_scheme("uniform,kv_heads=1").bases == (1e6,)
    for n in (0, 4097):
        with pytest.raises(InputError, match=f"kv_heads must be .*, not {n}"):
            parse_scheme(f"uniform,kv_heads={n}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yarn:32,head_dim=128", r"the scheme yarn:32,original=2048,base=500000 is for head_dim 128, and .* has 64$"),
        ("table2", r"is for 32 KV heads, and .* has 8 heads and 4 KV heads"),
        ("yarn:2e6", r"factor must be at most 1048575 with original 2048, not 2000000"),
    ],
)
def test_schemes_that_do_not_fit_the_model(text, message):
    with pytest.raises(InputError, match=message):
        parse_scheme(text, model=MODEL)


def test_transformers_gets_our_numbers_by_the_rule_that_we_write():
    for text in TEXTS:
        scheme = parse_scheme(text)
        rule = scheme.rope_parameters()
        if text.startswith(("self-extend", "uniform", "table2", "ms-poe")):
            assert rule is None
            continue
        length = None if rule["rope_type"] == "dynamic" else 4096
        assert_same_rule(scheme, theirs(rule, head_dim=128, base=None, length=length), length=4096)
