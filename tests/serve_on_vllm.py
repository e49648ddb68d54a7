"""Serve a model on vLLM's transformers backend and write what it generates; runs in an environment that has vLLM.

python serve_on_vllm.py FOLDER OPTIONS PROMPTS RESULT, OPTIONS those of vLLM's LLM that differ, as a JSON object,
PROMPTS a JSON list of lists of tokens. RESULT is a JSON list, for each prompt, twice in turn, of: how many of its
tokens came from the cache, the tokens generated, and the log-probabilities of the whole vocabulary at each of them.
"""

import json
import sys
from pathlib import Path


def main():
    from vllm import LLM, SamplingParams

    folder, options, prompts, result = sys.argv[1:]
    vocabulary = json.loads(Path(folder, "config.json").read_text())["vocab_size"]
    llm = LLM(
        model=folder,
        trust_remote_code=True,
        model_impl="transformers",
        skip_tokenizer_init=True,
        max_model_len=256,
        max_logprobs=vocabulary,
        enable_prefix_caching=True,
        max_num_batched_tokens=64,  # the longer prompts come in chunks
        max_num_seqs=4,
        **json.loads(options),
    )
    how = SamplingParams(temperature=0, max_tokens=8, logprobs=vocabulary, detokenize=False)
    rows = []
    for _ in range(2):
        for answer in llm.generate([{"prompt_token_ids": ids} for ids in json.loads(prompts)], how, use_tqdm=False):
            (output,) = answer.outputs
            steps = [[step[token].logprob for token in range(vocabulary)] for step in output.logprobs]
            rows.append([answer.num_cached_tokens, list(output.token_ids), steps])
    with open(result, "w") as file:
        json.dump(rows, file)


if __name__ == "__main__":  # vLLM starts processes that import this file
    main()
