"""`securepfl start`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from securepfl.cli.command import Command
from securepfl.cli.options import PATH
from securepfl.cli.output import give, say

_NAMES = ("fundus-vessels", "chest-lungs")


@click.command(cls=Command, examples=("securepfl start fundus-vessels --out start.safetensors",))
@click.argument("name", type=click.Choice(_NAMES))
@click.option("--out", type=PATH, required=True, help="The file to write: [model] start names it.")
@click.option("--bundle", type=PATH, help="Take the weights from this MONAI bundle's folder, in place of training.")
@click.option("--hidden", type=click.IntRange(1, 64), default=8, show_default=True, help="The U-Net's width.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Public: picks images and weights."
)
def start(name: str, out: Path, bundle: Path | None, hidden: int, seed: int) -> None:
    """Make a public start: a network trained on synthetic images alone, before any patient.

    Takes about three minutes on one core. The same seed gives the same file on one machine.
    """
    import torch

    from securepfl.cli.options import extra
    from securepfl.errors import StorageError
    from securepfl.storage.folder import write_bytes

    with extra("imaging"):
        from securepfl.tasks.starts.recipes import make, recipe_named

    if out.exists() or not out.absolute().parent.is_dir():
        reason = "is there already" if out.exists() else "its folder is missing"
        raise StorageError(f"{out}: {reason}; choose another file")
    torch.set_num_threads(1)  # sums in another order round otherwise, and every party compares digests
    recipe = recipe_named(name)
    if bundle is None:
        from securepfl.cli.consoles import counting

        with counting("steps") as told:
            made = make(recipe, _scaling, seed=seed, hidden=hidden, told=told)
    else:
        from securepfl.tasks.starts.bundle import start_of_bundle

        made = start_of_bundle(recipe, _scaling, bundle, seed=seed)
    write_bytes(out, made.to_bytes())
    found = {"file": str(out), "digest": made.digest, "card": made.card}
    give(found, lambda: say(f"wrote {out}\nSHA-256 {made.digest}\n{made.card}"))


def _scaling(intensity: Mapping[str, Any]) -> Callable[..., Any]:
    """The function that scales patients' images as `[data]` declares, for synthetic ones."""
    from functools import partial

    from securepfl.data.images.intensity import scaled
    from securepfl.data.images.spec import ImageSpec

    return partial(scaled, spec=ImageSpec(size=(1, 1), **intensity))
