"""What the commands print: tables for people, JSON for programs."""

import json
import sys
from typing import Any

import click
from rich.console import Console


def tables(width: int = 140) -> Console:
    """Where tables go: stdout. They keep their width where the output is no terminal."""
    return Console(markup=False) if sys.stdout.isatty() else Console(markup=False, width=width)


def progress() -> Console:
    """Where a live display goes: stderr."""
    return Console(stderr=True, markup=False)


def print_json(value: Any) -> None:
    """`value` on stdout; an infinite number is null."""
    click.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
