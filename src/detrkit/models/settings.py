"""The settings that papers share, and the check that every configuration passes."""

from __future__ import annotations

import functools
import reprlib
import sys
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from detrkit.errors import OptionError

_LONGEST_SHOWN = 60  # characters of a wrong value in a message


@dataclass(frozen=True)
class Settings:
    """Base of all configurations. A paper's `Config` states its own defaults and adds its own settings.

    Attributes:
        class_count: outputs of the class head, not counting no-object; the authors have 91 since COCO's ids go up to 90.
        backbone: a name in `detrkit.backbones.BACKBONES`, or `timm/` and the name of a network of timm's, such as timm/convnext_tiny.
        queries: Q, the largest number of objects that can be detected in an image.
        width: D, the number of channels of the transformer.
        attention_heads: M, the number of attention heads.
        hidden: width between the two layers of a feed-forward network.
        encoder_layers: number of encoder layers.
        decoder_layers: L, the number of decoder layers.
        dropout: probability, everywhere in the transformer.
        class_weight: weight of the class term, in the loss and, unless a paper says otherwise, in the matching cost.
        l1_weight: weight of the distance loss (L1 distance of boxes), likewise.
        giou_weight: weight of the overlap loss (generalised IoU), likewise.

    Raises:
        ConfigurationError: a value of the wrong type, or an impossible number.
    """

    class_count: int = 91
    backbone: str = "resnet50"
    queries: int = 300
    width: int = 256
    attention_heads: int = 8
    hidden: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float = 0.1
    class_weight: float = 2.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0

    # The least value of each setting that has one; a paper adds those of its own settings.
    least: ClassVar[dict[str, int]] = {
        **dict.fromkeys(("class_count", "queries", "width", "attention_heads", "hidden", "decoder_layers"), 1),
        **dict.fromkeys(("encoder_layers", "dropout", "class_weight", "l1_weight", "giou_weight"), 0),
    }

    def __post_init__(self) -> None:
        for name, allowed in _types(self.__class__).items():  # type: ignore[arg-type]  # a class is hashable
            check_type(name, getattr(self, name), allowed)
        for name in _types(self.__class__):  # type: ignore[arg-type]
            value = getattr(self, name)
            if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
                raise OptionError(f"{name} must be a finite number, not {value}", name)
        for name, least in self.least.items():
            if not getattr(self, name) >= least:  # NaN fails this, too
                raise OptionError(f"{name} must be at least {least}, not {getattr(self, name)}", name)
        if not self.dropout < 1:
            raise OptionError(f"dropout must be below 1, not {self.dropout}", "dropout")
        self.check()

    @property
    def term_weights(self) -> dict[str, float]:
        """Weights by the names of the terms of matching and loss."""
        return {"class": self.class_weight, "l1": self.l1_weight, "giou": self.giou_weight}

    @property
    def training_queries(self) -> int:
        """Queries that go through the decoder in training: those of a paper with training groups are more than `queries`."""
        return self.queries

    @property
    def proposes(self) -> bool:
        """Whether every token of memory proposes a box."""
        return False

    @property
    def token_levels(self) -> int:
        """Feature levels whose cells become tokens."""
        return 1

    @property
    def compares_all(self) -> bool:
        """Whether attention in the encoder and from queries to tokens is dense, over all levels."""
        return True

    @property
    def kept_maps(self) -> int:
        """Maps with a number for each head, query and token that a decoder layer keeps in training besides its attention's own."""
        return 0

    @property
    def wide_heads(self) -> bool:
        """Whether each head of the decoder's attention has queries and keys as wide as the model."""
        return False

    @property
    def mask_width(self) -> int:
        """Channels of the features that masks are made from; 0 for models without masks."""
        return 0

    @property
    def kept_per_cell(self) -> int:
        """Numbers that training keeps of each cell besides those of the transformer."""
        return 0

    def encoded(self, tokens: float) -> float:
        """How many tokens an encoder layer sees, of so many cells."""
        return tokens

    def attended(self, tokens: float) -> float:
        """How many tokens a decoder layer looks at, of so many that the encoder has; the mean over the layers."""
        return tokens

    def check(self) -> None:
        """Checks the settings against each other.

        Raises:
            ConfigurationError: settings that do not fit together.
        """
        if self.width % self.attention_heads or self.width % 4:
            raise OptionError(
                f"width {self.width} must be a multiple of 4 (sine and cosine of two axes) and of the {self.attention_heads} attention heads",
                "width",
            )


