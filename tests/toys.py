"""Small models of every family, and the slow and obvious twin of their forward pass with a base per KV head."""

import copy
from functools import partial

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ropesearch import BaseSet

STOCK = {
    "llama": "Llama",
    "mistral": "Mistral",
    "ministral": "Ministral",
    "mixtral": "Mixtral",
    "qwen2": "Qwen2",
    "qwen2_moe": "Qwen2Moe",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3Moe",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3",
    "glm": "Glm",
    "glm4": "Glm4",
    "granite": "Granite",
    "nemotron": "Nemotron",
    "olmo2": "Olmo2",
    "olmo3": "Olmo3",
    "phi": "Phi",
    "phi3": "Phi3",
    "smollm3": "SmolLM3",
    "stablelm": "StableLm",
    "starcoder2": "Starcoder2",
}
CLASSES = {
    name: (
        getattr(transformers, f"{stock}TextConfig" if name.endswith("_text") else f"{stock}Config"),
        getattr(transformers, f"{stock}ForCausalLM"),
    )
    for name, stock in STOCK.items()
}
REFUSED_BY_STOCK = (KeyError, StrictDataclassClassValidationError)
"""What stock classes raise on a checkpoint with bases: the latter Phi-3 alone, which looks at its rules sooner."""
HEADS, HEAD_DIM, BASE, VOCABULARY = 4, 16, 10000.0, 101
BASES = {4: (20000.0, 150000.0, 1e6, 5e6), 2: (20000.0, 5e6), 1: (3e5,)}
LAYER_TYPES = ["full_attention", "sliding_attention", "full_attention"]
LOCAL_BASE = 700.0  # of layers with a window, where each type of layer has a base
ROPES = {
    "full_attention": {"rope_type": "default", "rope_theta": BASE},
    "sliding_attention": {"rope_type": "default", "rope_theta": LOCAL_BASE},
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
# name: (family, KV heads, what else is particular)
TOYS = {
    "llama-multi-head": ("llama", 4, {}),
    "llama-grouped": ("llama", 2, {"attention_bias": True}),
    "llama-one-kv-head": ("llama", 1, {"tie_word_embeddings": True}),
    "mistral-grouped": ("mistral", 2, {"sliding_window": 24}),
    "qwen2-grouped": ("qwen2", 2, {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
    "qwen2-multi-head": ("qwen2", 4, {"tie_word_embeddings": True}),
    "qwen3-grouped": ("qwen3", 2, {}),
    "qwen3-one-kv-head": ("qwen3", 1, {"attention_bias": True}),
    "ministral": ("ministral", 2, {"sliding_window": 24, "layer_types": LAYER_TYPES}),
    "mixtral": ("mixtral", 2, {"sliding_window": 24, "num_local_experts": 4}),
    "qwen2_moe": ("qwen2_moe", 2, EXPERTS | {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
    "qwen3_moe": ("qwen3_moe", 2, EXPERTS),
    "gemma": ("gemma", 1, {}),
    "gemma2": (
        "gemma2",
        2,
        {"sliding_window": 24, "layer_types": LAYER_TYPES, "query_pre_attn_scalar": 40, "attn_logit_softcapping": 3.0},
    ),
    "gemma3_text": (
        "gemma3_text",
        2,
        {
            "sliding_window": 24,
            "layer_types": LAYER_TYPES,
            "query_pre_attn_scalar": 40,
            "rope_parameters": ROPES,
            "attn_logit_softcapping": 3.0,  # which its layers overlook
        },
    ),
    "glm": ("glm", 2, {"partial_rotary_factor": 1.0}),
    "glm4": ("glm4", 2, {}),
    "granite": (
        "granite",
        2,
        {"attention_multiplier": 0.4, "embedding_multiplier": 1.5, "residual_multiplier": 0.8, "logits_scaling": 2.0},
    ),
    "olmo2": ("olmo2", 2, {}),
    "olmo3": ("olmo3", 2, {"sliding_window": 24, "layer_types": LAYER_TYPES, "rope_parameters": ROPES}),
    "nemotron": ("nemotron", 2, {}),
    "phi": ("phi", 4, {"qk_layernorm": True}),
    "phi3": ("phi3", 2, {"sliding_window": 24}),
    "phi3 in part": ("phi3", 4, {"partial_rotary_factor": 0.75}),
    "smollm3": ("smollm3", 2, {"no_rope_layers": [1, 0, 1]}),
    "stablelm": ("stablelm", 2, {"qk_layernorm": True}),
    "stablelm without norms": ("stablelm", 4, {"partial_rotary_factor": 0.5, "use_parallel_residual": True}),
    "starcoder2": ("starcoder2", 2, {"sliding_window": 24}),
}


class WordTokenizer:
    """As much of a tokenizer as is asked for: a token for each word, and 1 before them all."""

    bos_token_id = 1

    def __call__(self, text, add_special_tokens=True, verbose=True):
        ids = [1] * add_special_tokens + [2 + sum(map(ord, word)) % (VOCABULARY - 2) for word in text.split()]
        return type("Encoding", (), {"input_ids": ids})


def save_with_tokenizer(model, folder):
    """Save a toy beside a tokenizer that splits at spaces."""
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)


def word_tokenizer(*texts):
    """A token for each word of the texts and each digit, and <s> before every text."""
    split = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    known = ["<s>", "<unk>", *(word for text in texts for word, _ in split.pre_tokenize_str(text))]
    words = {word: i for i, word in enumerate(dict.fromkeys(known))}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = split
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="<unk>")


def reader_toy(tokenizer):
    """A small Llama for the words of a tokenizer."""
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    torch.manual_seed(3)
    return transformers.LlamaForCausalLM(config).eval()


def save_gguf(model, file, scaling=None, divisors=()):
    """What llama.cpp makes of a Llama: other names, and the rows of q and k in the order in which it rotates them.

    `scaling` holds keys of a rule for the frequencies, and `divisors` the names of tensors with divisors of them.
    """
    from gguf import GGUFWriter

    config, weights = model.config, {key: w.numpy() for key, w in model.state_dict().items()}
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    for key, value in (scaling or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(f"llama.rope.{key}", value)
    for key in divisors:
        writer.add_tensor(key, np.ones(config.head_dim // 2, np.float32))
    parts = {"self_attn": "attn", "mlp": "ffn", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "output"}
    names |= {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for key, weight in weights.items():
        name = key.removesuffix(".weight")
        if name in top:
            writer.add_tensor(f"{top[name]}.weight", weight)
            continue
        _, _, layer, part, *projection = name.split(".")
        if projection and projection[0] in ("q_proj", "k_proj"):
            halves = weight.reshape(-1, 2, config.head_dim // 2, config.hidden_size)
            weight = halves.swapaxes(1, 2).reshape(weight.shape).copy()
        writer.add_tensor("_".join([f"blk.{layer}.{parts[part]}", *(names[p] for p in projection)]) + ".weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def toy_config(name, attention="sdpa", **more):
    family, kv_heads, particular = TOYS[name]
    config, _ = CLASSES[family]
    defaults = {"tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": BASE}}
    return config(
        vocab_size=VOCABULARY,
        hidden_size=HEADS * HEAD_DIM,
        intermediate_size=more.pop("intermediate_size", 96),
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        head_dim=HEAD_DIM,
        initializer_range=0.15,  # large enough that attention prefers some positions to others
        attn_implementation="eager" if family == "gemma2" else attention,  # which caps scores, as sdpa cannot
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        **defaults | copy.deepcopy(particular) | more,
    )


def toy(name, attention="sdpa", **more):
    config = toy_config(name, attention, **more)
    torch.manual_seed(1)
    model = CLASSES[config.model_type][1](config).eval()
    torch.manual_seed(2)
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):  # zero, as transformers makes them
            torch.nn.init.normal_(parameter, std=0.5)
    return model


SCALED = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    "yarn in all its words": {
        "rope_type": "yarn",
        "factor": 16.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 1.5,
        "mscale_all_dim": 0.7,
        "truncate": False,
    },
    "yarn with a factor on attention": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "attention_factor": 1.25,
    },
}
"""Rules of scaled models that bases can keep."""


def toy_by_layer_type(name, rule, own):
    """A toy with a rope for each type of layer: the rule is that of the global ones, `own` that of the others."""
    ropes = {kind: {**r, "rope_theta": ROPES[kind]["rope_theta"]} for kind, r in zip(ROPES, (rule, own), strict=True)}
    return toy(name, rope_parameters=ropes, max_position_embeddings=2048)


def scaled_toy(rule, attention="sdpa"):
    """The toy llama-grouped with a rule, as long as it makes it."""
    model = toy("llama-grouped", attention, max_position_embeddings=2048)
    config = model.config
    config.rope_parameters = SCALED[rule] | {"rope_theta": BASE}
    config.standardize_rope_params()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


def base_set(bases, heads=HEADS, head_dim=HEAD_DIM):
    return BaseSet.of(bases, heads=heads, head_dim=head_dim, strategy="by hand")


def sets(name):
    """A set with the model's own base for every KV head, and one with other bases."""
    kv_heads = TOYS[name][1]
    head_dim = int(HEAD_DIM * rotated_share(toy_config(name)))
    return base_set([BASE] * kv_heads, head_dim=head_dim), base_set(BASES[kv_heads], head_dim=head_dim)


def rotated_share(config):
    """Which part of the channels of each head turns."""
    return config.rope_parameters.get("partial_rotary_factor", 1)


def turning_layers(config):
    """The layers that turn by the bases that a model is given."""
    if "full_attention" in config.rope_parameters:
        return [layer for layer, kind in enumerate(config.layer_types) if kind == "full_attention"]
    listed = getattr(config, "no_rope_layers", None) or [1] * config.num_hidden_layers
    return [layer for layer, turns in enumerate(listed) if turns]


def sets_by_layer(name):
    """Two sets of a toy whose three layers have bases of their own: the same, those of `sets`, and different ones."""
    _, other = sets(name)
    rows = [other.bases] * 3, [[base ** (0.8 + layer / 5) for base in other] for layer in range(3)]
    same, different = (base_set(bases, head_dim=other.head_dim) for bases in rows)
    return same, different


def tokens(*shape, seed=0):
    return torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def naive_logits(model, bases, ids, seen=None, distances=None):
    """Logits of a causal model whose attention is that of `naive_attention`, with a base per KV head.

    `bases` are those of all layers, or a tuple of them for each. `seen`, a list, gets of every head of every layer
    queries and keys before rotation, scores and weights. `distances`, (S, S), is what each query is to see as its
    distance from each key.
    """
    attentions = [layer.self_attn for layer in model.model.layers]
    forwards = [vars(attention).get("forward") for attention in attentions]
    for layer, attention in enumerate(attentions):
        own = bases[layer] if isinstance(bases[0], tuple) else bases
        attention.forward = partial(naive_attention, attention, own, seen, distances)
    try:
        return model(ids, use_cache=False).logits
    finally:
        for attention, forward in zip(attentions, forwards, strict=True):
            del attention.forward
            if forward is not None:
                attention.forward = forward


def naive_attention(attention, bases, seen, distances, hidden_states, **_):
    """Attention of one layer: one head at a time, dense, angles in float64."""
    config, size, y = attention.config, attention.head_dim, hidden_states
    if hasattr(attention, "qkv_proj"):
        q_all, k_all, v_all = attention.qkv_proj(y).tensor_split(
            [config.num_attention_heads * size, (config.num_attention_heads + config.num_key_value_heads) * size], -1
        )
    else:
        q_all, k_all, v_all = attention.q_proj(y), attention.k_proj(y), attention.v_proj(y)
    if "olmo" in config.model_type:
        q_all, k_all = attention.q_norm(q_all), attention.k_norm(k_all)
    outputs = []
    for head in range(config.num_attention_heads):
        kv_head = head * config.num_key_value_heads // config.num_attention_heads
        q = q_all[..., head * size : (head + 1) * size]
        k = k_all[..., kv_head * size : (kv_head + 1) * size]
        v = v_all[..., kv_head * size : (kv_head + 1) * size]
        if "qwen3" in config.model_type or "gemma3" in config.model_type:
            q, k = attention.q_norm(q), attention.k_norm(k)
        if getattr(config, "qk_layernorm", False):
            norms = attention.q_layernorm, attention.k_layernorm
            if "stablelm" in config.model_type:
                norms = norms[0].norms[head], norms[1].norms[kv_head]
            q, k = norms[0](q), norms[1](k)
        before = q[0].detach().numpy(), k[0].detach().numpy()
        if distances is not None:
            scores = naive_scores(q, k, distances, bases[kv_head]) * naive_scale(config)
        else:
            if not hasattr(config, "no_rope_layers") or config.no_rope_layers[attention.layer_idx]:
                base = bases[kv_head] if attention.layer_idx in turning_layers(config) else LOCAL_BASE
                part = int(size * rotated_share(config))
                if "glm" in config.model_type:  # whose pairs are neighbours: scores are the same in another order
                    q, k = (torch.cat((x[..., 0:part:2], x[..., 1:part:2], x[..., part:]), -1) for x in (q, k))
                q, k = (torch.cat((naive_rotation(x[..., :part], base), x[..., part:]), -1) for x in (q, k))
            scores = q @ k.transpose(-1, -2) * naive_scale(config)
        distance = torch.arange(y.shape[1])[:, None] - torch.arange(y.shape[1])[None, :]
        hidden = distance < 0
        if window := naive_window(config, attention.layer_idx):
            hidden |= distance >= window
        capped = scores
        if config.model_type.endswith("gemma2"):
            capped = config.attn_logit_softcapping * (scores / config.attn_logit_softcapping).tanh()
        weights = capped.masked_fill(hidden, float("-inf")).softmax(-1)
        if seen is not None:
            seen.append((*before, scores[0].detach().numpy(), weights[0].detach().numpy()))
        outputs.append(weights @ v)
    project = attention.dense if hasattr(attention, "dense") else attention.o_proj
    return project(torch.cat(outputs, -1)), None


def naive_scale(config):
    """What a product of query and key is multiplied by."""
    if config.model_type.endswith("granite"):
        return config.attention_multiplier
    return getattr(config, "query_pre_attn_scalar", config.head_dim) ** -0.5


def naive_rotation(x, base):
    """Channels i and i + D/2 of x, (B, S, D), as complex numbers, turned by position · θ_i."""
    size = x.shape[-1]
    theta = np.array([base ** (-2 * i / size) for i in range(size // 2)])
    turn = torch.from_numpy(np.exp(1j * np.arange(x.shape[1])[:, None] * theta)).to(torch.complex64)
    turned = torch.complex(x[..., : size // 2].contiguous(), x[..., size // 2 :].contiguous()) * turn
    return torch.cat((turned.real, turned.imag), -1)


def naive_scores(q, k, distances, base):
    """Scores of queries and keys that were not rotated, (B, S, D), as if they stood at these distances, (S, S)."""
    size = q.shape[-1]
    q, k = (torch.complex(*x.double().chunk(2, -1)) for x in (q, k))
    theta = torch.tensor([base ** (-2 * i / size) for i in range(size // 2)], dtype=torch.float64)
    turn = torch.exp(1j * distances[..., None] * theta)  # (S, S, D/2)
    return torch.einsum("bqc,bkc,qkc->bqk", q, k.conj(), turn).real.float()


def naive_log_probabilities(logits, ids):
    """Log-probabilities of all tokens but the first, (B, S - 1), by the logits of a whole pass."""
    return logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]


def naive_sliding_nats(model, documents, length, stride):
    """-log p of every scored token, and its position: one window and one token at a time."""
    nats, positions = [], []
    for document in documents:
        scored = 0  # tokens before this position are
        for start in range(0, len(document) - length + 1, stride):
            window = document[start : start + length]
            with torch.no_grad():
                found = model(torch.tensor([window])).logits[0].double().log_softmax(-1)
            for i in range(1, length):
                if start + i > scored:
                    nats.append(-float(found[i - 1, window[i]]))
                    positions.append(start + i)
            scored = start + length - 1
    return np.array(nats), np.array(positions)


def naive_window(config, layer):
    """Tokens that a layer looks back over, or None."""
    if config.model_type.removeprefix("harpe_") in ("mistral", "mixtral", "phi3", "starcoder2"):
        return config.sliding_window
    kinds = getattr(config, "layer_types", None)
    return config.sliding_window if kinds and kinds[layer] == "sliding_attention" else None
