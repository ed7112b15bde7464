"""More supervision in training than a paper has, as a part that any fitting model takes: what DN-DETR, H-DETR and Group DETR brought, each alone.

One-to-one matching teaches one query for each object, and another one whenever the matching changes. Three ways to teach more have been found,
all of which add queries that exist in training only:

- "denoising": noised copies of the objects, from which the objects have to be restored (Li et al. 2022, DN-DETR, arXiv:2203.01305, in the
  contrastive form of Zhang et al. 2022, DINO, arXiv:2203.03605, section 3.3).
- "one-to-many": more queries, matched to each object several times (Jia et al. 2023, H-DETR, arXiv:2207.13080, section 3.2).
- "groups": copies of all queries, each matched one-to-one by itself (Chen et al. 2023, Group DETR, arXiv:2207.13085, section 3).

What is added is the model's attribute `supervision`. It runs in training only, is not saved with the model, and does not change what the model
computes in evaluation.
"""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigurationError, OptionError, closest
from detrkit.layers.denoising import MOST_BOX_NOISE, ContrastiveDenoising
from detrkit.layers.heads import MLP
from detrkit.layers.initialization import xavier_matrices
from detrkit.layers.position_encoding import reference_code
from detrkit.layers.targets import needed
from detrkit.layers.training_groups import split_off
from detrkit.losses.criterion import SetCriterion, names_of
from detrkit.losses.sets import KnownGroup, PredictionSet, RepeatedGroup
from detrkit.models.catalog import FAMILIES, config_of
from detrkit.models.conditional_detr import PointQueries
from detrkit.models.dab_detr import AnchorQueries
from detrkit.models.deformable_detr import LearnedReferences, ProposalQueries
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.detr import LearnedQueries
from detrkit.models.settings import check_type
from detrkit.structures import Memory, Queries, QueryGroup, Target

# Query sources whose rows are independent of each other, so that there can be more of them.
_SOURCES = (LearnedQueries, PointQueries, AnchorQueries, LearnedReferences, ProposalQueries)


