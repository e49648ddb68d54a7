"""Load a checkpoint split over processes by transformers, and write its logits; run by torchrun.

torchrun --nproc-per-node 2 tensor_parallel.py FOLDER RESULT TOKENS, TOKENS a JSON list of lists. RESULT, by the first
process, holds the logits of a whole pass and those of a pass with a cache, token by token from the tenth on.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM


def main():
    folder, result, tokens = sys.argv[1:]
    torch.set_num_threads(1)
    options = {"trust_remote_code": True}
    try:
        from transformers.distributed import DistributedConfig

        options["distributed_config"] = DistributedConfig(tp_size=2)
    except (ImportError, TypeError):  # the first 5.x releases
        options["tp_plan"] = "auto"
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    ids = torch.tensor(json.loads(tokens))
    with torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, :10], use_cache=True)
        steps, cache = [first.logits], first.past_key_values
        for i in range(10, ids.shape[1]):
            steps.append(model(ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits)
    if torch.distributed.get_rank() == 0:
        local = model.model.layers[0].self_attn.k_proj.weight.to_local().shape
        torch.save({"whole": whole, "steps": torch.cat(steps, 1), "local": tuple(local)}, result)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
