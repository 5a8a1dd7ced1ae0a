"""`[data]` of either kind: tables, or images where it says `kind = "images"`."""

from collections.abc import Mapping
from typing import Any

from securepfl.data.images.spec import ImageSpec
from securepfl.data.schema import DataSpec
from securepfl.errors import ConfigError
from securepfl.spelling import shown

Declared = DataSpec | ImageSpec


def spec_of(mapping: Mapping[str, Any], where: str = "federation") -> Declared:
    """What TOML's `[data]` declares. Raises ConfigError naming file and key.

    >>> spec_of({"kind": "images", "size": [64, 64]}).segments
    True
    """
    if "kind" not in mapping:
        return DataSpec.from_mapping(mapping, where)
    if mapping["kind"] != "images":
        kind = shown(str(mapping["kind"]))
        raise ConfigError(f'{where}: [data] kind is {kind}; write kind = "images", or leave it out for tables')
    return ImageSpec.from_mapping(mapping, where)
