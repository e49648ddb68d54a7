"""The commands of the tutorials run, in their order, and print what the tutorials show."""

import io
import re
import runpy
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from ropesearch.cli import main
from test_docs import ROOT, commands, shell, without_progress

from ropesearch import shipped_texts

TUTORIALS = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r"^(<!-- figures vary -->\n)?```(sh|console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = r"-?\d+\.\d+"
INSTALLS = ("pip ", "hf ")


def steps(page):
    """Yield (kind, text, whether its figures vary) of every block of a tutorial."""
    for varies, kind, text in BLOCK.findall((TUTORIALS / page).read_text()):
        yield kind, text, bool(varies)


def follow(page, run, change=str):
    """Do what a tutorial says; `change` may make its commands shorter."""
    done = 0
    for kind, text, varies in steps(page):
        if kind == "python":
            name = re.match(r"# (\w+\.py)\n", text)[1]
            Path(name).write_text(change(text))
        elif kind == "sh":
            if not text.startswith(INSTALLS):
                for line in text.replace("\\\n", " ").splitlines() if "'" not in text else [text]:
                    run(change(line))
        else:
            for command, shown in commands(text):
                assert_shown(change(shown), run(change(command)), varies=varies)
        done += 1
    assert done > 5


def shorter(text):
    """A tutorial's training, with a twentieth of its steps and less."""
    fewer = {"1024000": "20480", "307200": "10240", "-500": "-10", "-150": "-5", "16000, 64": "400, 64"}
    for number, small in fewer.items():
        text = text.replace(number, small)
    return text


def assert_shown(shown, printed, *, varies):
    """Compare, line by line, what is shown with what is printed; a line of … stands for any lines."""
    clean = words if varies else without_last_digits
    parts, rest = [clean(part) for part in re.split(r"^…\n", shown, flags=re.MULTILINE)], clean(printed)
    if len(parts) == 1:
        assert parts[0] == rest
    for part in parts:
        starts = [i for i in range(len(rest) - len(part) + 1) if rest[i : i + len(part)] == part]
        assert starts, f"not printed: {part}; but: {rest}"
        rest = rest[starts[0] + len(part) :]


def without_last_digits(text):
    """Lines of a text, in which numbers are rounded as far as machines agree."""
    return [re.sub(NUMBER, lambda found: f"{float(found[0]):.4g}", line.rstrip()) for line in text.splitlines()]


def words(text):
    """Lines of a text without its numbers, digests, stars and frames; whoever runs it finds others."""
    lines = [re.findall(r"[A-Za-z][A-Za-z-]*", line) for line in re.sub(r"\b[0-9a-f]{16}\b", "", text).splitlines()]
    return [line for line in lines if line]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run one command of a tutorial in an empty folder; ropesearch and Python in this process, which has torch."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        argv = shlex.split(line)
        if argv[0] not in ("python", "ropesearch"):
            return shell(line, tmp_path)
        printed = io.StringIO()  # stdout and stderr, in the order in which a terminal shows them
        with redirect_stdout(printed), redirect_stderr(printed):
            if argv[0] == "python":
                runpy.run_path(argv[1])
            else:
                assert main(argv[1:]) == 0, printed.getvalue()
        return without_progress(printed.getvalue())

    return run


def test_finding_a_set(run):
    follow("find.md", run)


def save_toy(folder):
    """A model of SmolLM2's heads, and little else."""
    import torch
    from toys import word_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer("The lighthouse keeper counted the ships", *shipped_texts().values())
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=54, intermediate_size=48, num_hidden_layers=2, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, max_position_embeddings=8192, initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    )  # fmt: skip
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_putting_a_set_into_a_model(run):
    save_toy("SmolLM2-135M-Instruct")
    follow("apply.md", run)


@pytest.mark.slow
def test_putting_a_set_into_smollm2(run, smollm2):
    Path("SmolLM2-135M-Instruct").symlink_to(smollm2)
    follow("apply.md", run)


def test_measuring_decay(run):
    save_toy("SmolLM2-135M-Instruct")
    follow("decay.md", run)


@pytest.mark.slow
def test_measuring_the_decay_of_smollm2(run, smollm2):
    Path("SmolLM2-135M-Instruct").symlink_to(smollm2)
    follow("decay.md", run)


@pytest.mark.slow
def test_training_a_small_model(run):
    pytest.importorskip("trl")
    follow("train.md", run, shorter)
