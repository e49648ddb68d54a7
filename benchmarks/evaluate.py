"""What an evaluation costs beside plain forward passes over the same windows of tokens; run in turn.

    python benchmarks/evaluate.py MODEL [--length 2048] [--windows 3] [--rounds 5]

A plain pass reads a window and sums the log-probabilities of its tokens, and does nothing else. The processor's time
counts (the clock's on a GPU). Prints the ratio round by round, and how far the two perplexities are apart.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch

from ropesearch import evaluate, load_model, shipped_texts


def clock():
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def plain(model, windows):
    """Perplexity of all tokens but the first of each window."""
    total = n = 0
    for window in windows:
        ids = torch.tensor([window], device=model.device)
        with torch.inference_mode():
            found = model(ids).logits[0, :-1].float().log_softmax(-1)
        total -= float(found.gather(1, ids[0, 1:, None]).double().sum())
        n += len(window) - 1
    return math.exp(total / n)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    options = {"device_map": "cuda"} if torch.cuda.is_available() else {}
    model, tokenizer = load_model(args.model, dtype="float32", **options)

    text = " ".join(shipped_texts().values())
    ids = tokenizer(text).input_ids
    stride = args.length // 2
    last = args.length + stride * (args.windows - 1) + 64
    if last > len(ids):
        parser.error(f"the texts have {len(ids)} tokens; {args.windows} windows of {args.length} take {last}")
    with tempfile.TemporaryDirectory() as folder:
        ratios = []
        for i in range(args.windows):
            piece = ids[i * stride : i * stride + args.length + 64]
            (Path(folder) / f"{i}.txt").write_text(tokenizer.decode(piece))
        windows = [tokenizer(path.read_text()).input_ids[: args.length] for path in sorted(Path(folder).iterdir())]
        for round_ in range(args.rounds + 1):
            start = clock()
            expected = plain(model, windows)
            middle = clock()
            options = {"lengths": [args.length], "truncate": True, "batch_size": 1}
            found = evaluate(model, tokenizer, "perplexity", data=[folder], **options)
            end = clock()
            if round_:  # the first warms up
                ratios.append((end - middle) / (middle - start))
                print(f"plain {middle - start:.2f} s, evaluate {end - middle:.2f} s, ratio {ratios[-1]:.3f}")
    figure = found.rows[0]["perplexity"]
    print(f"median ratio {statistics.median(ratios):.3f}; apart by {abs(figure - expected):.1e}")


if __name__ == "__main__":
    main()