@dataclass(frozen=True)
class Supervision(ABC):
    """Base of what can be added; `Denoising`, `OneToMany` and `Groups` say how much.

    Raises:
        OptionError: an impossible number.
    """

    name: ClassVar[str]
    least: ClassVar[dict[str, int]]

    def __post_init__(self) -> None:
        for name, least in self.least.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise OptionError(
                    f"supervision {self.name} needs {name} of at least {least}, not {value}", "supervision"
                )
            if value is not None and not ("noise" in name or isinstance(value, int)):
                raise OptionError(
                    f"supervision {self.name} needs a whole number for {name}, not {value}", "supervision"
                )

    def __str__(self) -> str:
        """As `parse` reads it."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return ",".join([self.name, *(f"{name}={value}" for name, value in values.items() if value is not None)])

    @abstractmethod
    def rows(self, queries: int) -> int:
        """The most queries that it adds to an image.

        Args:
            queries: Q of the model.
        """

    @abstractmethod
    def module(self, model: EncoderDecoder) -> Supervised:
        """The part to add to a model.

        Raises:
            ConfigurationError: the model cannot take it.
        """


@dataclass(frozen=True)
class Denoising(Supervision):
    """Noised copies of the objects, for models whose queries start from points or boxes.

    Attributes:
        copies: the most noised copies of objects per image, at least two.
        label_noise: probability that a copy gets a random class.
        box_noise: how far boxes are moved, see `contrastive_noise`.
    """

    copies: int = 200
    label_noise: float = 0.25
    box_noise: float = 1.0

    name: ClassVar[str] = "denoising"
    least: ClassVar[dict[str, int]] = {"copies": 2, "label_noise": 0, "box_noise": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("label_noise", 1.0), ("box_noise", MOST_BOX_NOISE)):
            if getattr(self, name) > most:
                raise OptionError(
                    f"supervision {self.name} needs {name} of at most {most:g}, not {getattr(self, name)}",
                    "supervision",
                )

    def rows(self, queries: int) -> int:  # noqa: ARG002 - it does not depend on them
        """See `Supervision.rows`."""
        return self.copies

    def module(self, model: EncoderDecoder) -> Supervised:
        """See `Supervision.module`."""
        size = getattr(model.query_source, "reference_size", 0)
        if not size:
            raise ConfigurationError(
                f"{model.card.variant} has no query source to which noised points or boxes can be added, which denoising needs: choose a variant of "
                "Conditional DETR, DAB-DETR or Deformable DETR, or, with DETR and SMCA-DETR, one-to-many or groups"
            )
        config = config_of(model)
        return NoisedObjectQueries(self, width=config.width, outputs=config.class_count, has_boxes=size == 4)


@dataclass(frozen=True)
class OneToMany(Supervision):
    """More queries, matched to every object several times.

    Attributes:
        queries: how many more; None for five times the model's own, as in the paper.
        repeats: how many of them are matched to each object.
    """

    queries: int | None = None
    repeats: int = 6

    name: ClassVar[str] = "one-to-many"
    least: ClassVar[dict[str, int]] = {"queries": 1, "repeats": 1}

    def rows(self, queries: int) -> int:
        """See `Supervision.rows`."""
        return 5 * queries if self.queries is None else self.queries

    def module(self, model: EncoderDecoder) -> Supervised:
        """See `Supervision.module`."""
        count = self.rows(config_of(model).queries)
        return MoreQueries(model, [QueryGroup("one_to_many", rows=count, repeats=self.repeats)])


@dataclass(frozen=True)
class Groups(Supervision):
    """Copies of all queries, each matched one-to-one by itself; losses are the mean over all groups.

    Attributes:
        count: number of groups, the model's own queries included.
    """

    count: int = 11

    name: ClassVar[str] = "groups"
    least: ClassVar[dict[str, int]] = {"count": 2}

    def rows(self, queries: int) -> int:
        """See `Supervision.rows`."""
        return (self.count - 1) * queries

    def module(self, model: EncoderDecoder) -> Supervised:
        """See `Supervision.module`."""
        queries = config_of(model).queries
        groups = [QueryGroup(f"group_{number}", rows=queries) for number in range(1, self.count)]
        return MoreQueries(model, groups, share=1 / self.count)


KINDS: dict[str, type[Supervision]] = {kind.name: kind for kind in (Denoising, OneToMany, Groups)}


def parse(text: str) -> Supervision:
    """Supervision in words: its name, and settings behind commas, such as "one-to-many,repeats=4".

    Raises:
        OptionError: an unknown name or setting, or an impossible value.
    """
    name, *settings = (part.strip() for part in text.split(","))
    if name not in KINDS:
        raise OptionError(f"there is no supervision '{name}': {closest(name, KINDS)}", "supervision")
    known = {field.name: field for field in dataclasses.fields(KINDS[name])}
    values: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in known:
            raise OptionError(f"supervision {name} has no setting '{key}': {closest(key, known)}", "supervision")
        number: type = float if "noise" in key else int
        try:
            values[key] = number(value)
        except ValueError as problem:
            kind = "a number" if number is float else "a whole number"
            raise OptionError(f"supervision {name} needs {kind} for {key}, not '{value}'", "supervision") from problem
    return KINDS[name](**values)


def supervise(model: Detector, supervision: Supervision | str) -> None:
    """Adds supervision to a model that is going to be trained; `criterion_for` then knows of it.

    Args:
        model: changed in place; what it computes in evaluation stays the same.
        supervision: what to add, or its name.

    Raises:
        OptionError: see `parse`.
        ConfigurationError: the model cannot take it.
    """
    if isinstance(supervision, str):
        supervision = parse(supervision)
    check_type("supervision", supervision, (Supervision,))
    config, variant = config_of(model), model.card.variant
    if type(model).forward is not EncoderDecoder.forward:
        raise ConfigurationError(f"{variant} has a forward pass of its own, to which no supervision can be added")
    if config.training_queries > config.queries:
        raise ConfigurationError(f"{variant} brings training queries of its own: train it without more supervision")
    like = next(model.parameters())
    model.supervision = supervision.module(cast(EncoderDecoder, model)).to(like.device, like.dtype)


class Supervised(nn.Module, ABC):
    """What a model has as `supervision`: adds training queries, and says how they are taught.

    Args:
        sets: of predictions that the criterion gets in addition.
        share: factor of the weights of the losses of all queries, the model's own included.
    """

    def __init__(self, sets: Sequence[PredictionSet], *, share: float = 1.0) -> None:
        super().__init__()
        self.sets, self.share = tuple(sets), share

    @abstractmethod
    def forward(self, queries: Queries, memory: Memory, targets: Sequence[Target] | None, source: nn.Module) -> Queries:
        """The queries with training queries behind them.

        Args:
            queries: the model's own.
            memory: the encoded image.
            targets: the objects of each image.
            source: the model's query source.
        """

    def criterion(self, criterion: SetCriterion) -> SetCriterion:
        """The model's criterion with the losses of the training queries, which have the same terms."""
        own, more, layers = criterion.sets[0], copy.copy(criterion), criterion.layers
        more.sets = (*criterion.sets, *self.sets)
        names_of(more.sets, layers)  # none occurs twice
        (first, *_) = own.names(layers)
        names = [name for each in (own, *self.sets) for name in each.names(layers)]
        shares = {
            f"{name}.{term}": self.share * criterion.weights[f"{first}.{term}"]
            for name in names
            for term in criterion.terms
        }
        more.weights = criterion.weights | shares
        return more


