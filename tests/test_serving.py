"""A checkpoint with bases on vLLM, in an environment of its own: ROPESEARCH_VLLM_PYTHON names its Python."""

import ast
import inspect
import json
import os
import subprocess
import textwrap
from pathlib import Path

import pytest
import torch
import transformers
from toys import BASES, base_set, tokens, toy
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from ropesearch import apply_bases, apply_to_checkpoint
from ropesearch.model.modeling_harpe import PerHeadAttention

PYTHON = os.environ.get("ROPESEARCH_VLLM_PYTHON")


def test_attention_functions_are_looked_up_in_the_form_that_vllm_reads():
    """By an assignment whose value is an entry of ALL_ATTENTION_FUNCTIONS, and one call of the name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(PerHeadAttention.forward)))
    assigned = [
        node.targets[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("ALL_ATTENTION_FUNCTIONS[")
    ]
    called = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert len(assigned) == 1
    assert called.count(assigned[0]) == 1


@pytest.mark.slow
def test_continuous_batching_of_transformers_gives_what_generate_does():
    if not hasattr(transformers, "ContinuousBatchingConfig"):
        pytest.skip("of a later transformers")
    model = toy("llama-grouped")
    apply_bases(model, base_set(BASES[2]))
    prompts = [tokens(n, seed=n).tolist() for n in (40, 7, 23)]
    how = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None)
    expected = [model.generate(torch.tensor([p]), generation_config=how)[0, len(p) :].tolist() for p in prompts]
    sizes = transformers.ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64, page_size=16)  # else all memory
    answers = model.generate_batch(prompts, generation_config=how, continuous_batching_config=sizes)
    assert [answers[f"req_{i}"].generated_tokens for i in range(3)] == expected


@pytest.fixture(scope="module", params=[False, True], ids=["one set", "layers differ"])
def served(request, tmp_path_factory):
    """Serve a toy with bases on vLLM: what it gave for each prompt, twice in turn, and what transformers says to that.

    Log-probabilities at each token that vLLM generated: vLLM's, those of the model with bases, of it in float32, and of
    the stock model.
    """
    folder = tmp_path_factory.mktemp("served")
    config = LlamaConfig(
        vocab_size=101,
        hidden_size=128,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.15,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder / "stock")
    bases = [(5e6, 300.0), (20000.0, 5e6), (1e5, 1e5)] if request.param else (20000.0, 5e6)
    apply_to_checkpoint(folder / "stock", base_set(bases, head_dim=32), folder / "out")
    long, short = tokens(150).tolist(), tokens(40, seed=1).tolist()
    prompts = [long, long[:100] + short, short]
    here = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    here["HF_MODULES_CACHE"] = str(folder / "modules")
    processors = sorted(os.sched_getaffinity(0))
    here_split = here | {"VLLM_CPU_OMP_THREADS_BIND": f"{processors[0]}|{processors[-1]}"}

    def serve(dtype, **options):
        script, result = Path(__file__).with_name("serve_on_vllm.py"), folder / "result.json"
        command = [PYTHON, "-P", script, folder / "out", json.dumps(options | {"dtype": dtype}), json.dumps(prompts)]
        env = here_split if "tensor_parallel_size" in options else here
        done = subprocess.run(
            [*command, result], env=env, cwd=folder, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        rows = json.loads(result.read_text())
        assert [row[0] for row in rows] == [0, 0, 0, 128, 128, 0]  # blocks of 128 tokens are kept
        load = AutoModelForCausalLM.from_pretrained
        models = [load(folder / "out", dtype=dtype), load(folder / "out"), load(folder / "stock")]
        for prompt, (_, generated, steps) in zip(prompts * 2, rows, strict=True):
            ids = torch.tensor([prompt + generated])
            with torch.no_grad():
                found = [m(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1) for m in models]
            yield generated, torch.tensor(steps), *found

    return serve


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="ROPESEARCH_VLLM_PYTHON names no Python of an environment with vLLM")
@pytest.mark.parametrize(
    "options",
    [
        {"enforce_eager": True},
        {"enforce_eager": False},
        {"enforce_eager": True, "tensor_parallel_size": 2, "distributed_executor_backend": "mp"},
    ],
    ids=["eager", "compiled", "split over two devices"],
)
def test_vllm_computes_what_transformers_does(served, options):
    """Heads that share keys, a prompt in chunks, three requests at once, and prefixes from the cache."""
    for generated, steps, ours, _, plain in served("float32", **options):
        assert ours.argmax(-1).tolist() == generated
        assert (steps - ours).abs().max() < 1e-4
        assert (steps - plain).abs().max() > 1


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="ROPESEARCH_VLLM_PYTHON names no Python of an environment with vLLM")
def test_vllm_in_bfloat16_is_as_near_as_transformers_in_bfloat16(served):
    """To the model in float32: neither rounds the angles."""
    errors = torch.tensor(
        [
            [(found - exact).square().mean().sqrt() for found in (steps, ours)]
            for _, steps, ours, exact, _ in served("bfloat16", enforce_eager=True)
        ]
    )
    theirs, ours = errors.square().mean(0).sqrt()
    assert theirs < 1.5 * ours, f"vLLM {theirs:.4f}, transformers {ours:.4f}"
