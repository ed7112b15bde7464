"""Training options and settings in a file: YAML as people write it, or the configuration of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from detrkit.commands.reading import as_text, in_plain_words, read_text
from detrkit.data.yaml_files import parse_yaml
from detrkit.errors import ConfigurationError, DataError, closest
from detrkit.files import expanded
from detrkit.models.settings import CostSettings, MultiScaleSettings, Settings
from detrkit.training.run_places import CONFIG
from detrkit.training.training_options import TrainingOptions

# Switches that a policy of augmentation sets unless they are given.
_OF_POLICY = ("flip", "vertical_flip", "crop", "multi_scale")
# Options of the file that do not hold where another one is given on the command line, since both say the same.
_REPLACED = {
    "epochs": ("steps", "minutes"),
    "steps": ("epochs", "minutes"),
    "minutes": ("epochs", "steps"),
    "batch_size": ("accumulate",),
    "short_side": ("long_side", "accumulate"),
    "long_side": ("accumulate",),
    "supervision": ("accumulate",),
    "settings": ("accumulate",),
    "augmentation": ("accumulate", *_OF_POLICY),
    "devices": ("accumulate", "workers"),
    "nodes": ("accumulate", "workers"),
    "weights": ("backbone_weights", "detector_from"),
    "backbone_weights": ("weights", "detector_from"),
    "queries_from": ("detector_from",),
    "detector_from": ("weights", "backbone_weights", "queries_from"),
    "scale_lr": ("lr", "backbone_lr"),
    "lr": ("scale_lr",),
    "backbone_lr": ("scale_lr",),
}


# Names of a variant's recipe, as `detrkit models VARIANT` shows them.
_OTHER_NAMES = {
    "learning_rate": "lr",
    "backbone_learning_rate": "backbone_lr",
    "layer_learning_rate_decay": "layer_decay",
}


@dataclass(frozen=True)
class ConfigFile:
    """What a configuration file says.

    Attributes:
        path: of the file.
        options: training options by their names, variant and data among them; those that are null are left out.
        settings: of the model, still as texts, since their types are those of the variant.
        timed: whether it is the configuration of a run whose length was measured, which may have shortened the warm-up.
    """

    path: Path
    options: dict[str, Any]
    settings: dict[str, str]
    timed: bool = False

    def combined(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the file with those of the command line, which take precedence.

        Args:
            given: by name, without settings.

        Raises:
            ConfigurationError: another variant was given, which the file's settings and rates are not for.
        """
        variant = self.options.get("variant")
        if variant is not None and given.get("variant", variant) != variant:
            raise ConfigurationError(
                f"{self.path} is for {variant}, not for {given['variant']}: leave the variant out, or write a file with "
                f"`detrkit config {given['variant']}`"
            )
        replaced = {other for name in given for other in _REPLACED.get(name, ())} - self._switches()
        if self.options.get("scale_lr") and "batch_size" in given:
            replaced |= {"lr", "backbone_lr"}  # which follow from the batch
        if self.timed and not {"epochs", "steps", "minutes"}.isdisjoint(given):
            replaced.add("warmup_steps")
        return {name: value for name, value in self.options.items() if name not in replaced} | dict(given)

    def _switches(self) -> set[str]:
        """What the file changes of its policy of augmentation, which is a choice of its own and holds for another policy, too."""
        from detrkit.data.augmentation import POLICIES

        named = self.options.get("augmentation")
        policy = None if named is None else POLICIES[named]
        return {
            name for name in _OF_POLICY if name in self.options and self.options[name] != getattr(policy, name, None)
        }

    def typed_settings(self, variant: str) -> dict[str, Any]:
        """The settings with the types of a variant.

        Raises:
            ConfigurationError: the variant has no such setting, or one of another type.
        """
        from detrkit.models.catalog import find_variant

        config = type(find_variant(variant).config)
        hints = get_type_hints(config)
        known = {field.name: hints[field.name] for field in fields(config)}
        values = {}
        for name, text in self.settings.items():
            if name not in known:
                raise ConfigurationError(
                    f"{self.path} has the setting '{name}', which {variant} does not have: {closest(name, known)}"
                )
            values[name] = _read(self.path, f"settings.{name}", text, known[name])
        return values


