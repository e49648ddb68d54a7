"""Measure how the attention of a model in memory decays over distance.

A hook takes the queries and keys of one layer while the model runs, the sums over pairs are made of them, and they are
let go: no S × S matrix is made, and nothing grows with the depth of the model but the result.

Shapes: S tokens, H query heads, K KV heads, G = H / K query heads to a KV head, D channels, distances m = 0 … M.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ropesearch._version import __version__
from ropesearch.core import checks
from ropesearch.core.arrays import Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.machine import available_memory, readable_size
from ropesearch.core.model_config import MODEL_TYPES, SUPPORTED, ModelConfig
from ropesearch.core.model_source import ModelSource
from ropesearch.core.progress import Progress, counter
from ropesearch.model.apply import apply_bases, check_fit, find_decoder

from .data import BLOCKS, SINKS, Decay

SHORTEST = 4 * BLOCKS
SCORES_AT_ONCE = {"cpu": 2**17, "cuda": 2**24}
"""Entries of the attention matrix that the softmax works on at a time, for each head: as a cache or a GPU holds."""


def shipped_texts() -> dict[str, str]:
    """Return the two English texts that the package brings, written for it: a narrative and an essay.

    Returns
    -------
    dict of str
        Text by name; some 5 000 tokens each.
    """
    folder = Path(__file__).parent / "texts"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}


def measure_decay(
    model: Any,
    tokenizer: Any = None,
    texts: Mapping[str, Any] | None = None,
    *,
    length: int = 2048,
    layers: Sequence[int] | None = None,
    base_set: BaseSet | None = None,
    verify: bool = False,
    softmax: bool = False,
    name: str | None = None,
    progress: Progress | None = None,
) -> Decay:
    """Measure the mean pre-softmax attention of every head, by distance.

    The sums over pairs are exact, by FFT cross-correlation of queries and keys along the sequence, in float64.

    Parameters
    ----------
    model : transformers.PreTrainedModel, or a module around one
        Of type llama, mistral, qwen2 or qwen3, stock or with bases.
    tokenizer : transformers tokenizer, optional
        Not needed where `texts` are token ids.
    texts : mapping of str to str or to a sequence of int, optional
        Text, or its token ids, by name. Of one text the first and the second half are read, or, where they are
        shorter than `length`, its beginning alone. Left out: `shipped_texts()`.
    length : int
        Tokens that are read of each text, at least 64; distances go up to half of them.
    layers : sequence of int, optional
        Which layers are measured, from 0; all if left out.
    base_set : BaseSet, optional
        Bases whose effect is predicted.
    verify : bool
        Whether the model is run again with the bases, to see how good the prediction is.
    softmax : bool
        Whether attention after the softmax is measured too, which takes time quadratic in `length`.
    name : str, optional
        What the result calls the model.
    progress : callable, optional
        Called as progress(what, done, total).

    Returns
    -------
    Decay

    Raises
    ------
    ValueError
        If an argument is out of range, a text is shorter than `length`, a layer is not there, or the model is of
        another type or cannot take the bases (see `apply_bases`).
    MemoryError
        If the length does not fit in memory; the message says which would.
    ImportError
        If torch or transformers is not installed; the message names the extra that brings them.

    References
    ----------
    Su et al., arXiv:2104.09864, section 3.4.3; HARPE, arXiv:2412.07171, section 3.
    """
    n = checks.integer("length", length, SHORTEST)
    if checks.truth("verify", verify) and base_set is None:
        raise ParameterError("verify", verify, "left out unless bases are given")
    checks.truth("softmax", softmax)
    import torch
    import transformers

    decoder = find_decoder(model)
    called = name or getattr(decoder.config, "_name_or_path", "") or type(model).__name__
    config = ModelConfig.of(decoder.config.to_dict(), called)
    identity, rows = _checked(config, layers, base_set)
    passages = _passages(tokenizer, shipped_texts() if texts is None else texts, n, decoder.embed_tokens.num_embeddings)
    _require_memory(decoder, identity, n, softmax=softmax)

    passes = len(passages) * (2 if verify else 1)
    report = counter(progress, "layers", passes * len(rows))

    def summed(*, softmax: bool) -> _Sums:
        sums = _Sums(rows, identity, n, len(passages), softmax=softmax)
        for i, passage in enumerate(passages):
            _run(decoder, passage.ids, rows, sums.taking(i), report)
        return sums

    verified = None
    with _running(model), _out_of_memory(n):
        sums = summed(softmax=softmax)
        theta, scale = _frequencies(decoder, identity["kv_heads"])
        if verify and base_set is not None:
            with apply_bases(model, base_set):
                verified = summed(softmax=False).score()

    weight = next(decoder.parameters())
    return Decay(
        model={
            "name": called,
            **identity,
            "bases": None if config.bases is None else list(config.bases),
            "max_position_embeddings": config.max_position_embeddings,
            "dtype": str(weight.dtype).removeprefix("torch."),
        },
        texts=tuple({"name": p.name, "tokens": p.tokens, "from": p.start} for p in passages),
        length=n,
        layers=rows,
        inv_freq=theta,
        coefficients=sums.coefficients() * scale**2,
        agreement_to=n // 2 if len(passages) > 1 else n // 4,
        bases=None if base_set is None else base_set.bases,
        verified=verified,
        made_by={
            "ropesearch": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": _device_name(weight.device),
        },
        **sums.arrays(),
    )


def check_request(source: ModelSource, *, length: int, layers: Sequence[int] | None, base_set: BaseSet | None) -> None:
    """Raise, before the weights are loaded, what `measure_decay` would raise over the config of a model on disk."""
    checks.integer("length", length, SHORTEST)
    _checked(source.config(), layers, base_set)


def _checked(
    config: ModelConfig, layers: Sequence[int] | None, base_set: BaseSet | None
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """What tells the model from others, and the layers that are measured."""
    name = config.name
    if config.model_type not in (*SUPPORTED, *MODEL_TYPES):
        msg = f"{name} is a model of type {config.model_type}: only {', '.join(SUPPORTED)} can be measured"
        raise InputError(msg)
    if base_set is not None:
        check_fit(base_set, config)
    if config.num_hidden_layers is None:
        msg = f"{name}: it has no num_hidden_layers"
        raise InputError(msg)
    return config.identity(), _rows(layers, config.num_hidden_layers, name)


class _Passage(NamedTuple):
    """What is read of a text."""

    name: str
    tokens: int  # of the whole text
    start: int
    ids: Any  # (S,)


def _passages(tokenizer: Any, texts: Mapping[str, Any], length: int, vocabulary: int) -> list[_Passage]:
    import torch

    if not isinstance(texts, Mapping) or not texts:
        raise ParameterError("texts", texts, "a mapping of names to texts")
    passages = []
    for name, text in texts.items():
        first: list[int] = []
        if isinstance(text, str):
            if tokenizer is None:
                msg = "the model has no tokenizer that loads, and without one only token ids can be read"
                raise InputError(msg)
            first = _first_tokens(tokenizer)
            ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        else:
            ids = [checks.integer("every token", token, 0) for token in np.asarray(text).ravel().tolist()]
        largest = max(first + ids, default=0)
        if largest >= vocabulary:
            msg = f"the text {name} has the token {largest}, and the model knows those from 0 to {vocabulary - 1}"
            raise InputError(msg)
        total = len(first) + len(ids)
        if total < length:
            msg = f"the text {name} has {total} tokens, fewer than the length {length}"
            raise InputError(msg)
        starts = [0]
        if len(texts) == 1 and len(first) + len(ids) // 2 >= length:
            starts = [0, len(ids) // 2]
        for start in starts:
            passage = (first + ids[start : start + length])[:length]
            passages.append(_Passage(str(name), total, start, torch.tensor(passage)))
    return passages


def _first_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text, such as a <s>."""
    alone = tokenizer("").input_ids
    return alone[:1] if alone[:1] == [tokenizer.bos_token_id] else []


