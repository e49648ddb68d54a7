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
from toys import base_set, tokens
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ropesearch import apply_to_checkpoint
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
@pytest.mark.skipif(PYTHON is None, reason="ROPESEARCH_VLLM_PYTHON names no Python of an environment with vLLM")
@pytest.mark.parametrize("by_layer", [False, True], ids=["one set", "layers differ"])
@pytest.mark.parametrize("eager", [True, False], ids=["eager", "compiled"])
def test_vllm_computes_what_transformers_does(tmp_path, eager, by_layer):
    """Heads that share keys, a prompt in chunks, three requests at once, and prefixes from the cache."""
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
    stock = LlamaForCausalLM(config).eval()
    stock.save_pretrained(tmp_path / "stock")
    bases = [(5e6, 300.0), (20000.0, 5e6), (1e5, 1e5)] if by_layer else (20000.0, 5e6)
    apply_to_checkpoint(tmp_path / "stock", base_set(bases, head_dim=32), tmp_path / "out")
    long, short = tokens(150).tolist(), tokens(40, seed=1).tolist()
    prompts = [long, long[:100] + short, short]

    here = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    here["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    script, result = Path(__file__).with_name("serve_on_vllm.py"), tmp_path / "result.json"
    command = [PYTHON, "-P", script, tmp_path / "out", str(int(eager)), json.dumps(prompts), result]
    done = subprocess.run(command, env=here, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    rows = json.loads(result.read_text())
    assert [row[0] for row in rows] == [0, 0, 0, 128, 128, 0]  # blocks of 128 tokens are kept
    for prompt, (_, generated, steps) in zip(prompts * 2, rows, strict=True):
        ids = torch.tensor([prompt + generated])
        with torch.no_grad():
            ours, plain = (m(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for m in (model, stock))
        assert ours.argmax(-1).tolist() == generated
        assert (torch.tensor(steps) - ours).abs().max() < 1e-4
        assert (torch.tensor(steps) - plain).abs().max() > 1
