"""Is it learning the queries that takes so long? See Liu et al. 2022 (DAB-DETR, arXiv:2201.12329), section 3 and figure 1."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from safetensors.torch import load_file

from detrkit.studies.setting import WATCHED, dense
from detrkit.studies.study import PLAIN_COLUMNS, Study, Trial, ap_after
from detrkit.training.module import TrainingModule
from detrkit.training.run_folder import RunFolder

_PART = "query_source"


def take_queries(module: TrainingModule, trained: Path, *, frozen: bool) -> None:
    """Starts with the queries of an earlier run's detector; everything else starts from random numbers.

    Args:
        module: of a new run.
        trained: folder of the earlier run.
        frozen: whether the queries stay as they are.
    """
    weights = load_file(RunFolder(trained).last)
    own = {name.removeprefix(f"{_PART}."): value for name, value in weights.items() if name.startswith(f"{_PART}.")}
    source = module.model.get_submodule(_PART)
    source.load_state_dict(own)
    source.requires_grad_(not frozen)


def _with_trained_queries(*, frozen: bool) -> Trial:
    return Trial("detr-compact", dense(), change=partial(take_queries, frozen=frozen), after=(_TRAINED,))


_TRAINED = "DETR, twice as long"

STUDY = Study(
    title="Queries of a trained detector for a new one",
    claim="Good queries from the start help only in the first epochs: learning the queries is not what is slow (DAB-DETR).",
    trials={
        "DETR": Trial("detr-compact", dense()),
        _TRAINED: Trial("detr-compact", dense(), longer=2),
        "DETR, trained queries": _with_trained_queries(frozen=False),
        "DETR, trained queries, frozen": _with_trained_queries(frozen=True),
    },
    options={**WATCHED, "epochs": 4},
    columns=(*PLAIN_COLUMNS, ap_after(1), ap_after(2)),
    single_class=True,
)
