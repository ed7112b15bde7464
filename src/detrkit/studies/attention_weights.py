"""Attention without dot products (Tay et al. 2021, "Synthesizer", arXiv:2005.00743): weights from the query alone, or random ones.

Deformable attention rests on this: it asks no key, its weights and places come from the query alone. Here dense attention of DETR gets its
weights from the query, or from random numbers that learn or stay, in the encoder or in the decoder; every map has the same number of cells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.layers.attention import MultiHeadAttention, merge_heads, split_heads
from detrkit.layers.heads import MLP
from detrkit.layers.initialization import xavier_matrices
from detrkit.studies.parts import decoder_layers, encoder_layers
from detrkit.studies.setting import OPTIONS, dense
from detrkit.studies.study import Study, Trial
from detrkit.training.module import TrainingModule


class SynthesizedAttention(nn.Module):
    """Attention whose weights do not depend on the keys.

    Args:
        width: D.
        attention_heads: M.
        keys: S, the same in every image.
        queries: Q for weights that are random numbers, a row for each query; None makes them from the query by two linear layers with a ReLU.
        learned: whether random numbers are trained.
    """

    def __init__(
        self, *, width: int, attention_heads: int, keys: int, queries: int | None = None, learned: bool = False
    ) -> None:
        super().__init__()
        self.attention_heads, self.keys = attention_heads, keys
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.scores = MLP(width, width, attention_heads * keys) if queries is None else None
        self.random = (
            None
            if queries is None
            else nn.Parameter(torch.randn(attention_heads, queries, keys), requires_grad=learned)
        )
        # As large as values of `MultiHeadAttention`, which are a third of a matrix that is drawn at once.
        nn.init.xavier_uniform_(self.value.weight, gain=0.5**0.5)
        nn.init.xavier_uniform_(self.output.weight)
        for linear in (self.value, self.output):
            nn.init.zeros_(linear.bias)
        if self.scores is not None:
            xavier_matrices(self.scores)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002 - as `MultiHeadAttention`
        """(B, Q, D) queries and (B, S, D) values to (B, Q, D); keys are not looked at.

        Raises:
            ConfigurationError: there is another number of values, or images are padded.
        """
        if value.shape[1] != self.keys or mask is not None:
            found = "padded images" if mask is not None else f"images of {value.shape[1]}"
            raise ConfigurationError(
                f"attention without keys was made for images of {self.keys} cells, not for {found}: give the study square images of one size, "
                "such as --data digits"
            )
        if self.random is not None:
            weights = self.random.softmax(-1)  # (M, Q, S)
        else:
            assert self.scores is not None
            weights = torch.unflatten(self.scores(query), -1, (self.attention_heads, -1)).transpose(1, 2).softmax(-1)
        return self.output(merge_heads(weights @ split_heads(self.value(value), self.attention_heads)))  # type: ignore[no-any-return]


def replace_attention(
    module: TrainingModule, *, part: str, name: str, random: bool = False, learned: bool = False
) -> None:
    """Replaces one kind of attention in every layer of a part.

    Args:
        module: of a new run, with square images.
        part: `encoder`, whose queries are the cells, or `decoder`.
        name: of the attention in a layer.
        random: whether weights are random numbers; if not, they are made from the query.
        learned: whether random numbers are trained.
    """
    model, side = module.model, module.options.short_side
    assert side is not None
    keys = (-(-side // model.backbone.strides[-1])) ** 2
    queries = keys if part == "encoder" else model.card.config["queries"]
    for layer in (encoder_layers if part == "encoder" else decoder_layers)(model):
        before = getattr(layer, name)
        assert isinstance(before, MultiHeadAttention)
        sizes: dict[str, Any] = {"width": before.width, "attention_heads": before.attention_heads, "keys": keys}
        setattr(layer, name, SynthesizedAttention(**sizes, queries=queries if random else None, learned=learned))


_ENCODER = partial(replace_attention, part="encoder", name="attention")
_CROSS = partial(replace_attention, part="decoder", name="cross_attention")


def _instead(replaced: Callable[..., None], name: str) -> dict[str, Trial]:
    kinds: dict[str, dict[str, bool]] = {
        "from the query alone": {},
        "random, learned": {"random": True, "learned": True},
        "random and fixed": {"random": True},
    }
    return {
        f"{name}: {kind}": Trial("detr-compact", dense(), change=partial(replaced, **arguments))
        for kind, arguments in kinds.items()
    }


STUDY = Study(
    title="Weights of attention without asking the keys",
    claim="In language, weights from the query alone and learned ones that see no token come close to dot products, fixed ones less (Synthesizer).",
    trials={
        "dot products": Trial("detr-compact", {**dense(), "watch": "convergence"}),  # as in other studies
        **_instead(_ENCODER, "encoder"),
        "no encoder": Trial("detr-compact", dense(encoder_layers=0)),
        **_instead(_CROSS, "decoder"),
    },
    options={**OPTIONS, "epochs": 4},
    single_class=True,
)
