import dataclasses
import sys

import numpy as np
import pytest
from ropesearch.cli import main

from ropesearch import search_bases, waveform
from ropesearch.core.errors import DeviceError, MissingExtraError
from ropesearch.core.rope import inv_freq
from ropesearch.curves import gpu
from ropesearch.kernels.waveform import BLOCK

torch = pytest.importorskip("torch")

# Several blocks, strips and spans; the window ends within a block.
SMALL = {"bmin": 1e5, "bmax": 1e6, "stride": 2e4, "heads": 12, "head_dim": 64, "max_distance": 70001}
RULES = [
    {},
    {"count": 80, "gap": 20, "valley_gap": 9, "look_ahead": 2000, "level_tolerance": 0.01, "tolerance": 0},
    {"min_distance": 0, "max_distance": 300},
    {"matching": "distance"},
    {"extrema": "local"},
    {"extrema": "local", "matching": "distance", "normalize": True, "max_distance": 5000},
]


@pytest.fixture
def _tensors_on_the_cpu(monkeypatch):
    """The path of a GPU, on tensors of the CPU."""
    monkeypatch.setattr(
        "ropesearch.search.run.find_device", lambda name: None if name == "cpu" else torch.device("cpu")
    )


def without_versions(base_set):
    return dataclasses.replace(base_set, made_by={})


@pytest.mark.usefixtures("_tensors_on_the_cpu")
@pytest.mark.parametrize("options", RULES)
def test_the_same_bases_in_the_same_order(options):
    found = search_bases(**SMALL | options, device="cuda")
    assert without_versions(found) == without_versions(search_bases(**SMALL | options))


@pytest.mark.usefixtures("_tensors_on_the_cpu")
@pytest.mark.parametrize("options", RULES)
def test_what_rounding_could_decide_is_settled_on_the_cpu(monkeypatch, options):
    """A device that is off by up to half a logit: many a threshold, and many a step, is then on the wrong side."""
    error = 0.5
    exact = gpu.Survey._even_and_odd

    def off(self, theta):
        even, odd = exact(self, theta)
        if options.get("extrema") == "local":
            noise = torch.rand(odd.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            return even, odd + error * (2 * noise - 1)
        return even, odd - odd.clamp(-error, error)  # every bound too near to the middle of its block

    monkeypatch.setattr(gpu.Survey, "_even_and_odd", off)
    expected = without_versions(search_bases(**SMALL | options))
    # Taken at its word, that device gives other bases (unless tolerance 0 finds no pairs at all, or the window is so
    # short that all of it is computed on the CPU), ...
    if options.get("max_distance") != 300 and "tolerance" not in options:
        assert without_versions(search_bases(**SMALL | options, device="cuda")) != expected
    # ... and with its margin the same.
    monkeypatch.setattr(gpu, "MARGIN", error)
    assert without_versions(search_bases(**SMALL | options, device="cuda")) == expected


def test_bounds_are_those_of_the_blocks():
    bases = [10000.0, 17000.0, 5e6]
    survey = gpu.Survey(torch.device("cpu"), 64, 1000, 9000)
    for base, (lowest, highest) in zip(bases, survey.bounds(inv_freq(bases, 64)), strict=True):
        end = 1000 + BLOCK * lowest.size - 1
        blocks = waveform(base, 64, end, min_distance=1000).reshape(-1, BLOCK)
        np.testing.assert_allclose(lowest, blocks.min(axis=1), rtol=0, atol=1e-10)
        np.testing.assert_allclose(highest, blocks.max(axis=1), rtol=0, atol=1e-10)


def test_batches_do_not_matter(monkeypatch):
    theta = inv_freq([1e4, 2e4, 3e4, 4e4, 5e4], 32)
    whole = list(gpu.Survey(torch.device("cpu"), 32, 5, 2000).steps(theta))
    monkeypatch.setattr(gpu, "SHARE", 2.5 * 8 * (6 * 1996 + 4 * 16 * (8 + 128)) / 2**31)
    parts = list(gpu.Survey(torch.device("cpu"), 32, 5, 2000).steps(theta))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one.up, other.up)
        np.testing.assert_array_equal(one.down, other.down)
        assert one.doubtful == other.doubtful


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CUDA", "cuda:-1", "mps", 0, None])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match="device must be cpu, cuda or cuda:N, not"):
        search_bases(**SMALL, device=name)


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="device cuda: torch finds no CUDA device here"):
        search_bases(**SMALL, device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match="device cuda:3: 1 CUDA device found, counted from 0"):
        search_bases(**SMALL, device="cuda:3")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"device cuda needs torch: pip install 'ropesearch\[torch\]'"):
        search_bases(**SMALL, device="cuda")


@pytest.mark.usefixtures("_tensors_on_the_cpu")
@pytest.mark.parametrize("options", [{"strategy": "floor"}, {"extrema": "local", "prominence": 0.1}])
def test_what_only_the_cpu_does(options):
    with pytest.raises(ValueError, match="device must be cpu unless `strategy` is peak-valley, without `prominence"):
        search_bases(**SMALL | options, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("options", RULES)
def test_on_a_gpu(options):
    found = search_bases(**SMALL | options, device="cuda")
    assert without_versions(found) == without_versions(search_bases(**SMALL | options))


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("cuda", 1, "Error: device cuda: torch finds no CUDA device here\n"),
        ("gpu", 2, "Error: --device must be cpu, cuda or cuda:N, not 'gpu'\n"),
    ],
)
def test_on_the_command_line(monkeypatch, capsys, name, code, line):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["search", "--preset", "table2", "--device", name]) == code
    assert capsys.readouterr().err == line
