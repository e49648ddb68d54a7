"""Memory that a measurement takes: counted before it starts, and explained where it runs out all the same."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropesearch.core.machine import available_memory, readable_size

from .capture import device_of
from .sums import BLOCKS, rows_at_once

if TYPE_CHECKING:
    import torch

SHORTEST = 4 * BLOCKS
"""The smallest number of tokens that can be measured."""
ALLOCATOR = 1.2
"""What an allocator takes for each byte, as it leaves gaps between tensors."""


@dataclass(frozen=True)
class Demand:
    """What a measurement holds at once beside the weights, in bytes, by a count of its largest tensors and arrays.

    Attributes
    ----------
    heads, kv_heads, head_dim, hidden_size, intermediate_size : int
        The shape of the model.
    n_layers, n_passages : int
        Layers measured and passages read.
    width : int
        Bytes of one number of the model.
    device_type : str
        cpu or cuda.
    softmax, verify : bool
        Whether attention after the softmax is measured, and whether the model runs again with other bases.
    eager, masked : bool
        Whether the model's attention makes its matrices of length × length, and whether it makes a mask of that size.
    """

    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_passages: int
    width: int
    device_type: str
    softmax: bool
    verify: bool
    eager: bool
    masked: bool

    @classmethod
    def of_decoder(
        cls, decoder: Any, identity: Mapping[str, Any], *, n_layers: int, n_passages: int, softmax: bool, verify: bool
    ) -> "Demand":
        """Return the demand of a model in memory; `identity` as of `ModelConfig.identity`."""
        weight, config = decoder.embed_tokens.weight, decoder.config
        eager = config._attn_implementation == "eager"
        return cls(
            **{key: identity[key] for key in ("heads", "kv_heads", "head_dim", "hidden_size")},
            intermediate_size=config.intermediate_size,
            n_layers=n_layers,
            n_passages=n_passages,
            width=weight.element_size(),
            device_type=device_of(decoder).type,
            softmax=softmax,
            verify=verify,
            eager=eager,
            masked=eager or getattr(config, "sliding_window", None) is not None,
        )

    def bytes_to_run(self, length: int) -> int:
        """Count what a pass over `length` tokens holds at once on the device, at most."""
        heads, kv_heads, d = self.heads, self.kv_heads, self.head_dim
        group = heads // kv_heads
        # By token. While a layer runs: the residual stream and norms, and feed-forward or attention.
        attention = 6 * heads * d + 3 * kv_heads * d
        running = self.width * (6 * self.hidden_size + max(3 * self.intermediate_size, attention))
        # While its pairs are added up: queries and keys before and after rotation, and in float64 those of one KV
        # head, padded, and their spectra; spectra of pairs of blocks, and their sums. Or rows of the softmax.
        captured = self.width * (4 * self.hidden_size + 2 * (heads + kv_heads) * d)
        correlating = 8 * (group + 1) * 8 * d + 8 * group * BLOCKS * 6
        n_rows = rows_at_once(length, self.device_type)
        by_softmax = max(self.width, 4) * (group + 1) * (2 * d + 3 * n_rows) if self.softmax else 0
        adding = captured + max(correlating, by_softmax)
        # By pair of tokens: a mask, as numbers while it is in use; scores and weights of all heads, and the softmax
        # between them in float32.
        if self.masked:
            running += (1 + self.width) * length
            adding += (self.width if self.eager else 1) * length
        if self.eager:
            running += (2 * self.width + 8) * heads * length
            adding += self.width * heads * length
        return int(ALLOCATOR * length * max(running, adding))

    def bytes_in_all(self, length: int) -> int:
        """Count both, for a model that runs in the memory of the host."""
        return self.bytes_to_run(length) + self.bytes_of_sums(length)

    def bytes_of_sums(self, length: int) -> int:
        """Count what the sums and the curves made of them hold in the memory of the host."""
        n_curves = max(self.n_passages, 2) + 2 + self.softmax
        per_point = (8 + 4) * n_curves + 4 * self.verify
        return int(ALLOCATOR * per_point * self.n_layers * self.heads * (length // 2 + 1))


def require_memory(demand: Demand, length: int, device: "torch.device") -> None:
    """Raise MemoryError, with the longest length that fits, if `length` does not fit in the memory that is free."""
    pools = _pools(demand, device)

    def lacking(n: int) -> tuple[int, int] | None:
        """Bytes needed and free where they do not suffice."""
        return next(((needed(n), free) for needed, free in pools if needed(n) > free), None)

    short = lacking(length)
    if short is None:
        return
    fits, too_long = 0, length
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if lacking(middle) is None else (fits, middle)
    advice = f"a length of {fits} would fit" if fits >= SHORTEST else "no length would fit"
    needed, free = map(readable_size, short)
    msg = f"a length of {length} needs {needed} of memory beside the weights, and {free} is free: {advice}"
    raise MemoryError(msg)


@contextmanager
def explaining_lack(length: int) -> Iterator[None]:
    """Say in one line what torch says in several, or for the CPU in an error of its own."""
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


def _pools(demand: Demand, device: "torch.device") -> list[tuple[Callable[[int], int], int]]:
    """What is needed by length, and what is free, in each memory that says so: the host's, and a GPU's own."""
    import torch

    pools: list[tuple[Callable[[int], int], int]] = []
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # kept for the next tensors
        pools.append((demand.bytes_to_run, free))
    of_host = available_memory()
    if of_host is not None:
        pools.append((demand.bytes_of_sums if pools else demand.bytes_in_all, of_host))
    return pools
