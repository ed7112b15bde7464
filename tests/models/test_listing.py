"""The list of variants that is read without PyTorch."""

from __future__ import annotations

import pytest

from detrkit.errors import ConfigurationError
from detrkit.models.catalog import CATALOG
from detrkit.models.listing import check_name, from_catalog, listed_variants


def test_the_list_is_that_of_the_models() -> None:
    assert listed_variants() == from_catalog(), "the list is not that of the models: run `make variants`"
    assert list(listed_variants()) == list(CATALOG)


def test_the_best_published_figure_counts() -> None:
    listed = listed_variants()
    assert listed["sam-detr-r50"].ap == 0.398
    assert [tag for _, _, tag in listed["sam-detr-r50"].weights] == ["12 epochs", "50 epochs"]
    assert listed["detr-compact"].ap is None


def test_names_are_checked() -> None:
    check_name("detr-r50")
    with pytest.raises(ConfigurationError, match="there is no variant 'detr-r5': did you mean 'detr-r50'"):
        check_name("detr-r5")
