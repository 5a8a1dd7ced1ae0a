"""How vectors stand in JSON: bytes in hexadecimal, words as decimal text, doubles as C writes them, exact."""

import json


def texts(words: list[int]) -> list[str]:
    """Words that need not fit a JSON number."""
    return [str(word) for word in words]


def exact(reals: list[float]) -> list[str]:
    """Doubles, exact."""
    return [real.hex() for real in reals]


def written(content: dict | list) -> str:
    """A file: one line an entry."""
    if isinstance(content, dict):
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items()]
    else:
        lines = [json.dumps(value) for value in content]
    left, right = "{}" if isinstance(content, dict) else "[]"
    return f"{left}\n" + ",\n".join(lines) + f"\n{right}\n"
