"""`detrkit help`."""

from __future__ import annotations


def manual(command: str | None = None) -> None:
    """Show the help of detrkit, or of one command.

    Args:
        command: its name, such as train.
    """
    from detrkit.commands.app import app
    from detrkit.errors import ConfigurationError, closest

    names = [name for name in app if not name.startswith("-")]
    if command is not None and command not in names:
        raise ConfigurationError(f"there is no command '{command}': {closest(command, names)}")
    app.help_print([] if command is None else [command])
