"""The list of variants that is read without PyTorch, and what it says about where models are from."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from detrkit.cards import PublishedResult
from detrkit.errors import ConfigurationError
from detrkit.models.catalog import CATALOG, FAMILIES, build
from detrkit.models.listing import check_name, from_catalog, listed_variants

# What was counted of the authors' own models.
PARAMETERS = {
    "detr-r50": 41_524_768,
    "detr-r50-dc5": 41_524_768,
    "detr-r101": 60_464_672,
    "detr-r50-panoptic": 42_899_288,
    "conditional-detr-r50": 43_418_401,
    "deformable-detr-r50": 40_069_665,
    "deformable-detr-r50-single-scale": 34_066_593,
    "deformable-detr-r50-refine": 40_849_660,
    "deformable-detr-r50-two-stage": 41_181_529,
}
# The sheet of facts about each family's code.
SHEETS = {
    "smca_multiscale": "smca_detr",
    "dab_deformable_detr": "dab_detr",
    "dn_detr": "dino",
    "dn_deformable_detr": "dino",
    "tsp_fcos": "tsp",
    "tsp_rcnn": "tsp",
    "detr_segmentation": "detr",
    "conditional_detr_segmentation": "conditional_detr",
    "deformable_detr_segmentation": "deformable_detr",
}


# Folders that stand in the authors' README alone; the sheet has the one that holds all.
ONLY_IN_README = (
    "1jr8BdDdMu8esABXdU3lNY7fpWVxAJtWa",
    "1jWSIWTWgoiIvyA7w2xIkdk-B1pS2atPA",
    "1elPn06gs8mNxR3jtE53zi4cK5qLGH0AV",
)


def test_the_list_is_that_of_the_models() -> None:
    assert listed_variants() == from_catalog(), "the list is not that of the models: run `make variants`"
    assert list(listed_variants()) == list(CATALOG)


def test_parameters_are_those_of_the_authors_models() -> None:
    assert {name: listed_variants()[name].parameters for name in PARAMETERS} == PARAMETERS


def test_parameters_are_those_of_a_real_model() -> None:
    model = build("light-detr-compact")
    assert listed_variants()["light-detr-compact"].parameters == sum(each.numel() for each in model.parameters())


def test_the_best_published_figure_counts() -> None:
    listed = listed_variants()
    assert listed["sam-detr-r50"].ap == 0.398
    assert [each.tag for each in listed["sam-detr-r50"].weights] == ["12 epochs", "50 epochs"]
    assert listed["detr-compact"].ap is None
    assert (listed["smca-detr-r50"].ap, listed["smca-detr-r50"].weights) == (0.435, ())
    assert listed["smca-detr-r50"].results[0] == PublishedResult(0.410, "50 epochs")


def test_masks_have_figures_of_their_own() -> None:
    (weights,) = listed_variants()["detr-r101-panoptic"].weights
    assert (weights.ap, weights.mask_ap, weights.panoptic_quality) == (0.401, 0.330, 0.451)


def test_every_family_says_where_it_is_from() -> None:
    own = {family for family, module in FAMILIES.items() if module.SOURCE is None}
    assert own == {"light_detr"}
    for name, variant in listed_variants().items():
        assert variant.source == FAMILIES[variant.family].SOURCE, name
        assert variant.source is not None or (variant.ap, variant.licence) == (None, "own"), name


@pytest.mark.parametrize("family", [family for family, module in FAMILIES.items() if module.SOURCE is not None])
def test_facts_are_those_of_the_authors(family: str, shared: Path) -> None:
    """Repository, commit, licence and paper, and all figures and addresses, stand in the sheet that was written from the authors' code."""
    sheet = shared / "facts" / f"{SHEETS.get(family, family)}.md"
    if not sheet.is_file():
        pytest.skip(f"{sheet} is not there")
    text = sheet.read_text(encoding="utf-8")
    source = FAMILIES[family].SOURCE
    licence = "No licence file" if source.licence is None else source.licence.replace("-", "[- ]")
    facts = [re.escape(f"{source.repository} @ {source.commit}"), licence]
    if re.search(r"\b\d{4}\.\d{5}\b", text):  # some sheets give no number at arXiv
        facts.append(re.escape(source.paper))
    for fact in facts:
        assert re.search(fact, text), fact
    for name, variant in CATALOG.items():
        if variant.family != family:
            continue
        for each in (*variant.weights, *variant.results):
            figures = [value for value in dataclasses.astuple(each) if isinstance(value, float)]
            for figure in figures:
                shown = rf"(?<![\d.]){100 * figure:.1f}(?!\d)".replace(r".0(?", r"(\.0)?(?")
                assert re.search(shown, text), (name, figure)
        for each in variant.weights:
            identity = re.sub(r"_\d+eps$", "", max(re.findall(r"[\w-]+", each.address), key=len))
            assert identity in text or identity in ONLY_IN_README, (name, identity)


def test_names_are_checked() -> None:
    check_name("detr-r50")
    with pytest.raises(ConfigurationError, match="there is no variant 'detr-r5': did you mean 'detr-r50'"):
        check_name("detr-r5")
