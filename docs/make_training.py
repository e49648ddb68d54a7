"""Train a small model in two stages on two cores, as docs/recipe.md shows, and draw docs/training.png.

python docs/make_training.py [--folder FOLDER] [--short]

The text is random words, repeated with a random period: who finds the word one period back knows the next one. The
first stage teaches that within 64 words, the second at 256, under another base. `--short` takes a fraction of the
steps, to see that everything works.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from ropesearch.plots.training import plot_run
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS, LENGTH = 64, 256


def make_model(folder):
    """A Llama of 0.3 million parameters, untrained, with a tokenizer that splits at spaces."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, rope_parameters={"rope_type": "default", "rope_theta": 188.0},
        tie_word_embeddings=True, initializer_range=0.08, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", pad_token="w0").save_pretrained(folder)


def make_text(path, documents):
    """Documents of one row of the last stage, each a random text of a period from 4 to 120 words, over and over."""
    random = np.random.default_rng(0)
    with path.open("w") as file:
        for period in np.exp(random.uniform(np.log(4), np.log(120), documents)).astype(int):
            text = np.resize(random.integers(0, WORDS, period), LENGTH)
            file.write(json.dumps({"text": " ".join(f"w{i}" for i in text)}) + "\n")


def command(short):
    first, second = (40, 20) if short else (1200, 600)
    return (
        f"ropesearch train model --data text.jsonl --stage 188:64:{2048 * first} --stage 3000:256:{2048 * second}"
        " --batch-tokens 2048 --learning-rate 3e-3 --args train.yaml --save-every 200 -o run"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    make_model(folder / "model")
    make_text(folder / "text.jsonl", 300 if arguments.short else 12000)
    (folder / "train.yaml").write_text("per_device_train_batch_size: 8\nlogging_steps: 5\n")
    words = [sys.executable, "-P", "-m", *shlex.split(command(arguments.short))]
    threads = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    subprocess.run(words, cwd=folder, check=True, env=os.environ | threads)
    if not arguments.short:
        plot_run(folder / "run").savefig(Path(__file__).with_name("training.png"), dpi=110)
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
