"""What the documentation shows is what the commands print now."""

import math
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ropesearch.cli import main
from ropesearch.cli.main import cli
from ropesearch.plots.decay import plot_heads
from ropesearch.plots.style import save_figure
from safetensors.numpy import load_file

from ropesearch import BaseSet, Decay, to_tensors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def shell(command, folder):
    here = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, shell=True, cwd=folder, env=here, text=True, check=True, **both)
    return without_progress(done.stdout)


def without_progress(text):
    """Leave out the progress that a slow machine shows, and the bars of transformers, which are in no documentation."""
    return re.sub(r"^[a-z ]+: \d+ % \(\d+ of \d+\).*\n|^\n?.*\d+%\|.*\n", "", text, flags=re.MULTILINE)


@pytest.fixture
def console(tmp_path, monkeypatch, capsys):
    """Run a line of a shell in an empty folder, a plain `ropesearch …` in this process; gives what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        words = shlex.split(line)
        if words[0] != "ropesearch" or set(words) & {"|", "&&", ";", ">"}:
            return shell(line, tmp_path)
        capsys.readouterr()
        code = main(words[1:])
        printed = "".join(capsys.readouterr())
        assert code == 0, printed
        return without_progress(printed)

    return run


def assert_same_text(shown, printed):
    """Equal but for the last digits of numbers, which differ between machines."""
    number = r"-?\d+\.\d+"
    assert re.sub(number, "#", shown) == re.sub(number, "#", printed)
    for a, b in zip(re.findall(number, shown), re.findall(number, printed), strict=True):
        assert math.isclose(float(a), float(b), rel_tol=1e-9)


def commands(session):
    """Yield (command, what is shown below it) of a block of a console."""
    found = re.findall(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    assert found
    for command, shown in found:
        yield command.replace("\\\n", " "), shown


def test_the_main_job_of_the_readme(tmp_path):
    command = blocks("sh")[0].strip()
    assert command.startswith("pip install . && ropesearch search ")
    printed = shell(command.partition(" && ")[2], tmp_path).splitlines()
    top, bottom = blocks("text")[0].split("…\n")
    assert printed[: top.count("\n")] == top.splitlines()
    assert printed[-bottom.count("\n") :] == bottom.splitlines()


def test_the_evaluation_of_the_readme(console, tmp_path):
    from test_evaluation import SENTENCES
    from toys import reader_toy, word_tokenizer

    from ropesearch import shipped_texts

    (block,) = [block for block in blocks("sh") if "ropesearch evaluate" in block]
    tokenizer = word_tokenizer(SENTENCES, *shipped_texts().values())
    reader_toy(tokenizer).save_pretrained(tmp_path / "path" / "to" / "model")
    tokenizer.save_pretrained(tmp_path / "path" / "to" / "model")
    first, *others = block.splitlines()
    assert "yarn:4" in console(f"{first} --limit 2 --pairs 8")
    for line in others:
        console(line)
    assert (tmp_path / "recall.png").stat().st_size > 10_000


def save_model(folder):
    """A model with a few heads of Llama-3-8B, and little else."""
    from toys import VOCABULARY, save_with_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": VOCABULARY}
    config = LlamaConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=128, **small)
    save_with_tokenizer(LlamaForCausalLM(config), folder)


def test_the_other_commands_of_the_readme(console, tmp_path):
    console(blocks("sh")[0].strip().partition(" && ")[2])
    save_model(tmp_path / "path" / "to" / "model")
    for block in blocks("sh")[1:-1]:
        if "ropesearch train" in block or "ropesearch evaluate" in block:  # on their own, below
            continue
        for line in block.replace("\\\n", "").splitlines():
            console(line)
    sessions = blocks("console")
    assert sessions
    for session in sessions:
        for command, shown in commands(session):
            assert_same_text(shown, console(command))
    expected, written = to_tensors(BaseSet.load("bases.json")), load_file("bases.safetensors")
    assert written.keys() == expected.keys()
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor, expected[name])
    save_figure(plot_heads(Decay.load("decay.json")), "again.png")
    assert Path("decay.png").read_bytes() == Path("again.png").read_bytes()


@pytest.mark.slow
def test_the_training_commands_of_the_readme(console, tmp_path):
    pytest.importorskip("trl")
    save_model(tmp_path / "path" / "to" / "model")
    BaseSet.of([1e4, 2e4], heads=4, head_dim=128).save("model-bases.json")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("w1 w2 w3 " * 40)
    (block,) = [block for block in blocks("sh") if "ropesearch train" in block]
    plan, train = block.splitlines()
    assert "131,072 tokens" in console(plan)
    console(train.replace("--length 131072 --tokens 1e9", "--length 32 --tokens 64 --batch-tokens 32"))
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 2


def test_the_library_example_of_the_readme(tmp_path):
    (example,) = blocks("python")
    assert len(example.splitlines()) == 10
    (tmp_path / "example.py").write_text(example)
    for _ in range(2):  # also over the files of the first time
        assert shell(f"'{sys.executable}' -P example.py", tmp_path) == blocks("text")[1]


def test_the_test_command_of_the_readme_is_the_gate():
    found = README.split("### Run the tests")[1]
    assert re.search(r"```sh\n(.*?)\n```", found).group(1) == "pip install -c constraints.txt '.[test]' && pytest"


def test_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "tutorials").glob("*.md")]:
        for target in re.findall(r"\]\((?!https://)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_stands_in_the_readme(name):
    assert f"ropesearch {name}" in README


def test_the_reference_of_the_command_line_is_current():
    assert (ROOT / "docs" / "cli.md").read_text() == runpy.run_path(str(ROOT / "docs" / "make_cli.py"))["page"]()


def test_the_page_about_table_2_is_current():
    assert (ROOT / "docs" / "table2.md").read_text() == runpy.run_path(str(ROOT / "docs" / "make_table2.py"))["page"]()


def test_the_page_about_smollm2_is_current_where_that_is_quick_to_say():
    made = runpy.run_path(str(ROOT / "docs" / "make_smollm2.py"))
    page = (ROOT / "docs" / "smollm2.md").read_text()
    rows = [row for scale in made["SCALES"] for row in made["set_rows"](scale)]
    assert rows
    for row in rows:
        assert row in page


def test_the_page_about_coverage_is_current_where_that_is_quick_to_say():
    made = runpy.run_path(str(ROOT / "docs" / "make_coverage.py"))
    page = (ROOT / "docs" / "coverage.md").read_text()
    coverages = made["stride_coverages"]()
    correlations = [line for line, _, _ in made["correlation_rows"](coverages)]
    for rows in (made["published_rows"](), made["stride_rows"](coverages), correlations):
        assert rows
        for row in rows:
            assert row in page