@dataclass(frozen=True)
class CostSettings(Settings):
    """Base of the configurations of papers in which a term weighs differently in matching and in the loss.

    Attributes:
        class_weight: weight of the class term in the loss; `l1_weight` and `giou_weight` also apply to the loss only.
        class_cost: weight of the class term in the matching cost.
        l1_cost: weight of the box distance in the matching cost.
        giou_cost: weight of the generalised IoU in the matching cost.

    Raises:
        ConfigurationError: see `Settings`.
    """

    class_weight: float = 1.0
    class_cost: float = 2.0
    l1_cost: float = 5.0
    giou_cost: float = 2.0

    least: ClassVar[dict[str, int]] = Settings.least | dict.fromkeys(("class_cost", "l1_cost", "giou_cost"), 0)

    @property
    def cost_weights(self) -> dict[str, float]:
        """Weights in the matching cost by the names of the terms."""
        return {"class": self.class_cost, "l1": self.l1_cost, "giou": self.giou_cost}


@dataclass(frozen=True)
class MultiScaleSettings(Settings):
    """Base of the configurations of papers that look at several feature levels by deformable attention.

    Attributes:
        hidden: width between the two layers of a feed-forward network.
        levels: feature levels; the first three come from the backbone (a single level is its last), further ones are made from its last.
        points: sampling points of each head on each level.

    Raises:
        ConfigurationError: see `Settings`; or a width that does not suit the neck's norms.
    """

    hidden: int = 1024
    levels: int = 4
    points: int = 4

    @property
    def token_levels(self) -> int:
        """See `Settings.token_levels`."""
        return self.levels

    @property
    def compares_all(self) -> bool:
        """See `Settings.compares_all`; deformable attention sees points."""
        return False

    least: ClassVar[dict[str, int]] = Settings.least | {"levels": 1, "points": 1}

    def check(self) -> None:
        """See `Settings.check`."""
        if self.width % self.attention_heads or self.width % 32 or self.width < 64:
            raise OptionError(
                f"width {self.width} must be a multiple of 32 (groups of the neck's norms), at least 64, and a multiple of the {self.attention_heads} attention heads",
                "width",
            )


def check_type(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuses a value of the wrong type; whole numbers are fine where a float is allowed.

    Args:
        name: the setting's name.
        value: the setting's value.
        allowed: the types that it may have.

    Raises:
        OptionError: the value has none of these types.
    """
    kinds = (*allowed, int) if float in allowed else allowed
    if isinstance(value, bool) and bool not in allowed:
        kinds = ()
    if not isinstance(value, kinds):
        names = " or ".join("none" if kind is NoneType else kind.__name__ for kind in allowed)
        shown = reprlib.repr(value) if len(repr(value)) > _LONGEST_SHOWN else repr(value)
        raise OptionError(f"{name} must be of type {names}, not {type(value).__name__} ({shown})", name)


@functools.cache
def _types(config: Any) -> dict[str, tuple[Any, ...]]:
    """The types that each field of a configuration may have; both for `float | None`."""
    hints = get_type_hints(config)
    hints = {field.name: hints[field.name] for field in fields(config)}
    parts = {name: get_args(hint) if isinstance(hint, UnionType) else (hint,) for name, hint in hints.items()}
    return {name: tuple(get_origin(part) or part for part in kinds) for name, kinds in parts.items()}
