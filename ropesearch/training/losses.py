"""The loss of a causal model without the logits of all its tokens, and its means by position in the row.

On a GPU it is TRL's fused head, in Triton. Elsewhere that falls back to torch operations on tiles of 4096 × 32768
logits, which take more memory and time than whole logits of a small model: there it is torch's linear_cross_entropy.
"""

import math
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch.nn import functional

CHUNK = 512
"""Tokens of which logits are there at once."""


class LossByPosition:
    """Mean loss of the tokens at positions below 16, 32, 64 … of a row, and not below the bound before."""

    def __init__(self, length: int, device: torch.device) -> None:
        self.ends = [2**power for power in range(4, max(math.ceil(math.log2(length)), 4) + 1)]
        edges = torch.tensor(self.ends, device=device)
        places = torch.arange(1, length + 1, device=device)  # of the token that each one predicts
        self.bins = torch.searchsorted(edges, places, right=True).clamp_(max=len(self.ends) - 1)
        self.sums = torch.zeros(2, len(self.ends), dtype=torch.float64, device=device)

    def add(self, log_probs: torch.Tensor, mask: torch.Tensor, first: int = 0) -> None:
        """Count log-probabilities, (B, n), given by tokens from position `first` on, where `mask` is true."""
        bins = self.bins[first : first + mask.shape[1]].expand_as(mask)[mask]
        self.sums[0].scatter_add_(0, bins, -log_probs[mask].double())
        self.sums[1].scatter_add_(0, bins, torch.ones_like(bins, dtype=torch.float64))

    def take(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Means since the last call, over all processes, by the bound of each bin."""
        sums, counts = reduce(self.sums).tolist()
        self.sums.zero_()
        return {str(end): s / n for end, s, n in zip(self.ends, sums, counts, strict=True) if n}


def has_torch_loss(device: torch.device) -> bool:
    """Whether the loss is torch's: the device has no Triton, and torch is new enough."""
    return device.type not in ("cuda", "xpu") and hasattr(torch.nn, "LinearCrossEntropyOptions")


def torch_loss(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, *, per_token: bool) -> torch.Tensor:
    """Log-probabilities of the labels, (N,) or their sum, of hidden states (N, H) and a head (V, H), in chunks.

    For the sum the gradient is computed with the loss; for each token, the logits are computed twice.
    """
    reduction = "none" if per_token else "sum"
    # By itself it makes chunks of a few tokens where the vocabulary is large, which takes up to ten times as long.
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=min(CHUNK, len(labels)), chunking_method=None)
    return -functional.linear_cross_entropy(hidden, weight, labels, reduction=reduction, options=options)


def put_torch_loss(model: Any, per_token: Callable[[], bool]) -> None:
    """Let a model compute `torch_loss` where SFTTrainer asks for its fused head.

    What SFTTrainer reads of the output beside the log-probabilities, entropy and accuracy, is zero.
    """
    from torch.distributed.tensor import DTensor
    from trl.trainer.utils import FusedCausalLMOutput

    before = model.forward

    def forward(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Any = None,
        shift_labels: Any = None,
        num_items_in_batch: Any = None,
        **options: Any,
    ) -> Any:
        if not fused_lm_head:
            return before(*args, labels=labels, **options)
        hidden = self.base_model(*args, **options).last_hidden_state
        if shift_labels is None:
            hidden, shift_labels = hidden[:, :-1], labels[:, 1:]
        weight = self.get_output_embeddings().weight
        if isinstance(weight, DTensor):  # FSDP2
            weight = weight.full_tensor()
        mask = shift_labels != -100
        each = per_token()
        log_probs = torch_loss(hidden.flatten(0, 1), weight, shift_labels.flatten(), per_token=each)
        if each:
            log_probs = log_probs.view(mask.shape)
        zero = torch.zeros((), device=hidden.device)
        count = mask.sum() if num_items_in_batch is None else num_items_in_batch
        return FusedCausalLMOutput(
            loss=-log_probs.sum() / torch.as_tensor(count).clamp(min=1),
            log_probs=log_probs,
            entropy=zero,
            is_top1=zero,
            label_mask=mask,
        )

    model.forward = MethodType(forward, model)
