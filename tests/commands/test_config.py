"""`detrkit config VARIANT` and `detrkit train --config FILE`: options in a file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from commands.running import detrkit_command, refusal

from detrkit.commands import config_file
from detrkit.commands.config import lines
from detrkit.commands.config_file import read_config
from detrkit.errors import ConfigurationError
from detrkit.models.catalog import CATALOG, find_variant
from detrkit.training.options import resolve
from detrkit.training.training_options import TrainingOptions


def written(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", CATALOG)
def test_what_is_printed_reads_back_as_the_defaults(name: str, tmp_path: Path) -> None:
    variant = find_variant(name)
    text = "\n".join(lines(name, variant))
    file = read_config(written(tmp_path, text))
    settings = file.typed_settings(name)
    assert settings | {"class_count": variant.config.class_count} == dataclasses.asdict(variant.config)
    options = file.combined({"data": "digits"})
    assert resolve(TrainingOptions(**options, settings=settings)) == resolve(TrainingOptions(name, "digits"))
    described = [line for line in text.splitlines() if ": " in line and not line.startswith("#")]
    assert len(described) == len(dataclasses.fields(TrainingOptions)) - 1 + len(settings)
    assert all(line.partition("  # ")[2] for line in described)


def test_the_command_prints_it(tmp_path: Path) -> None:
    printed = detrkit_command("config", "light-detr-compact", folder=tmp_path).stdout
    assert printed.splitlines() == list(
        "\n".join(lines("light-detr-compact", find_variant("light-detr-compact"))).splitlines()
    )
    assert "  # passes over the training images.\n" in printed
    assert (
        "\nsteps: null  # optimizer steps; takes precedence over the number of epochs. Null: as many as the epochs have.\n"
        in printed
    )
    assert refusal("config", "detr-r5O", folder=tmp_path).endswith(
        "there is no variant 'detr-r5O': did you mean 'detr-r50'?"
    )


def test_values_have_the_types_of_their_options(tmp_path: Path) -> None:
    text = (
        "variant: detr-compact\nlr: 1e-4\nflip: 0\ncrop: no\nschedule: flat-cosine\noutput: ~\nbatch-size: 8\nepochs:\n"
        "rates: {backbone.stem: 0, class_head: 1e1}\nsettings:\n  queries: 7\n  attention-heads: 4\n  dropout: 0\n"
    )
    file = read_config(written(tmp_path, text))
    assert file.options == {
        "variant": "detr-compact",
        "lr": 1e-4,
        "flip": 0.0,
        "crop": False,
        "schedule": "flat-cosine",
        "batch_size": 8,
        "rates": {"backbone.stem": 0.0, "class_head": 10.0},
    }
    assert file.typed_settings("detr-compact") == {"queries": 7, "attention_heads": 4, "dropout": 0.0}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epochs: many", "{file}: epochs must be a whole number or null, not 'many'"),
        ("epochs: 2.5", "{file}: epochs must be a whole number or null, not '2.5'"),
        ("epochs: [1, 2]", "{file}: epochs must be a whole number or null, not '1,2'"),
        ("crop: maybe", "{file}: crop must be yes, no or null, not 'maybe'"),
        ("schedule: linear", "{file}: schedule must be step, cosine, flat-cosine or null, not 'linear'"),
        ("lr: {backbone: 1}", "{file}: lr must be a number or null, not '{'backbone': '1'}'"),
        ("rates: {offsets: fast}", "{file}: rates.offsets must be a number, not 'fast'"),
        ("rates: fast", "{file}: rates must be names with values, one in each line below it, not 'fast'"),
        ("settings: {queries: few}", "{file}: settings.queries must be a whole number, not 'few'"),
        ("settings: {querys: 3}", "{file} has the setting 'querys', which detr-compact does not have: did you mean 'queries'?"),
        ("epoch: 3", "{file} has the option 'epoch', which detrkit does not have: did you mean 'epochs'?"),
        ("queries: 3", "{file} has the option 'queries', which detrkit does not have: it is a setting of the model, so write it under `settings:`"),
        ("denoising: 3", "{file} has the option 'denoising', which detrkit does not have: it is a setting of the model, so write it under `settings:`"),
        ("learning_rate: 3", "{file} has the option 'learning_rate', which detrkit does not have: did you mean 'lr'?"),
        ("xyzzy: 3", "{file} has the option 'xyzzy', which detrkit does not have: `detrkit config VARIANT` shows all"),
        ("epochs: 3\nepochs: 4", "{file}, line 2 has the key 'epochs' again: remove one of the two"),
        ("- epochs", "{file} has no options: each line is the name of an option, a colon and its value"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_used_is_said_with_file_and_key(text: str, sentence: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        read_config(path).typed_settings("detr-compact")
    assert str(caught.value) == sentence.replace("{file}", str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for command in (("train", "detr-compact", "digits"), ("train",)):
        assert refusal(*command, "--config", "gone.yaml", folder=tmp_path).endswith(
            "there is no configuration file gone.yaml: `detrkit config VARIANT > gone.yaml` writes one to begin with"
        )
    indented = "lr: 0.1\n  epochs: 3\n"
    for name, content, kind in (("a.yaml", indented, "YAML (line 2: mapping values"), ("a.json", "{", "JSON (")):
        written(tmp_path, content, name)
        assert f"{name} cannot be read as {kind}" in refusal("train", "--config", name, folder=tmp_path)
    assert refusal("train", "--config", "a.yaml", "--resume", "run", folder=tmp_path).endswith(
        "--resume goes on with the options of its run: leave out --config, or --resume"
    )


def test_a_file_that_lacks_what_to_train_on(tmp_path: Path) -> None:
    written(tmp_path, "variant: detr-compact\ndata: null\n", "half.yaml")
    sentence = refusal("train", "--config", "half.yaml", folder=tmp_path)
    assert sentence.endswith(
        "half.yaml has no data, and neither has the command: write a line `data: ...` into the file, or give --data"
    )
    written(tmp_path, "data: digits\n", "half.yaml")
    assert "half.yaml has no variant" in refusal("train", "--config", "half.yaml", folder=tmp_path)


@pytest.mark.parametrize(
    ("flags", "combined"),
    [
        ({}, {"steps": 9, "lr": 0.5, "batch_size": 4, "accumulate": 2, "scale_lr": False}),
        ({"epochs": 3}, {"epochs": 3, "lr": 0.5, "batch_size": 4, "accumulate": 2, "scale_lr": False}),
        ({"minutes": 3.0}, {"minutes": 3.0, "lr": 0.5, "batch_size": 4, "accumulate": 2, "scale_lr": False}),
        ({"lr": 0.1}, {"steps": 9, "lr": 0.1, "batch_size": 4, "accumulate": 2}),
        ({"scale_lr": True, "batch_size": 6}, {"steps": 9, "scale_lr": True, "batch_size": 6}),
    ],
    ids=str,
)
def test_flags_take_precedence(flags: dict[str, Any], combined: dict[str, Any], tmp_path: Path) -> None:
    text = "steps: 9\nlr: 0.5\nbatch_size: 4\naccumulate: 2\nscale_lr: false\n"
    assert read_config(written(tmp_path, text)).combined(flags) == combined


def test_a_policy_on_the_command_line_brings_its_own_switches(tmp_path: Path) -> None:
    text = "augmentation: detr\nflip: 0.5\ncrop: yes\nseed: 3\nloggers: [wandb, mlflow]\n"
    assert read_config(written(tmp_path, text)).combined({"augmentation": "none"}) == {
        "augmentation": "none",
        "seed": 3,
        "loggers": ["wandb", "mlflow"],
    }


@pytest.mark.parametrize("named", ["augmentation: detr\ncrop: yes\n", ""])
def test_switches_that_somebody_chose_hold_for_another_policy(named: str, tmp_path: Path) -> None:
    text = f"{named}flip: 0\n"
    given = {"augmentation": "strong"}
    assert read_config(written(tmp_path, text)).combined(given) == {"augmentation": "strong", "flip": 0}


def test_none_is_a_choice_where_it_is_one(tmp_path: Path) -> None:
    text = "augmentation: none\nweights: none\nepochs: none\nsupervision: null\nschedule: none\n"
    assert read_config(written(tmp_path, text)).options == {"augmentation": "none", "weights": "none"}
    stored = json.dumps({"options": {"augmentation": "none", "weights": "none", "epochs": None, "settings": {}}})
    assert read_config(written(tmp_path, stored, "config.json")).options == {"augmentation": "none", "weights": "none"}


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"batch_size": 16}, {"batch_size": 16, "scale_lr": True, "steps": 9, "warmup_steps": 3}),
        ({"steps": 90}, {"batch_size": 8, "accumulate": 2, "scale_lr": True, "lr": 0.1, "steps": 90}),
        ({"supervision": "groups"}, {"batch_size": 8, "scale_lr": True, "lr": 0.1, "steps": 9, "warmup_steps": 3, "supervision": "groups"}),
    ],
)  # fmt: skip
def test_what_follows_from_other_options_is_not_taken_from_a_run(
    given: dict[str, Any], left: dict[str, Any], tmp_path: Path
) -> None:
    options = {"batch_size": 8, "accumulate": 2, "scale_lr": True, "lr": 0.1, "steps": 9, "warmup_steps": 3}
    stored = json.dumps({"options": options, "time_budget": {"minutes": 1.0}})
    assert read_config(written(tmp_path, stored, "config.json")).combined(given) == left


def test_a_file_is_for_its_variant(tmp_path: Path) -> None:
    path = written(tmp_path, "variant: detr-r50\nseed: 3\n")
    assert read_config(path).combined({"variant": "detr-r50"}) == {"variant": "detr-r50", "seed": 3}
    with pytest.raises(ConfigurationError) as caught:
        read_config(path).combined({"variant": "detr-r101"})
    assert str(caught.value) == (
        f"{path} is for detr-r50, not for detr-r101: leave the variant out, or write a file with `detrkit config detr-r101`"
    )


def test_what_flags_replace_are_options() -> None:
    fields = TrainingOptions.__dataclass_fields__
    assert all(name in fields for key, others in config_file._REPLACED.items() for name in (key, *others))


def test_a_run_takes_its_options_from_a_file(digits_folder: Path, tmp_path: Path) -> None:
    text = (
        f"variant: detr-compact\ndata: {digits_folder}\nshort_side: 64\nlong_side: 64\nepochs: 3\nflip: 0\nbatch_size: 4\n"
        "rates: {backbone: 0.5}\nsettings: {queries: 8, width: 32, hidden: 32}\n"
    )
    written(tmp_path, text)
    flags = (
        "--config",
        "run.yaml",
        "--batch-size",
        6,
        "--settings.queries",
        9,
        "--rates",
        "class_head=2,backbone.stem=0",
    )
    result = detrkit_command("train", *flags, "--dry-run", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in (
        "  epochs = 3\n",
        "  batch_size = 6\n",
        "'queries': 9",
        "'width': 32",
        "  rates = {'class_head': 2.0, 'backbone.stem': 0.0}",
    ):
        assert words in result.stdout, words
    sentence = refusal("train", "--config", "run.yaml", "--rates", "fast", folder=tmp_path)
    assert sentence.endswith(
        "--rates needs names of parts with factors, such as offsets=0.1,backbone.layer1=0, not 'fast'"
    )
    sentence = refusal("train", "--config", "run.yaml", "--rates", "class_haed=2", "--dry-run", folder=tmp_path)
    assert sentence.endswith(
        "--rates names 'class_haed', which no parameter of the model has in its name: did you mean 'class_head'?"
    )


def test_the_configuration_of_a_run_is_a_configuration_file(tmp_path: Path) -> None:
    options = resolve(TrainingOptions("deformable-detr-compact", "digits", rates={"offsets": 0.5}, device="cpu"))
    (tmp_path / "run").mkdir()
    content = {"options": dataclasses.asdict(options), "versions": {"detrkit": "0"}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    for path in (tmp_path / "run", tmp_path / "run" / "config.json"):
        file = read_config(path)
        settings = file.typed_settings("deformable-detr-compact")
        assert resolve(TrainingOptions(**file.options, settings=settings)) == options
