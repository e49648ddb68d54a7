"""Load a checkpoint split over processes by transformers, and write its logits; run by torchrun.

torchrun --nproc-per-node 2 tensor_parallel.py FOLDER RESULT TOKENS, TOKENS a JSON list of lists. RESULT, by the first
process, holds the logits of a whole pass, those of a pass with a cache, token by token from the tenth on, and whether
weights are split.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig


def main():
    folder, result, tokens = sys.argv[1:]
    torch.set_num_threads(1)
    how = DistributedConfig(tp_size=2)
    model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=how, trust_remote_code=True)
    ids = torch.tensor(json.loads(tokens))
    with torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, :10], use_cache=True)
        steps, cache = [first.logits], first.past_key_values
        for i in range(10, ids.shape[1]):
            steps.append(model(ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits)
    if torch.distributed.get_rank() == 0:
        split = any(hasattr(weight, "device_mesh") for weight in model.parameters())
        torch.save({"whole": whole, "steps": torch.cat(steps, 1), "split": split}, result)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
