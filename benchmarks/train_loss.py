"""Memory and time of the loss of a row by whole logits, by torch's chunks, and by TRL's fused head without Triton.

Each in a process of its own, forward and backward, second call of two; the processor's time counts.

    python benchmarks/train_loss.py [--tokens 8192] [--vocabulary 32000] [--hidden 512]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional

from ropesearch.training.losses import torch_loss


def whole(hidden, head, labels):
    return functional.cross_entropy(functional.linear(hidden, head), labels)


def chunks(hidden, head, labels):
    return -torch_loss(hidden, head, labels, per_token=False) / len(labels)


def each_token(hidden, head, labels):
    return -torch_loss(hidden, head, labels, per_token=True).mean()


def fused(hidden, head, labels):
    from trl.kernels import ChunkedLogProbFunction

    outputs = ("entropy", "is_top1")
    return -ChunkedLogProbFunction.apply(hidden, head, None, labels, 1.0, 32768, None, 1.0, outputs)[0].mean()


WAYS = {
    "whole logits": whole,
    "torch, in chunks": chunks,
    "the same, each token's": each_token,
    "TRL's head, no Triton": fused,
}


def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure(name, arguments):
    torch.manual_seed(0)
    hidden = torch.randn(arguments.tokens, arguments.hidden, requires_grad=True)
    head = torch.nn.Parameter(torch.randn(arguments.vocabulary, arguments.hidden) * 0.02)
    labels = torch.randint(0, arguments.vocabulary, (arguments.tokens,))
    for _ in range(2):
        hidden.grad = head.grad = None
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the highest is counted from here
        start = time.process_time()
        loss = WAYS[name](hidden, head, labels)
        loss.backward()
        seconds = time.process_time() - start
    print(f"  {name:24}{(status('VmHWM') - before) / 1e6:7.0f} MB {seconds:6.1f} s   loss {loss.item():.5f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--way", choices=WAYS)
    arguments = parser.parse_args()
    if arguments.way:
        measure(arguments.way, arguments)
        return
    print(
        f"torch {torch.__version__}, CPU; {arguments.tokens} tokens × {arguments.vocabulary}, {arguments.hidden} wide"
    )
    for name in WAYS:
        subprocess.run([sys.executable, "-P", *sys.argv, "--way", name], check=True)


if __name__ == "__main__":
    main()
