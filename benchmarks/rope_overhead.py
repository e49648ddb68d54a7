"""What a base per KV head costs: a 2048-token prefill and decoding, beside the stock model, run in turn.

Both are the same model in one process: the bases are applied before, and removed after, each run of theirs. Bases as
HARPE's, evenly spread; no gradient, sdpa, in float32 and bfloat16. The ratio is taken pair by pair, and every other
pair begins with the bases. Without a GPU it is the processor's time that counts, of one thread, so that other work on
the machine does not.

    python benchmarks/rope_overhead.py MODEL [--runs 11] [--tokens 2048] [--decode 32] [--dtype NAME] [--by-layer]
"""

import argparse
import os
import platform
import statistics
import time

import torch
import transformers

from ropesearch import BaseSet, apply_bases, load_model, uniform_bases
from ropesearch.core.model_config import ModelConfig


def prefill(model, ids):
    model(ids, logits_to_keep=1)


def decode(model, ids, n):
    model.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=n, max_new_tokens=n, do_sample=False)


def clock():
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(function, *arguments):
    start = clock()
    with torch.no_grad():
        function(*arguments)
    return clock() - start


def compare(name, model, base_set, runs, function, *arguments):
    def with_bases():
        with apply_bases(model, base_set):
            return seconds(function, model, *arguments)

    pairs = []
    for run in range(runs + 1):  # the first pair warms up
        if run % 2:
            ours, stock = with_bases(), seconds(function, model, *arguments)
        else:
            stock, ours = seconds(function, model, *arguments), with_bases()
        if run:
            pairs.append((stock, ours))
    ratio = statistics.median(ours / stock for stock, ours in pairs)
    times = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(f"  {name:24} stock {times[0]:7.3f} s   bases {times[1]:7.3f} s   overhead {100 * (ratio - 1):+5.1f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--dtype", action="append", help="bfloat16, float32 …; several if repeated")
    parser.add_argument("--by-layer", action="store_true", help="bases of each layer, so that each makes its tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, 1 thread"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {where}")
    name = os.path.basename(os.path.normpath(arguments.model))
    for dtype in arguments.dtype or ["float32", "bfloat16"]:
        model = load_model(arguments.model, dtype=dtype)[0].to(device)
        config = ModelConfig.of(model.config.to_dict(), name)
        shape = config.shape
        base_set = uniform_bases(1e6, 5e6, shape.heads, kv_heads=shape.kv_heads, head_dim=shape.head_dim)
        if arguments.by_layer:
            rows = [base_set] * config.num_hidden_layers
            base_set = BaseSet.of(rows, heads=shape.heads, head_dim=shape.head_dim)
        ids = torch.randint(10, config.vocab_size, (1, arguments.tokens), device=device)
        print(f"{name}, {shape.kv_heads} KV heads, {model.dtype}; {arguments.runs} pairs, medians:")
        compare(f"prefill of {arguments.tokens}", model, base_set, arguments.runs, prefill, ids)
        n = arguments.decode
        compare(f"{n} tokens after 16", model, base_set, arguments.runs, decode, ids[:, :16], n)


if __name__ == "__main__":
    main()
