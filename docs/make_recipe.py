"""Fill in what `ropesearch train --plan` prints in docs/recipe.md, from the commands that stand there.

python docs/make_recipe.py

A plan needs a model's config and nothing else of it: those of Llama-2-7B and Llama-3.2-1B (without its RoPE scaling)
are written down here.
"""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).with_name("recipe.md")
BLOCK = re.compile(r"(```sh\n(ropesearch train [^\n]*--plan[^\n]*(?:\n[^`\n]+)*)\n```\n\n```text\n).*?(```)", re.DOTALL)

COMMON = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"}
CONFIGS = {
    "Llama-2-7b-hf": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 32000, "rope_theta": 10000.0, "max_position_embeddings": 4096,
        "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
    },
    "Llama-3.2-1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "rope_theta": 500000.0,
        "max_position_embeddings": 8192, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
    },
}  # fmt: skip


def filled(page, folder):
    """Return the page with the output of every command of a plan below it."""
    for name, config in CONFIGS.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(COMMON | config))

    def printed(found):
        words = shlex.split(found[2].replace("\\\n", " "))
        command = [sys.executable, "-P", "-m", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        return found[1] + done.stdout + found[3]

    return BLOCK.sub(printed, page)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        PAGE.write_text(filled(PAGE.read_text(), Path(scratch)))
