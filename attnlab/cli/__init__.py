"""The commands behind ``attnlab``: each adds its options and says how it runs."""

from typing import Any

from attnlab.cli import bench, data, figures, look, studies, train


def add_commands(commands: Any) -> None:
    """Add every command to the parser; heavy modules are imported when a command runs."""
    for module in (look, data, train, studies, bench, figures):
        module.add_commands(commands)
