"""What the documentation shows is what the commands print now."""

import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from ropesearch.cli.main import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def shell(command, folder):
    here = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, shell=True, cwd=folder, env=here, text=True, check=True, **both)
    # A slow machine shows progress, and so does transformers; the documentation does not.
    return re.sub(r"^[a-z ]+: \d+ % \(\d+ of \d+\).*\n|^\n?.*\d+%\|.*\n", "", done.stdout, flags=re.MULTILINE)


def assert_same_text(shown, printed):
    """Equal but for the last digits of numbers, which differ between machines."""
    number = r"-?\d+\.\d+"
    assert re.sub(number, "#", shown) == re.sub(number, "#", printed)
    for a, b in zip(re.findall(number, shown), re.findall(number, printed), strict=True):
        assert math.isclose(float(a), float(b), rel_tol=1e-9)


def test_the_main_job_of_the_readme(tmp_path):
    command = blocks("sh")[0].strip()
    assert command.startswith("pip install . && ropesearch search ")
    printed = shell(command.partition(" && ")[2], tmp_path).splitlines()
    top, bottom = blocks("text")[0].split("…\n")
    assert printed[: top.count("\n")] == top.splitlines()
    assert printed[-bottom.count("\n") :] == bottom.splitlines()


def save_model(folder):
    """A model with the heads of Llama-3-8B, and little else."""
    from toys import VOCABULARY, save_with_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": VOCABULARY}
    config = LlamaConfig(num_attention_heads=32, num_key_value_heads=8, head_dim=128, **small)
    save_with_tokenizer(LlamaForCausalLM(config), folder)


def test_the_other_commands_of_the_readme(tmp_path):
    shell(blocks("sh")[0].strip().partition(" && ")[2], tmp_path)
    save_model(tmp_path / "path" / "to" / "model")
    for block in blocks("sh")[1:-1]:
        shell(block.replace("-o bases.json", "-o other.json"), tmp_path)
    assert (tmp_path / "bases.safetensors").exists()
    assert (tmp_path / "decay.png").exists()
    for session in blocks("console"):
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE):
            assert_same_text(shown, shell(command, tmp_path))


def test_the_library_example_of_the_readme(tmp_path):
    (example,) = blocks("python")
    assert len(example.splitlines()) == 10
    (tmp_path / "example.py").write_text(example)
    assert shell(f"'{sys.executable}' -P example.py", tmp_path) == blocks("text")[1]


def test_the_test_command_of_the_readme_is_the_gate():
    found = README.split("### Run the tests")[1]
    assert re.search(r"```sh\n(.*?)\n```", found).group(1) == "pip install -c constraints.txt '.[test]' && pytest"


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
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
    for row in [row for scale in made["SCALES"] for row in made["set_rows"](scale)]:
        assert row in page


def test_the_page_about_coverage_is_current_where_that_is_quick_to_say():
    made = runpy.run_path(str(ROOT / "docs" / "make_coverage.py"))
    page = (ROOT / "docs" / "coverage.md").read_text()
    coverages = made["stride_coverages"]()
    rows = [*made["published_rows"](), *made["stride_rows"](coverages)]
    rows += [line for line, _, _ in made["correlation_rows"](coverages)]
    for row in rows:
        assert row in page