def _rows(layers: Sequence[int] | None, n_layers: int, name: str) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(n_layers))
    rows = sorted({checks.integer("every layer", layer, 0) for layer in layers})
    if not rows:
        raise ParameterError("layers", layers, "at least one layer")
    if rows[-1] >= n_layers:
        msg = f"layer {rows[-1]} is not there: {name} has {n_layers} layers, 0 to {n_layers - 1}"
        raise InputError(msg)
    return tuple(rows)


class _EnoughError(Exception):
    """The last layer that is wanted has been seen."""


class _Taken(NamedTuple):
    """Queries and keys of one layer, (S, H, D) and (S, K, D), before and after rotation."""

    row: int
    attention: Any
    query: Any
    key: Any
    rotated_query: Any
    rotated_key: Any


def _run(
    decoder: Any, ids: Any, rows: Sequence[int], take: Callable[[_Taken], None], report: Callable[[], None]
) -> None:
    """Run the model over one text and hand over every wanted layer's queries and keys as it comes to them."""
    import torch

    with ExitStack() as hooks:
        for row, layer in enumerate(rows):
            for hook in _hooks(row, decoder.layers[layer].self_attn, row == len(rows) - 1, take, report):
                hooks.callback(hook.remove)
        with torch.no_grad(), suppress(_EnoughError):
            decoder(input_ids=ids[None].to(decoder.embed_tokens.weight.device), use_cache=False)


