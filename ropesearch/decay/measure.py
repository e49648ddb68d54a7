"""Measure how the attention of a model in memory decays over distance.

The model runs once over every passage. Each layer's queries and keys are taken as it comes to them, added up over
pairs, and let go: no matrix of S × S is made, and nothing but the result grows with the depth of the model.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ropesearch._version import __version__
from ropesearch.core import checks
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.model_config import MODEL_TYPES, SUPPORTED, ModelConfig
from ropesearch.core.model_source import ModelSource
from ropesearch.core.progress import Progress, counter
from ropesearch.model.apply import apply_bases, find_decoder
from ropesearch.model.change import check_fit

from .capture import capture_layers, device_of, evaluating, read_frequencies
from .data import Decay
from .memory import SHORTEST, Demand, explaining_lack, require_memory
from .passages import read_passages, shipped_texts
from .sums import PairSums

if TYPE_CHECKING:
    import torch


def measure_decay(
    model: Any,
    tokenizer: Any = None,
    texts: Mapping[str, Any] | None = None,
    *,
    length: int = 2048,
    layers: Sequence[int] | None = None,
    base_set: BaseSet | None = None,
    scaling: str | None = None,
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
        Of a type that docs/models.md lists, stock or with bases.
    tokenizer : transformers tokenizer, optional
        Not needed where `texts` are token ids.
    texts : mapping of str to str or to a sequence of int, optional
        Texts, or their token ids, by name; `shipped_texts()` if left out. Of a single text both halves are read, or
        its beginning alone where they are shorter than `length`.
    length : int
        Tokens to read of each text, at least 64; distances go up to half of them.
    layers : sequence of int, optional
        The layers to measure, counted from 0; all that rotate queries and keys if left out.
    base_set : BaseSet, optional
        Bases to predict for.
    scaling : {"replace", "keep"}, optional
        What becomes of the rule of a scaled model under these bases, as for `apply_bases`.
    verify : bool
        Whether to run the model again with the bases, to see how good the prediction is.
    softmax : bool
        Whether to measure attention after the softmax too, which takes time quadratic in `length`.
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
        If an argument is out of range, a text is shorter than `length`, a layer does not exist, or the model is of
        another type or cannot take the bases (see `apply_bases`).
    MemoryError
        If the length does not fit in memory; the message says which length would.
    ImportError
        If torch or transformers is not installed; the message names the extra that brings them.

    References
    ----------
    Su et al., arXiv:2104.09864, section 3.4.3; HARPE, arXiv:2412.07171, section 3.
    """
    n = checks.integer("length", length, SHORTEST)
    if checks.truth("verify", verify) and base_set is None:
        raise ParameterError("verify", verify, "false unless a base_set is given")
    checks.truth("softmax", softmax)
    import torch
    import transformers

    decoder = find_decoder(model)
    called = name or getattr(decoder.config, "_name_or_path", "") or type(model).__name__
    config = ModelConfig.of(decoder.config.to_dict(), called)
    identity, measured = check_model(config, layers, base_set, scaling)
    given = shipped_texts() if texts is None else texts
    passages = read_passages(tokenizer, given, n, decoder.embed_tokens.num_embeddings)
    device = device_of(decoder)
    counts = {"n_layers": len(measured), "n_passages": len(passages)}
    shape = identity | {"head_dim": config.whole_head_dim}
    require_memory(Demand.of_decoder(decoder, shape, **counts, softmax=softmax, verify=verify), n, device)

    report = counter(progress, "layers", len(passages) * len(measured) * (2 if verify else 1))

    def add_up(*, softmax: bool) -> PairSums:
        sums = PairSums(len(measured), shape, n, len(passages), softmax=softmax)
        for i, passage in enumerate(passages):
            capture_layers(decoder, passage.ids, measured, partial(sums.add, i), report)
        return sums

    with evaluating(model), explaining_lack(n):
        sums = add_up(softmax=softmax)
        theta, scale = read_frequencies(decoder, identity["kv_heads"], measured)
        coefficients, curves = sums.coefficients(), sums.curves()
        coefficients[..., : config.head_dim // 2] *= scale**2
        del sums  # before those of the second run
        verified = None
        if verify and base_set is not None:
            with apply_bases(model, base_set, scaling=scaling):
                verified = add_up(softmax=False).score()

    return Decay(
        model={
            "name": called,
            **identity,
            "bases": None if config.bases is None else [list(b) if isinstance(b, tuple) else b for b in config.bases],
            "max_position_embeddings": config.max_position_embeddings,
            "rope": config.rope_values,
            "attention_factor": scale,
            "scaling": scaling if config.rope_values else None,
            "dtype": str(decoder.embed_tokens.weight.dtype).removeprefix("torch."),
        },
        texts=tuple({"name": p.name, "tokens": p.tokens, "from": p.start} for p in passages),
        length=n,
        layers=measured,
        inv_freq=theta,
        coefficients=coefficients,
        agreement_to=n // 2 if len(passages) > 1 else n // 4,
        bases=None if base_set is None else base_set.bases,
        verified=verified,
        made_by={
            "ropesearch": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": _device_name(device),
        },
        **curves,
    )


def check_request(
    source: ModelSource,
    *,
    length: int,
    layers: Sequence[int] | None,
    base_set: BaseSet | None,
    scaling: str | None = None,
) -> None:
    """Raise, before the weights are loaded, what `measure_decay` would raise over the config of a model on disk."""
    checks.integer("length", length, SHORTEST)
    check_model(source.config(), layers, base_set, scaling)


def check_model(
    config: ModelConfig, layers: Sequence[int] | None, base_set: BaseSet | None, scaling: str | None = None
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Return what tells a model apart and the layers to measure; raises ValueError as `measure_decay`."""
    name = config.name
    if config.model_type not in (*SUPPORTED, *MODEL_TYPES):
        msg = f"{name} is a model of type {config.model_type}; only {', '.join(SUPPORTED)} can be measured"
        raise InputError(msg)
    if base_set is not None:
        check_fit(base_set, config, scaling)
    identity = config.identity()
    if config.whole_head_dim != config.head_dim:
        identity["whole_head_dim"] = config.whole_head_dim
    return identity, _check_layers(layers, config)


def _check_layers(layers: Sequence[int] | None, config: ModelConfig) -> tuple[int, ...]:
    """The layers to measure, in ascending order, each once."""
    name, n_layers, turning = config.name, config.num_hidden_layers, config.rotating_layers
    if n_layers is None:
        msg = f"{name}: it has no num_hidden_layers"
        raise InputError(msg)
    if layers is None:
        return tuple(turning)
    wanted = sorted({checks.integer("every layer", layer, 0) for layer in layers})
    if not wanted:
        raise ParameterError("layers", layers, "at least one layer")
    if wanted[-1] >= n_layers:
        msg = f"layer {wanted[-1]} does not exist: {name} has {n_layers} layers, 0 to {n_layers - 1}"
        raise InputError(msg)
    for layer in wanted:
        if layer not in turning:
            does = "keeps its own rotary embedding" if config.by_layer_type else "does not rotate queries and keys"
            msg = f"layer {layer} of {name} {does}: there is no base to measure"
            raise InputError(msg)
    return tuple(wanted)


def _device_name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)
