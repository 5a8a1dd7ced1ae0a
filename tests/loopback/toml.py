"""Settings written as TOML: what tomllib reads back as equal."""

import json
from collections.abc import Mapping
from typing import Any


def dumped(settings: Mapping[str, Any]) -> str:
    """A document of keys and nested tables; texts, numbers, booleans and lists of them as values."""
    return "\n".join(_lines(settings, ())) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(map(_quoted, path))}]"] if path else []
    lines += [f"{_quoted(key)} = {_value(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", *_lines(value, (*path, key))]
    return lines


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