def _hooks(
    row: int, attention: Any, last: bool, take: Callable[[_Taken], None], report: Callable[[], None]
) -> Iterator[Any]:
    """Hooks on one attention module: what goes to the rotation, the tables of it, and the end."""
    from ropesearch.model.modeling_harpe import rotate

    seen: dict[str, Any] = {}

    def keep(what: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            seen[what] = output[0].detach().view(output.shape[1], -1, attention.head_dim)  # (S, H or K, D)

        return hook

    def tables(module: Any, inputs: Any, named: Any) -> None:
        cos, sin = named["position_embeddings"] if "position_embeddings" in named else inputs[1]
        if cos.dim() == 3:  # stock: (1, S, D), the second half of the channels as the first
            half = attention.head_dim // 2
            cos, sin = cos[..., None, :half], sin[..., None, :half]
        seen["tables"] = cos[0], sin[0]  # (S, 1 or K, D/2)

    def end(module: Any, inputs: Any, output: Any) -> None:
        query, key, (cos, sin) = seen.pop("query"), seen.pop("key"), seen.pop("tables")
        group = query.shape[1] // key.shape[1]
        # In the dtype of the model: what is measured is what the model does.
        rotated_key = rotate(key, cos, sin)
        if cos.shape[1] > 1:
            cos, sin = (x.repeat_interleave(group, dim=1) for x in (cos, sin))
        take(_Taken(row, attention, query, key, rotate(query, cos, sin), rotated_key))
        report()
        if last:
            raise _EnoughError

    # Qwen3 normalises after the projection.
    yield getattr(attention, "q_norm", attention.q_proj).register_forward_hook(keep("query"))
    yield getattr(attention, "k_norm", attention.k_proj).register_forward_hook(keep("key"))
    yield attention.register_forward_pre_hook(tables, with_kwargs=True)
    yield attention.register_forward_hook(end)


class _Sums:
    """Sums over pairs, by distance: L layers, P passages."""

    def __init__(
        self, rows: Sequence[int], identity: Mapping[str, Any], length: int, passages: int, *, softmax: bool
    ) -> None:
        self._last = length // 2
        self._head_dim = identity["head_dim"]
        self._passages = passages
        heads, half = identity["heads"], identity["head_dim"] // 2
        shape = (len(rows), heads, self._last + 1)
        self._pairs = pairs_by_block(length, self._last)  # (blocks, M + 1)
        self._parts = np.zeros((max(passages, 2), *shape))  # sums of scores, by passage or half of it
        self._squares = np.zeros(shape)  # Σ_b N_b², N_b the sum of scores in block b
        self._products = np.zeros(shape)  # Σ_b n_b N_b, n_b the pairs in it
        self._query = np.zeros((len(rows), heads, half), np.complex128)
        self._key = np.zeros((len(rows), identity["kv_heads"], half), np.complex128)
        self._mass = np.zeros(shape) if softmax else None
        self._sink_mass = np.zeros(shape[:2])

    def taking(self, passage: int) -> Callable[[_Taken], None]:
        """Return what takes a layer of one passage in."""

        def take(taken: _Taken) -> None:
            row, kv_heads = taken.row, taken.key.shape[1]
            group = taken.query.shape[1] // kv_heads
            window = _window(taken.attention)
            for means, values in ((self._query, taken.query), (self._key, taken.key)):
                mean = values[SINKS:].double().mean(0).cpu().numpy()  # (H or K, D)
                means[row] += (mean[:, : mean.shape[1] // 2] + 1j * mean[:, mean.shape[1] // 2 :]) / self._passages
            for kv_head in range(kv_heads):
                heads = slice(kv_head * group, (kv_head + 1) * group)
                query = taken.rotated_query[:, heads].transpose(0, 1)  # (G, S, D)
                key = taken.rotated_key[:, kv_head]  # (S, D)
                blocks = correlate(query, key, self._last).cpu().numpy() / math.sqrt(self._head_dim)
                self._squares[row, heads] += (blocks * blocks).sum(1)
                self._products[row, heads] += (blocks * self._pairs).sum(1)
                if self._passages > 1:
                    self._parts[passage, row, heads] = blocks.sum(1)
                else:
                    self._parts[:, row, heads] = blocks.reshape(group, 2, -1, self._last + 1).sum(2).swapaxes(0, 1)
                if self._mass is not None:
                    mass, sinks = softmax_mass(query, key, self._last, taken.attention.scaling, window)
                    self._mass[row, heads] += mass.cpu().numpy() / self._passages
                    self._sink_mass[row, heads] += sinks.cpu().numpy() / self._passages

        return take

    def coefficients(self) -> npt.NDArray[np.complex128]:
        """c_f, (L, H, D/2)."""
        group = self._query.shape[1] // self._key.shape[1]
        product: npt.NDArray[np.complex128] = self._query * np.repeat(self._key, group, axis=1).conj()
        return product

    def score(self) -> npt.NDArray[np.float32]:
        """Means over all pairs, (L, H, M + 1)."""
        return self._means().astype(np.float32)

    def _means(self) -> Floats:
        means: Floats = self._parts.sum(0) / (self._passages * self._pairs.sum(0))
        return means

    def arrays(self) -> dict[str, Any]:
        """What a Decay holds of these sums."""
        pairs = self._pairs.sum(0)
        n, mean = self._passages * pairs, self._means()
        # The mean is a ratio of sums over blocks; its variance by the usual linearisation, Σ_b (N_b − n_b·mean)² / n².
        n_blocks = self._passages * (self._pairs > 0).sum(0)
        misses = (
            self._squares
            - 2 * mean * self._products
            + mean**2 * (self._passages * (self._pairs.astype(float) ** 2).sum(0))
        )
        error = np.sqrt(np.maximum(misses, 0) * n_blocks / np.maximum(n_blocks - 1, 1)) / n
        halves = self._pairs.reshape(2, -1, pairs.size).sum(1)
        of_parts = np.tile(pairs, (self._passages, 1)) if self._passages > 1 else halves
        parts = np.full(self._parts.shape, np.nan)
        np.divide(self._parts, of_parts[:, None, None], out=parts, where=of_parts[:, None, None] > 0)
        arrays: dict[str, Any] = {
            "pairs": n,
            "score": mean.astype(np.float32),
            "standard_error": error.astype(np.float32),
            "parts": parts.astype(np.float32),
        }
        if self._mass is not None:
            arrays["mass"] = (self._mass / pairs).astype(np.float32)
            arrays["sink_mass"] = self._sink_mass.astype(np.float32)
        return arrays


def pairs_by_block(length: int, last: int) -> npt.NDArray[np.int64]:
    """Pairs of a query in each block and a key, not one of the first four, m before it: (blocks, last + 1)."""
    size = -(-length // BLOCKS)
    starts = np.arange(BLOCKS) * size
    ends = np.minimum(starts + size, length)
    m = np.arange(last + 1)
    counts: npt.NDArray[np.int64] = np.maximum(ends[:, None] - np.maximum(starts[:, None], m + SINKS), 0)
    return counts


def correlate(query: Any, key: Any, last: int) -> Any:
    """Σ q_i·k_{i−m} over the queries i of each block, without the first four keys, for m = 0 … last.

    Queries and keys are cut into 16 blocks of B positions. The product of the spectra of a block of queries and one
    of keys l blocks before is that of the sums at distances l·B − B + 1 … l·B + B − 1; two such cover every distance.

    Parameters
    ----------
    query : tensor, shape (G, S, D)
    key : tensor, shape (S, D)
    last : int

    Returns
    -------
    tensor of float64, shape (G, 16, last + 1)
    """
    import torch

    n_heads, length, _ = query.shape
    size = -(-length // BLOCKS)
    room = BLOCKS * size - length
    pad = torch.nn.functional.pad
    query = pad(query.double(), (0, 0, 0, room)).view(n_heads, BLOCKS, size, -1).transpose(2, 3)  # (G, b, D, B)
    key = pad(key[SINKS:].double(), (0, 0, SINKS, room)).view(BLOCKS, size, -1).transpose(1, 2)  # (c, D, B)
    queries, keys = (torch.fft.rfft(x, n=2 * size) for x in (query, key))
    # Complex numbers as real matrices: of those, a batch is multiplied at once, and of complex ones one by one.
    queries = torch.view_as_real(queries.permute(3, 0, 1, 2).flatten(1, 2)).flatten(2)  # (F, G·b, 2D)
    conjugate = keys.conj().permute(2, 1, 0)  # (F, D, c)
    conjugates = torch.view_as_real(torch.stack((conjugate, 1j * conjugate), dim=2)).flatten(3).flatten(1, 2)
    products = (queries @ conjugates).reshape(-1, n_heads * BLOCKS, BLOCKS, 2)
    spectra = torch.view_as_complex(products)  # (F, G·b, c)
    sums = torch.fft.irfft(spectra.permute(1, 2, 0), n=2 * size).unflatten(0, (n_heads, BLOCKS))  # (G, b, c, 2B)
    farthest = last // size + 1
    result = query.new_zeros(n_heads, BLOCKS, farthest + 1, size)
    for apart in range(farthest + 1):
        of_blocks = sums.diagonal(-apart, 1, 2).transpose(1, 2)  # (G, b − apart, 2B): distances 0 … B−1, −B … −1
        result[:, apart:, apart] += of_blocks[..., :size]
        if apart:
            result[:, apart:, apart - 1] += of_blocks[..., size:]
    return result.flatten(2)[..., : last + 1]


def softmax_mass(query: Any, key: Any, last: int, scale: float, window: int | None) -> tuple[Any, Any]:
    """Attention after the softmax, summed by distance, and the mean share of the first four keys.

    Queries whose every key is one of those four are left out; each other row is scaled to 1 without the four.

    Parameters
    ----------
    query : tensor, shape (G, S, D)
    key : tensor, shape (S, D)
    last : int
    scale : float
        What a product of query and key is multiplied by.
    window : int or None
        How many keys, its own included, a query sees.

    Returns
    -------
    mass : tensor of float64, shape (G, last + 1)
    sinks : tensor of float64, shape (G,)
    """
    import torch

    n_heads, length, _ = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key = query.to(dtype) * scale, key.to(dtype)
    mass = torch.zeros(n_heads, last + 1, dtype=torch.float64, device=query.device)
    sinks = torch.zeros(n_heads, dtype=torch.float64, device=query.device)
    n_rows = max(16, SCORES_AT_ONCE[query.device.type] // length)
    for start in range(SINKS, length, n_rows):
        stop = min(start + n_rows, length)
        at = torch.arange(start, stop, device=query.device)[:, None]
        apart = at - torch.arange(stop, device=query.device)  # (R, stop)
        hidden = apart < 0
        if window is not None:
            hidden |= apart >= window
        scores = (query[:, start:stop] @ key[:stop].T).masked_fill_(hidden, -torch.inf)  # (G, R, stop)
        of_sinks = scores[..., :SINKS].logsumexp(-1)
        scores[..., :SINKS] = -torch.inf
        highest = scores.amax(-1, keepdim=True)
        shares = scores.sub_(highest).exp_()
        of_rest = shares.sum(-1, keepdim=True)
        shares /= of_rest
        sinks += (of_sinks - highest[..., 0] - of_rest[..., 0].log()).sigmoid().double().sum(-1)
        # Row r holds distance m at column start + r − m: with rows one entry further apart, m is one column.
        width = last + stop
        laid = shares.new_zeros(n_heads, stop - start, width)
        laid[..., last:] = shares
        skewed = laid.as_strided((n_heads, stop - start, last + 1), (laid[0].numel(), width + 1, 1), start)
        mass += skewed.sum(1).double().flip(-1)
    return mass, sinks / (length - SINKS)


def _window(attention: Any) -> int | None:
    """How many keys a query of this layer sees, or None for all."""
    from ropesearch.model.modeling_harpe import FAMILIES

    per_head = FAMILIES[attention.config.model_type.removeprefix("harpe_")][2]
    window: int | None = per_head._window(attention)  # which knows where each family, stock or not, keeps it
    return window


def _frequencies(decoder: Any, kv_heads: int) -> tuple[Floats, float]:
    """Frequencies of every KV head, (K, D/2), and the factor on cosine and sine."""
    rotary = decoder.rotary_emb
    if hasattr(rotary, "inv_freq"):
        theta = rotary.inv_freq.double().cpu().numpy()
        return np.tile(theta, (kv_heads, 1)), float(rotary.attention_scaling)
    return rotary._inv_freq.double().cpu().numpy(), 1.0


@contextmanager
def _running(model: Any) -> Iterator[None]:
    """Have a model run as in use, without dropout."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def bytes_needed(config: Mapping[str, Any], length: int, width: int, *, softmax: bool, masked: bool) -> int:
    """Bytes that a pass over `length` tokens takes beside the weights, at most, by a count of what is held at once.

    Parameters
    ----------
    config : mapping
        heads, kv_heads, head_dim, hidden_size and intermediate_size.
    length : int
    width : int
        Bytes of one number of the model.
    softmax, masked : bool
        Whether attention after the softmax is measured, and whether the model makes a mask of length × length.
    """
    heads, kv_heads, d = config["heads"], config["kv_heads"], config["head_dim"]
    group = heads // kv_heads
    # Residual stream and norms; the larger of feed-forward and attention; queries and keys twice.
    running = (
        6 * config["hidden_size"] + max(3 * config["intermediate_size"], 4 * heads * d) + 2 * (heads + kv_heads) * d
    )
    # In float64: padded queries and keys, their spectra and copies; spectra of pairs of blocks, and their sums.
    correlating = 8 * (group + 1) * 8 * d + 8 * group * BLOCKS * 6
    by_softmax = 8 * (group + 1) * d + 20 * group * max(16, SCORES_AT_ONCE["cuda"] // length) if softmax else 0
    mask = 5 * length if masked else 0
    return int(length * (width * running + max(correlating, by_softmax) + mask))


def _require_memory(decoder: Any, identity: Mapping[str, Any], length: int, *, softmax: bool) -> None:
    import torch

    weight = next(decoder.parameters())
    config = {**identity, "intermediate_size": decoder.config.intermediate_size}
    masked = getattr(decoder.config, "sliding_window", None) is not None
    masked |= decoder.config._attn_implementation == "eager"
    free = torch.cuda.mem_get_info(weight.device)[0] if weight.device.type == "cuda" else available_memory()
    if free is None:
        return
    if weight.device.type == "cuda":  # and what torch keeps for the next tensors
        free += torch.cuda.memory_reserved(weight.device) - torch.cuda.memory_allocated(weight.device)

    def needed(n: int) -> int:
        return bytes_needed(config, n, weight.element_size(), softmax=softmax, masked=masked)

    if needed(length) <= free:
        return
    fits, too_long = 0, length
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if needed(middle) <= free else (fits, middle)
    advice = f"a length of {fits} would fit" if fits >= SHORTEST else "no length would fit"
    msg = f"a length of {length} needs {readable_size(needed(length))} of memory beside the weights, and "
    msg += f"{readable_size(free)} is free: {advice}"
    raise MemoryError(msg)


@contextmanager
def _out_of_memory(length: int) -> Iterator[None]:
    """Say in one line what torch says in several, and in an error of its own for the CPU."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError:
        msg = f"the device ran out of memory at a length of {length}; {length // 2} takes half as much"
        raise MemoryError(msg) from None
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        msg = f"out of memory at a length of {length}; {length // 2} takes half as much"
        raise MemoryError(msg) from None


def _device_name(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)
