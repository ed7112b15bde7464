"""Options, columns and curves of a study."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from detrkit.errors import ConfigurationError
from detrkit.measures import ATTENTION_SPARSITY
from detrkit.models.catalog import CATALOG
from detrkit.studies import STUDIES, find_study
from detrkit.studies.showing import study_table
from detrkit.studies.study import PACE, PLAIN_COLUMNS, Column, Study, Trial, add_pace, ap, ap_after, further, watched
from detrkit.training.run import new_options

RUN = {
    "figures": {"AP": 0.25, "AP50": 0.5},
    "steps": 25,
    "log": [
        {"epoch": 1.0, "step": 10.0, "seconds": 20.0, "attention_sparsity": -3.0},
        {"epoch": 2.0, "step": 20.0, "seconds": 5.0, "attention_sparsity": -2.0},
        {"epoch": 3.0, "step": 25.0, "seconds": 10.0},
    ],
}


def study(**options: object) -> Study:
    trial = Trial("detr-compact", {"settings": {"queries": 10, "width": 64}, "lr": 1e-3})
    return Study("title", "claim", {"DETR": trial}, {"epochs": 4, "lr": 1e-4, **options})


class TestOptions:
    def test_a_trial_precedes_its_study_and_the_command_precedes_both(self) -> None:
        own = study(batch_size=16).options_of("DETR", "digits", {})
        assert own == {
            "variant": "detr-compact",
            "data": "digits",
            "epochs": 4,
            "lr": 1e-3,
            "batch_size": 16,
            "settings": {"queries": 10, "width": 64},
        }
        given = study(batch_size=16).options_of("DETR", "digits", {"batch_size": 4, "settings": {"queries": 20}})
        assert given["batch_size"] == 4
        assert given["settings"] == {"queries": 20, "width": 64}

    @pytest.mark.parametrize("length", [{"steps": 5}, {"minutes": 2.0}, {"epochs": 1}])
    def test_a_length_that_is_given_replaces_the_studys(self, length: dict[str, float]) -> None:
        chosen = study().options_of("DETR", "digits", length)
        assert {name: chosen[name] for name in ("epochs", "steps", "minutes") if name in chosen} == length

    def test_a_trial_that_is_longer_is_so_for_any_length(self) -> None:
        found = Study("title", "claim", {"long": Trial("detr-compact", longer=2)}, {"epochs": 4})
        assert found.options_of("long", "digits", {})["epochs"] == 8
        assert found.options_of("long", "digits", {"steps": 5})["steps"] == 10

    @pytest.mark.parametrize(
        ("name", "given", "option"),
        [
            ("query-count", {"settings": {"queries": 20}}, "queries"),
            ("anchors", {"settings": {"temperature": 20.0}}, "temperature"),
            ("supervision", {"supervision": "groups"}, "supervision"),
        ],
    )
    def test_what_trials_differ_in_cannot_be_given(self, name: str, given: dict[str, object], option: str) -> None:
        with pytest.raises(ConfigurationError, match=f"compares different values of {option}: leave it out"):
            find_study(name).check(given)

    @pytest.mark.parametrize("name", STUDIES)
    def test_what_they_have_in_common_can(self, name: str) -> None:
        find_study(name).check({"epochs": 2, "lr": 1e-4, "settings": {"width": 64}})


class TestColumns:
    def test_a_figure_of_an_epoch_and_of_the_last_that_has_it(self) -> None:
        assert watched(ATTENTION_SPARSITY).value(RUN) == -2.0
        first = watched(ATTENTION_SPARSITY, epoch=1)
        assert (first.value(RUN), first.title) == (-3.0, "attention sparsity, epoch 1")
        assert watched(ATTENTION_SPARSITY, epoch=3).value(RUN) is None
        run = {**RUN, "log": [{"epoch": 1.0, "AP": 0.1}, {"epoch": 2.0, "AP": 0.2}]}
        assert (ap_after(1).value(run), ap_after(2).value(run), ap_after(3).value(run)) == (0.1, 0.2, None)

    def test_one_seed_gives_its_figure_and_several_the_mean_of_all(self) -> None:
        other = {**RUN, "figures": {"AP": 0.35}}
        assert ap().mean([RUN]) == ap().each([RUN]) == "0.250"
        assert ap().mean([RUN, other]) == "0.300"
        assert ap().each([RUN, other]) == "0.300 (0.250, 0.350)"

    def test_the_last_epoch_that_has_a_measure_counts(self) -> None:
        assert watched(ATTENTION_SPARSITY).mean([RUN]) == "-2.000"

    def test_figures_that_are_missing_are_a_dash(self) -> None:
        assert further("modes").mean([RUN]) == "-"
        assert further("modes", digits=1).mean([{**RUN, "further": {"modes": 2}}]) == "2.0"

    def test_seconds_are_those_of_the_quickest_epoch(self) -> None:
        slower = {**RUN, "log": [{**row, "seconds": 50.0} for row in RUN["log"]]}  # type: ignore[attr-defined]
        runs = [dict(RUN), slower]
        add_pace(runs)
        (seconds,) = (column for column in PLAIN_COLUMNS if column.title == "seconds")
        assert seconds.each(runs) == "12"  # 25 steps of half a second, the same for both

    def test_digits(self) -> None:
        assert Column("x", lambda _: 1.23456, 1).mean([RUN]) == "1.2"


class TestListing:
    @pytest.mark.parametrize("name", STUDIES)
    def test_every_study_can_be_trained(self, name: str) -> None:
        found = find_study(name)
        places = list(found.trials)
        for place, (trial_name, trial) in enumerate(found.trials.items()):
            assert trial.variant in CATALOG
            assert set(trial.after) <= set(places[:place])
            options = found.options_of(trial_name, "digits", {})
            given = {option: value for option, value in options.items() if option not in ("variant", "data")}
            new_options(trial.variant, "digits", given)  # refuses what cannot be

    def test_an_unknown_study_names_the_closest(self) -> None:
        with pytest.raises(ConfigurationError, match="there is no study 'matchin': did you mean 'matching'"):
            find_study("matchin")


class TestTable:
    def test_columns_that_do_not_fit_into_a_terminal_come_below(self) -> None:
        columns = (*PLAIN_COLUMNS, watched(ATTENTION_SPARSITY, "a" * 30), watched(ATTENTION_SPARSITY, "b" * 30))
        wide = dataclasses.replace(study(), columns=columns)
        run = {**RUN, PACE: 0.5}
        printed = io.StringIO()
        Console(file=printed, width=80).print(study_table(wide, {"DETR": [run]}))
        text = printed.getvalue()
        assert all(title in text for title in ("AP50", "seconds", "a" * 30, "b" * 30, "claim"))
        assert text.count("DETR ") == 2
        assert text.count("-2.000") == 2