class NoisedObjectQueries(Supervised):
    """Noised copies of the objects behind the model's queries.

    Args:
        settings: see `Denoising`.
        width: D.
        outputs: K.
        has_boxes: whether queries start from boxes; otherwise they start from points, and a noised copy is the centre of a noised box.
    """

    def __init__(self, settings: Denoising, *, width: int, outputs: int, has_boxes: bool) -> None:
        super().__init__([KnownGroup(ContrastiveDenoising.name)])
        self.width = width
        self.denoising = ContrastiveDenoising(
            width=width,
            outputs=outputs,
            rows=settings.copies,
            label_noise=settings.label_noise,
            box_noise=settings.box_noise,
        )
        # Learned queries have position codes that follow from no box, so noised points get a code of their own.
        self.position_head = None if has_boxes else MLP(width, width, width)
        if self.position_head is not None:
            xavier_matrices(self.position_head)

    def forward(self, queries: Queries, memory: Memory, targets: Sequence[Target] | None, source: nn.Module) -> Queries:  # noqa: ARG002
        """See `Supervised.forward`.

        Raises:
            ValueError: no targets.
        """

        def encode(boxes_cxcywh: Tensor) -> Tensor:
            if isinstance(source, ProposalQueries):
                return source.codes(boxes_cxcywh)[0]
            assert self.position_head is not None
            code = reference_code(boxes_cxcywh[..., :2], width=self.width)
            return self.position_head(code.to(queries.content.dtype))  # type: ignore[no-any-return]

        without = queries.position is None
        return self.denoising(queries, needed(targets), None if without else encode)  # type: ignore[no-any-return]


class MoreQueries(Supervised):
    """More queries of the model's own kind: as many more are learned, or made of the proposals that come next.

    Args:
        model: that is going to be trained.
        groups: what the queries are for, one behind the other.
        share: see `Supervised`.

    Raises:
        ConfigurationError: the model's queries cannot be made in another number.
    """

    def __init__(self, model: EncoderDecoder, groups: Sequence[QueryGroup], *, share: float = 1.0) -> None:
        super().__init__([RepeatedGroup(group.name) for group in groups], share=share)
        self.groups = tuple(groups)
        self.sources = nn.ModuleList()
        config = config_of(model)
        if type(model.query_source) not in _SOURCES:  # descendants differ in what more of them would be
            raise ConfigurationError(
                f"{model.card.variant} has queries to which no others can be added: choose a variant of DETR, Conditional, SMCA, DAB or "
                "Deformable DETR"
            )
        if isinstance(model.query_source, ProposalQueries):
            return
        # The family's own builder makes those of each group, so that they start, and are arranged, as the model's own are.
        for group in groups:
            more = dataclasses.replace(config, queries=group.rows)
            self.sources.append(FAMILIES[model.card.family].build(more, model.card).query_source)

    def forward(self, queries: Queries, memory: Memory, targets: Sequence[Target] | None, source: nn.Module) -> Queries:
        """See `Supervised.forward`."""
        own, groups = queries.content.shape[1], self.groups
        if len(self.sources):
            for of_group in self.sources:
                queries = _together(queries, of_group(memory, targets))
        else:
            rows, groups = self._next_rows(queries)
            assert queries.proposals is not None
            queries = _together(queries, cast(ProposalQueries, source).of_rows(queries.proposals, rows))
        return split_off(queries, own=own, groups=groups)

    def _next_rows(self, queries: Queries) -> tuple[Tensor, tuple[QueryGroup, ...]]:
        """The proposals that come next, dealt out to the groups in turn.

        Returns:
            (B, R) rows, and the groups, smaller where there are too few proposals.
        """
        assert queries.proposals is not None
        assert queries.proposals.all is not None
        scores, own = queries.proposals.all.logits[..., 0].detach(), queries.content.shape[1]
        each = min(self.groups[0].rows, (scores.shape[1] - own) // len(self.groups))
        if each < 1:
            raise ConfigurationError(
                f"an image with {scores.shape[1]} proposals has none left for {len(self.groups)} groups beside {own} queries: "
                "use larger images or fewer queries"
            )
        ranks = own + torch.arange(each * len(self.groups), device=scores.device).view(each, -1).T.flatten()
        best = scores.topk(own + each * len(self.groups), dim=1).indices  # (B, Q + R), best first
        return best[:, ranks], tuple(dataclasses.replace(group, rows=each) for group in self.groups)


def _together(queries: Queries, more: Queries) -> Queries:
    """The rows of both; all else is that of the first."""

    def joined(name: str) -> Tensor | None:
        own, other = getattr(queries, name), getattr(more, name)
        return None if own is None else torch.cat([own, other], dim=1)

    rows = {name: joined(name) for name in ("content", "position", "references")}
    return dataclasses.replace(queries, **rows)  # type: ignore[arg-type]
