"""Peak memory of measurements beside the bytes that are demanded for them, as JSON, one line for each case.

MALLOC_MMAP_THRESHOLD_=65536 python tests/peaks.py

Each case runs in a process of its own, forked once torch is loaded, so that no memory is left over from another. With
that variable glibc gives every tensor back at once, as it otherwise does from 32 MB on, the size of a real model's.
"""

import gc
import json
import multiprocessing
import resource

import torch
from transformers import LlamaConfig, LlamaModel, MistralConfig, MistralModel

from ropesearch import measure_decay
from ropesearch.core.model_config import ModelConfig
from ropesearch.decay.memory import Demand

# Each with one part of the count in the foreground.
CASES = {
    "several heads": {"heads": 8, "length": 3072},
    "grouped heads": {"heads": 8, "kv_heads": 2, "length": 3072},
    "softmax": {"heads": 4, "kv_heads": 1, "length": 3072, "softmax": True},
    "bfloat16": {"heads": 8, "length": 4096, "dtype": "bfloat16"},
    "wide feed-forward": {"heads": 2, "length": 2048, "intermediate_size": 2560},
    "a window's mask": {"heads": 2, "length": 3072, "window": 256},
    "eager attention": {"heads": 4, "length": 1280, "attention": "eager"},
    "many layers": {"heads": 32, "head_dim": 2, "layers": 8, "length": 8192},
}


def model_of(case):
    shape = {
        "vocab_size": 101,
        "hidden_size": case["heads"] * case.get("head_dim", 64),
        "intermediate_size": case.get("intermediate_size", 64),
        "num_hidden_layers": case.get("layers", 2),
        "num_attention_heads": case["heads"],
        "num_key_value_heads": case.get("kv_heads", case["heads"]),
        "head_dim": case.get("head_dim", 64),
        "attn_implementation": case.get("attention", "sdpa"),
    }
    if "window" in case:
        model = MistralModel(MistralConfig(**shape, sliding_window=case["window"]))
    else:
        model = LlamaModel(LlamaConfig(**shape))
    return model.to(getattr(torch, case.get("dtype", "float32")))


def measured(name):
    """The name of a case, the bytes by which memory grew at most, and the bytes demanded."""
    case = CASES[name]
    model, length, softmax = model_of(case), case["length"], case.get("softmax", False)
    ids = torch.randint(1, 101, (length,)).tolist()
    measure_decay(model, None, {"first": ids[:64]}, length=64, softmax=softmax)  # loads what is loaded when used
    gc.collect()
    identity = ModelConfig.of(model.config.to_dict()).identity()
    counts = {"n_layers": len(model.layers), "n_passages": 1}
    demand = Demand.of_decoder(model, identity, **counts, softmax=softmax, verify=False)
    whole, of_files = resident()
    measure_decay(model, None, {"text": ids}, length=length, softmax=softmax)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - whole
    peak -= resident()[1] - of_files  # code, read from libraries when it is first used
    return {"case": name, "peak": peak, "demanded": demand.bytes_in_all(length)}


def resident():
    """Bytes of this process in memory, and those of them that are pages of files."""
    with open("/proc/self/statm") as statm:
        _, whole, of_files, *_ = map(int, statm.read().split())
    return whole * resource.getpagesize(), of_files * resource.getpagesize()


def main():
    torch.set_num_threads(1)  # whose threads would not outlive the fork
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        for result in pool.imap(measured, CASES, chunksize=1):
            print(json.dumps(result))


if __name__ == "__main__":
    main()
