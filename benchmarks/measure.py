"""What measuring attention by distance costs: beside a plain forward pass, in memory, and on a GPU.

    python benchmarks/measure.py MODEL [--rounds 5] [--length 2048]

MODEL, one text: the plain forward pass (without the last product, the logits, and with it), `measure_decay` of all
layers and heads, and with the softmax, in turn; medians, and ratios round by round. Then the peak memory of the command
`ropesearch measure` in a process of its own.

    python benchmarks/measure.py --llama [--layers 32] [--lengths 4096,32768] [--device cuda]

A model in the shape of Llama-2-7B with random weights in bfloat16: seconds and peak memory of the device, by length,
and how far two layers of it in float32 differ between CPU and GPU.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
import transformers
from machine import machine, seconds

from ropesearch import load_model, measure_decay, shipped_texts


def plain(model, ids):
    with torch.no_grad():
        model(input_ids=ids[None], use_cache=False)


def beside_a_forward_pass(name, rounds, length):
    model, tokenizer = load_model(name, keep_unpacked=True)
    ids = torch.tensor(tokenizer(shipped_texts()["essay"]).input_ids[:length])
    text = {"essay": ids.tolist()}
    runs = {
        "forward pass": lambda: plain(model.get_decoder(), ids),
        "forward pass with logits": lambda: plain(model, ids),
        "measure_decay": lambda: measure_decay(model, None, text, length=length),
        "measure_decay, softmax": lambda: measure_decay(model, None, text, length=length, softmax=True),
    }
    times = {what: [] for what in runs}
    for turn in range(rounds + 1):  # the first warms up
        for what, run in runs.items():
            taken = seconds(run)
            if turn:
                times[what].append(taken)
    config = model.config
    shape = f"{config.num_hidden_layers} layers of {config.num_attention_heads} heads"
    print(f"{os.path.basename(os.path.normpath(name))}: {shape}, {model.dtype}, one text of {length} tokens")
    print(f"{rounds} rounds, medians:")
    first = times["forward pass"]
    for what, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, first, strict=True))
        print(f"  {what:26} {statistics.median(taken):7.2f} s   {ratio:5.2f} × the first")
    command = [sys.executable, "-m", "ropesearch", "measure", name, "--length", str(length), "--quiet"]
    for options in ([], ["--softmax"]):
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # of the largest so far
        print(f"  peak memory of the command, {' '.join(['two texts', *options])}: {peak:.2f} GB")


def llama(layers, dtype, device):
    config = transformers.LlamaConfig(num_hidden_layers=layers, max_position_embeddings=4096)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return transformers.LlamaModel(config).eval()
    finally:
        torch.set_default_dtype(before)


def llama_shape(layers, lengths, device):
    cuda = device.startswith("cuda")
    where = torch.cuda.get_device_name(device) if cuda else "CPU"
    print(f"Llama-2-7B's shape, {layers} layers of 32 heads, bfloat16, {where}")
    model = llama(layers, torch.bfloat16, device)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    print(f"  weights {weights / 1e9:.2f} GB")
    for length in lengths:
        ids = torch.randint(10, 32000, (length,), generator=torch.Generator().manual_seed(1))
        plain(model, ids.to(device))
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        plain(model, ids.to(device))
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        forward = time.perf_counter() - start
        taken = seconds(measure_decay, model, None, {"random": ids.tolist()}, length=length)
        peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1000
        print(
            f"  {length:6} tokens: forward pass {forward:.2f} s, measure_decay {taken:.2f} s, "
            f"{taken / forward:.2f} × it, peak {peak / 1e9:.2f} GB"
        )
    del model
    if cuda:
        compare(lengths[0], device)


def compare(length, device):
    """Largest difference between CPU and GPU, of two layers in float32."""
    model = llama(2, torch.float32, "cpu")
    ids = torch.randint(10, 32000, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    here, there = (measure_decay(model.to(where), None, {"random": ids}, length=length) for where in ("cpu", device))
    difference = float(np.abs(here.score - there.score).max())
    largest = float(np.abs(here.score).max())
    print(
        f"  two layers in float32, CPU and GPU: scores differ by {difference:.1e} at most, the largest is {largest:.2g}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--llama", action="store_true")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--lengths", default="4096,32768")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    if (arguments.model is None) == (not arguments.llama):
        parser.error("either MODEL or --llama must be given")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {machine()}")
    if arguments.llama:
        llama_shape(arguments.layers, [int(n) for n in arguments.lengths.split(",")], arguments.device)
    else:
        beside_a_forward_pass(arguments.model, arguments.rounds, arguments.length)


if __name__ == "__main__":
    main()
