"""How a model reads long texts: in chunks with a cache, so that memory grows with the length, not its square."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ropesearch.core.machine import available_memory, readable_size
from ropesearch.core.tokens import check_known

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

CHUNK = 2048
"""Tokens that are read at once."""
TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 65536}
"""Tokens of a batch, where no batch size is asked for: on a CPU larger ones gain nothing."""
LARGEST_BATCH = 64


class Reader:
    """A causal model of transformers that reads token ids; all that suites need to know of models.

    Parameters
    ----------
    model : PreTrainedModel
    chunk : int
        Tokens to read at once; shorter ones take less memory.
    batch_size : int, optional
        Samples to read at once; found by trying if left out.
    """

    def __init__(self, model: Any, *, chunk: int = CHUNK, batch_size: int | None = None) -> None:
        self.model = model
        self.chunk, self.asked = chunk, batch_size
        self.device = next(model.parameters()).device
        self.vocabulary = int(model.config.get_text_config().vocab_size)

    def log_probabilities(self, ids: "torch.Tensor", last: int) -> "torch.Tensor":
        """Log-probabilities of the last tokens of each row, each given all tokens before it.

        Parameters
        ----------
        ids : tensor of int64, shape (B, L)
        last : int
            How many tokens, from 1 to L − 1.

        Returns
        -------
        tensor of float32, shape (B, last), on the CPU
            In nats.
        """
        import torch

        self._check_known(ids)
        length = ids.shape[1]
        first = length - last  # the first token to score, predicted at the place before it
        found = []
        for start, logits in self._read(ids[:, :-1].to(self.device), first - 1):
            targets = ids[:, start + 1 : start + 1 + logits.shape[1], None].to(logits.device)
            # Not log_softmax, which would hold the logits a second time.
            chosen = logits.gather(2, targets)[..., 0].float()
            normalizer = torch.stack([row.float().logsumexp(-1) for row in logits])
            found.append((chosen - normalizer).cpu())
        return torch.cat(found, 1)

    def most_likely(self, ids: "torch.Tensor", last: int, among: Sequence[int]) -> "torch.Tensor":
        """Of the tokens `among`, the one that is most likely at each of the last places, given all tokens before it.

        Parameters
        ----------
        ids : tensor of int64, shape (B, L)
        last : int
            How many places, from 1 to L − 1.
        among : sequence of int
            Token ids; the first of equals is taken.

        Returns
        -------
        tensor of int64, shape (B, last), on the CPU
        """
        import torch

        self._check_known(ids)
        check_known(among, self.vocabulary)
        chosen = torch.tensor(among, device=self.device)
        first = ids.shape[1] - last - 1
        found = [
            chosen[logits[..., chosen].argmax(-1)].cpu() for _, logits in self._read(ids[:, :-1].to(self.device), first)
        ]
        return torch.cat(found, 1)

    def context(self, ids: "torch.Tensor") -> Any:
        """Cache of transformers after reading `ids`, shape (B, L)."""
        import torch

        self._check_known(ids)
        with torch.inference_mode():
            return self._prefill(ids)[0]

    def continue_from(self, cache: Any, ids: "torch.Tensor") -> "torch.Tensor":
        """Log-probabilities of every token of the vocabulary after `ids`, shape (S,), which follow what `cache` holds.

        The cache is left as it was. Returns a tensor of float32, shape (vocabulary,), on the CPU.
        """
        import torch

        self._check_known(ids)
        # A layer with a window forgets what is outside, and cannot go back.
        windowed = any(getattr(layer, "is_sliding", False) for layer in cache.layers)
        used = copy.deepcopy(cache) if windowed else cache
        with torch.inference_mode():
            out = self.model(
                input_ids=ids[None].to(self.device), past_key_values=used, use_cache=True, logits_to_keep=1
            )
        if not windowed:
            cache.crop(-len(ids))  # a positive number meant what is left, in older releases
        found: torch.Tensor = out.logits[0, -1].float().log_softmax(-1).cpu()
        return found

    def greedy(self, ids: "torch.Tensor", n: int) -> "torch.Tensor":
        """The most likely continuation of each row of `ids`, shape (B, L), token by token; shape (B, n), on the CPU."""
        import torch

        self._check_known(ids)
        found = []
        with torch.inference_mode():
            cache, out = self._prefill(ids)
            for _ in range(n):
                token = out.logits[:, -1].argmax(-1, keepdim=True)
                found.append(token)
                if len(found) < n:
                    out = self.model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return torch.cat(found, 1).cpu()

    def in_batches(
        self, samples: Sequence[T], length: int, score: Callable[[Sequence[T]], list[dict[str, Any]]]
    ) -> Iterator[list[dict[str, Any]]]:
        """Score samples of `length` tokens in batches, each as large as memory allows; yields what `score` gives.

        Raises
        ------
        MemoryError
            If not even one fits; the message says which length would.
        """
        import torch

        at_once = TOKENS_AT_ONCE["cuda" if self.device.type == "cuda" else "cpu"]
        size = self.asked or max(1, min(LARGEST_BATCH, at_once // length))
        done = 0
        while done < len(samples):
            self.require_memory(length)
            try:
                found = score(samples[done : done + size])
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                if size == 1:
                    raise MemoryError(self._too_long(length, torch.cuda.mem_get_info()[0])) from None
                size //= 2
                continue
            done += size
            yield found

    def require_memory(self, length: int) -> None:
        """Raise MemoryError, with the length that would fit, if one sample of `length` tokens certainly does not."""
        if self.device.type != "cuda":
            free = available_memory()
            if free is not None and self._bytes(length) > free:
                raise MemoryError(self._too_long(length, free))

    def _too_long(self, length: int, free: int) -> str:
        per_token = self._bytes(2) - self._bytes(1)
        fits = max((free - self._bytes(0)) // per_token, 0)
        longest = f"{fits} tokens would fit" if 16 <= fits < length else "no useful length would fit"
        needed = readable_size(self._bytes(length))
        return (
            f"{length} tokens need {needed} of memory beside the weights, and {readable_size(free)} is free: {longest}"
        )

    def _bytes(self, length: int) -> int:
        """Bytes that a sample takes at least: its cache, and the logits of a chunk in float32."""
        config = self.model.config.get_text_config()
        width = int(next(self.model.parameters()).element_size())
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        cache = 2 * int(config.num_hidden_layers) * int(heads) * int(head_dim) * width
        return length * cache + self.chunk * self.vocabulary * 4

    def _check_known(self, ids: "torch.Tensor") -> None:
        """Raise InputError for a token that the model does not know: a GPU would fail over it for good."""
        check_known([int(ids.max())], self.vocabulary)

    def _read(self, ids: "torch.Tensor", first: int) -> "Iterator[tuple[int, torch.Tensor]]":
        """Logits at the places from `first` to the end of `ids`, as (place of the first, (B, places, vocabulary))."""
        import torch

        length = ids.shape[1]
        cache = self._cache() if length > self.chunk else None
        with torch.inference_mode():
            for start in range(0, length, self.chunk):
                end = min(start + self.chunk, length)
                keep = max(end - max(start, first), 1)  # zero would mean all
                out = self.model(
                    input_ids=ids[:, start:end],
                    past_key_values=cache,
                    use_cache=cache is not None,
                    logits_to_keep=keep,
                )
                if end > first:
                    yield end - keep, out.logits

    def _prefill(self, ids: "torch.Tensor") -> tuple[Any, Any]:
        """Read `ids`, (B, L), in chunks; return the cache, and the output of the last chunk."""
        cache = self._cache()
        for start in range(0, ids.shape[1], self.chunk):
            piece = ids[:, start : start + self.chunk].to(self.device)
            out = self.model(input_ids=piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, out

    def _cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)
