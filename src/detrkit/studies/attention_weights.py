"""Attention without dot products (Tay et al. 2021, "Synthesizer", arXiv:2005.00743): weights from the query alone, or random and fixed.

Deformable attention rests on this: it asks no key, its weights and places come from the query alone. Here dense attention of DETR gets its
weights in both ways, in the encoder and in the decoder, where every map has the same number of cells.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.layers.attention import MultiHeadAttention, merge_heads, split_heads
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
        queries: Q for weights that are random and fixed, one row for each query; None makes weights from the query.
    """

    def __init__(self, *, width: int, attention_heads: int, keys: int, queries: int | None = None) -> None:
        super().__init__()
        self.attention_heads, self.keys = attention_heads, keys
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.scores = None if queries is not None else nn.Linear(width, attention_heads * keys)
        self.fixed: Tensor | None
        self.register_buffer("fixed", None if queries is None else torch.randn(attention_heads, queries, keys))
        for linear in (self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002 - as `MultiHeadAttention`
        """(B, Q, D) queries and (B, S, D) values to (B, Q, D); keys are not looked at.

        Raises:
            ConfigurationError: there is another number of values.
        """
        if value.shape[1] != self.keys:
            raise ConfigurationError(
                f"attention without keys was made for images of {self.keys} cells, not of {value.shape[1]}: give the study square images of one size, "
                "such as --data digits"
            )
        if self.fixed is not None:
            weights = self.fixed.softmax(-1)  # (M, Q, S)
        else:
            assert self.scores is not None
            weights = self.scores(query).unflatten(-1, (self.attention_heads, -1)).transpose(1, 2).softmax(-1)
        return self.output(merge_heads(weights @ split_heads(self.value(value), self.attention_heads)))  # type: ignore[no-any-return]


def replace_attention(module: TrainingModule, *, part: str, name: str, fixed: bool) -> None:
    """Replaces one kind of attention in every layer of a part.

    Args:
        module: of a new run, with square images.
        part: `encoder`, whose queries are the cells, or `decoder`.
        name: of the attention in a layer.
        fixed: whether weights are random and fixed; if not, they are made from the query.
    """
    model, side = module.model, module.options.short_side
    assert side is not None
    keys = (side // model.backbone.strides[-1]) ** 2
    queries = keys if part == "encoder" else model.card.config["queries"]
    for layer in (encoder_layers if part == "encoder" else decoder_layers)(model):
        before = getattr(layer, name)
        assert isinstance(before, MultiHeadAttention)
        sizes: dict[str, Any] = {"width": before.width, "attention_heads": before.attention_heads, "keys": keys}
        setattr(layer, name, SynthesizedAttention(**sizes, queries=queries if fixed else None))


_ENCODER = partial(replace_attention, part="encoder", name="attention")
_CROSS = partial(replace_attention, part="decoder", name="cross_attention")

STUDY = Study(
    title="Weights of attention without asking the keys",
    claim="Weights from the query alone come close to dot products, random ones are not far behind, in language (Synthesizer).",
    trials={
        "dot products": Trial("detr-compact", {**dense(), "watch": "convergence"}),  # as in other studies
        "encoder: from the query alone": Trial("detr-compact", dense(), partial(_ENCODER, fixed=False)),
        "encoder: random and fixed": Trial("detr-compact", dense(), partial(_ENCODER, fixed=True)),
        "no encoder": Trial("detr-compact", dense(encoder_layers=0)),
        "decoder: from the query alone": Trial("detr-compact", dense(), partial(_CROSS, fixed=False)),
        "decoder: random and fixed": Trial("detr-compact", dense(), partial(_CROSS, fixed=True)),
    },
    options={**OPTIONS, "epochs": 4},
    single_class=True,
)