def read_config(path: str | Path) -> ConfigFile:
    """Reads a configuration file, without loading PyTorch.

    Args:
        path: of a YAML file with training options, and settings of the model under `settings`; of the configuration of a run; or the
            folder of a run.

    Raises:
        ConfigurationError: there is no such file, it cannot be read, or it has an unknown option or one with a value of another type.
    """
    file = expanded(path)
    if file.is_dir():
        file = file / CONFIG
    content, timed = _content(file)
    options: dict[str, Any] = {}
    settings: dict[str, str] = {}
    hints = get_type_hints(TrainingOptions)
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in hints:
            raise ConfigurationError(
                f"{file} has the option '{key}', which detrkit does not have: {_meant(name, hints)}"
            )
        if name == "settings":
            settings = {each.replace("-", "_"): as_text(text) for each, text in _mapping(file, name, value).items()}
        elif name == "rates":
            rates = _mapping(file, name, value)
            options[name] = {part: _read(file, f"{name}.{part}", as_text(text), float) for part, text in rates.items()}
        elif (read := _option(file, name, value, hints[name])) is not None:
            options[name] = read
    return ConfigFile(file, options, settings, timed)


def _content(file: Path) -> tuple[dict[str, Any], bool]:
    """The options in a file, and whether they are of a run whose length was measured; those of a run are one part of its configuration."""
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else parse_yaml(text, file)
    except FileNotFoundError as problem:
        raise ConfigurationError(
            f"there is no configuration file {file}: `detrkit config VARIANT > {file.name}` writes one to begin with"
        ) from problem
    except OSError as problem:
        raise ConfigurationError(f"{file} cannot be read ({problem.strerror}): check the path") from problem
    except DataError as problem:  # the same key twice
        raise ConfigurationError(str(problem).rstrip(".")) from problem
    except (yaml.YAMLError, ValueError) as problem:
        raise ConfigurationError(
            f"{file} cannot be read as {_format(file)} ({_reason(problem)}): correct it"
        ) from problem
    timed = False
    if isinstance(content, dict) and isinstance(content.get("options"), dict):
        content, timed = content["options"], content.get("time_budget") is not None
    if content is None:
        return {}, False
    if not isinstance(content, dict):
        raise ConfigurationError(f"{file} has no options: each line is the name of an option, a colon and its value")
    return content, timed


def _reason(problem: Exception) -> str:
    """What is wrong with a file, and in which line."""
    if isinstance(problem, yaml.MarkedYAMLError) and problem.problem_mark is not None:
        return f"line {problem.problem_mark.line + 1}: {problem.problem}"
    return " ".join(str(problem).split())


def _format(file: Path) -> str:
    return "JSON" if file.suffix == ".json" else "YAML"


def _meant(name: str, hints: Mapping[str, Any]) -> str:
    """The closest option; where the name is that of a setting, where to write it."""
    if name in _OTHER_NAMES:
        return f"did you mean '{_OTHER_NAMES[name]}'?"
    place, listing = "it is a setting of the model, so write it under `settings:`", "`detrkit config VARIANT` shows all"
    if any(name in kind.__dataclass_fields__ for kind in (Settings, CostSettings, MultiScaleSettings)):
        return place
    meant = closest(name, hints, listing=listing)
    if meant == listing:
        from detrkit.models.catalog import CATALOG  # only now, since it loads PyTorch

        if any(name in variant.config.__dataclass_fields__ for variant in CATALOG.values()):
            return place
    return meant


def _mapping(file: Path, name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {str(key): each for key, each in value.items()}
    if value is None or as_text(value) in ("", "null", "~"):
        return {}
    raise ConfigurationError(
        f"{file}: {name} must be names with values, one in each line below it, not '{as_text(value)}'"
    )


def _option(file: Path, name: str, value: Any, hint: Any) -> Any:
    """The value of an option; None where it is null and a run needs a value, which then is the default."""
    if value is None or (isinstance(value, str) and value in ("", "null", "~")):
        return None
    return _read(file, name, value if isinstance(value, dict) else as_text(value), hint)


def _read(file: Path, key: str, text: Any, hint: Any) -> Any:
    try:
        if not isinstance(text, str):
            raise ValueError(text)
        return read_text(text, hint)
    except ValueError as problem:
        raise ConfigurationError(f"{file}: {key} must be {in_plain_words(hint)}, not '{text}'") from problem
