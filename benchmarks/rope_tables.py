"""Memory that tables of cosines and sines take while they are made: its peak over their final size.

For 131 072 positions and 32 KV heads of 128 channels: those of a model with bases, those of a layer where layers
differ, and those for other code. Memory is that of the process, looked at every 2 ms.

    python benchmarks/rope_tables.py [--tokens 131072] [--heads 32]
"""

import argparse
import subprocess
import sys
import threading
import time

KINDS = ("model bfloat16", "model float32", "layer bfloat16", "cos_sin_tables float32", "cos_sin_cache float32")


def table_maker(what, dtype, tokens, heads):
    """What makes the tables, after everything that stays: imports and frequencies."""
    bases = [1e6 + 1e5 * head for head in range(heads)]
    if what.startswith("cos_sin"):
        import ropesearch

        make, base_set = getattr(ropesearch, what), ropesearch.BaseSet.of(bases)
        return lambda: make(base_set, tokens, dtype)
    import torch

    from ropesearch.model.modeling_harpe import HarpeLlamaConfig, PerHeadRope

    torch.set_num_threads(1)
    rope_parameters = {"rope_type": "harpe", "rope_theta": 1e4, "bases": [bases] * 4 if what == "layer" else bases}
    shape = {"hidden_size": 128 * heads, "num_attention_heads": heads, "num_hidden_layers": 4}
    rope = PerHeadRope(HarpeLlamaConfig(**shape, rope_parameters=rope_parameters))
    x, positions = torch.zeros(1, dtype=getattr(torch, dtype)), torch.arange(tokens)[None]
    rope(x, positions[:, :1])
    return (lambda: rope(x, positions).of(2, x.device)) if what == "layer" else (lambda: rope(x, positions))


def measure(kind, tokens, heads):
    import psutil

    what, dtype = kind.split()
    make = table_maker(what, dtype, tokens, heads)
    process, peak, running = psutil.Process(), 0, True
    before = process.memory_info().rss

    def watch():
        nonlocal peak
        while running:
            peak = max(peak, process.memory_info().rss - before)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.process_time()
    tables = make()
    seconds = time.process_time() - start
    running = False
    watcher.join()
    size = sum(table.nbytes for table in (tables if isinstance(tables, tuple) else [tables]))
    print(f"  {kind:24} {size / 1e9:5.2f} GB   peak {peak / size:4.2f} ×   {seconds:6.2f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        measure(arguments.kind, arguments.tokens, arguments.heads)
        return
    print(f"{arguments.tokens} positions, {arguments.heads} KV heads of 128 channels", flush=True)
    for kind in KINDS:  # each in a process of its own, whose allocator holds nothing yet
        shape = ["--tokens", str(arguments.tokens), "--heads", str(arguments.heads)]
        subprocess.run([sys.executable, "-P", __file__, *shape, "--kind", kind], check=True)


if __name__ == "__main__":
    main()
