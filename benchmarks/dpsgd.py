"""What a private training step costs, for every way to clip, ours and Opacus's, beside no privacy.

    python benchmarks/dpsgd.py [--model unet|mlp] [--device cpu] [--repeats 15] [--batch 16] [--threads 2] [--json]

Models: MONAI's 2-D U-Net (needs `pip install monai`) on images, or a small MLP on rows of a table. One repetition
times every way once, in a new order, and a ratio is taken within a repetition; medians are printed. Ours is a whole
call of train_private with one step, set-up and loader included, and the physical batch that a client would choose;
Opacus takes the batch whole, from memory. CPU seconds are the process's, which other programs on the machine disturb
less. Peak memory is what a process of its own needs above one that only built the model.
"""

import json
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleExpandedWeights, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.optimizers.optimizer import _generate_noise
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.privacy.training.gradients import choose_mode
from securepfl.privacy.training.physical import fitting_batch
from securepfl.randomness import RandomStream

OURS = ("auto", "per-sample", "functorch", "ghost")
OPACUS = ("hooks", "functorch", "ghost", "ew")
WAYS = ("nothing", "not private", *(f"ours: {mode}" for mode in OURS), *(f"Opacus: {mode}" for mode in OPACUS))
FEATURES, HIDDEN = 30, 32
Step = Callable[[], None]


def unet() -> nn.Module:
    """403,453 parameters: convolutions, transposed convolutions, GroupNorm and PReLU."""
    from monai.networks.nets import UNet  # noqa: PLC0415 -- not needed for the MLP

    torch.manual_seed(0)
    norm = ("GROUP", {"num_groups": 4})
    return UNet(2, 1, 4, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2, norm=norm)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))


def loss_of(output: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each record, the mean over pixels of an image."""
    losses = nn.functional.cross_entropy(output, y, reduction="none")
    return losses if losses.dim() == 1 else losses.mean((1, 2))


def records_of(model: str, batch: int, device: str) -> tuple[Tensor, Tensor]:
    if model == "mlp":
        return torch.randn(batch, FEATURES, device=device), torch.randint(2, (batch,), device=device)
    return torch.randn(batch, 1, 64, 64, device=device), torch.randint(4, (batch, 64, 64), device=device)


def steps_of(way: str, name: str, batch: int, device: str) -> Step:
    """One training step of `way` on `batch` records, to be called again and again."""
    model = MODELS[name]().to(device)
    x, y = records_of(name, batch, device)
    if way == "nothing":
        return lambda: None
    if way == "not private":
        return _plain(model, x, y)
    kind, _, mode = way.partition(": ")
    return _ours(mode, model, x, y, device) if kind == "ours" else _opacus(mode, model, x, y)


MODELS = {"unet": unet, "mlp": mlp}


def _plain(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model(x), y).mean().backward()
        optimizer.step()

    return step


def _ours(mode: str, model: nn.Module, x: Tensor, y: Tensor, device: str) -> Step:
    data = TensorDataset(x, y)
    settings = DPSettings(1.0, 1.0, 1.0, 1, 1e-3, fitting_batch(model, data, "record"))
    noise, sampling = RandomStream(bytes(32)), RandomStream(bytes([1]) * 32)

    def step() -> None:
        train_private(
            model,
            data,
            loss_of,
            settings,
            noise=noise,
            sampling=sampling,
            device=device,
            units=len(x),
            mode=mode,  # type: ignore[arg-type]
        )

    return step


def _opacus(mode: str, model: nn.Module, x: Tensor, y: Tensor) -> Step:
    plain = torch.optim.SGD(model.parameters(), lr=1e-3)
    options = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": len(x)}
    if mode == "ghost":
        wrapped = GradSampleModuleFastGradientClipping(model, loss_reduction="sum", max_grad_norm=1.0)
        fast = DPOptimizerFastGradientClipping(plain, loss_reduction="sum", **options)
        return lambda: _ghost_step(wrapped, fast, x, y)
    if mode == "ew":
        wrapped = GradSampleModuleExpandedWeights(model, loss_reduction="sum")
    else:
        wrapped = GradSampleModule(model, loss_reduction="sum", force_functorch=mode == "functorch")
    optimizer = DPOptimizer(plain, **options)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(wrapped(x), y).sum().backward()
        optimizer.step()

    return step


def _ghost_step(
    wrapped: GradSampleModuleFastGradientClipping, optimizer: DPOptimizerFastGradientClipping, x: Tensor, y: Tensor
) -> None:
    """As Opacus's DPTensorFastGradientClipping does it."""
    losses = loss_of(wrapped(x), y)
    losses.sum().backward(retain_graph=True)
    optimizer.zero_grad()
    weighted = (wrapped.get_clipping_coef() * losses).sum()
    wrapped.disable_hooks()
    weighted.backward()
    wrapped.enable_hooks()
    optimizer.step()


def seconds(step: Step, device: str) -> tuple[float, float]:
    """Time and CPU time of one call, the device's work included."""
    if device != "cpu":
        torch.cuda.synchronize()
    started, cpu = time.perf_counter(), time.process_time()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started, time.process_time() - cpu


def runnable(ways: tuple[str, ...], name: str, batch: int, device: str) -> tuple[dict[str, Step], dict[str, str]]:
    """The ways that run, warmed up, and for the others why not."""
    steps, failed = {}, {}
    for way in ways:
        try:
            steps[way] = steps_of(way, name, batch, device)
            for _ in range(2):
                steps[way]()
        except Exception as error:  # noqa: BLE001 -- whatever a way raises is its result
            steps.pop(way, None)
            failed[way] = f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"
    return steps, failed


def timed(steps: dict[str, Step], repeats: int, device: str) -> dict[str, list[tuple[float, float]]]:
    """Seconds and CPU seconds of every way, one entry for each repetition, in a new order each time."""
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in steps}
    order = list(steps)
    for _ in range(repeats):
        random.shuffle(order)
        for way in order:
            found[way].append(seconds(steps[way], device))
    return found


def peak_bytes(way: str, name: str, batch: int, device: str) -> int | None:
    """Peak memory of three steps in a process of its own; None where it fails."""
    command = [sys.executable, __file__, "--peak-of", way, "--model", name, "--batch", str(batch), "--device", device]
    command += ["--threads", str(torch.get_num_threads())]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return int(ended.stdout.split()[-1]) if ended.returncode == 0 else None


def _print_peak(way: str, name: str, batch: int, device: str) -> None:
    step = steps_of(way, name, batch, device)
    for _ in range(3):
        step()
    print(_peak_resident() if device == "cpu" else torch.cuda.max_memory_allocated())


def _peak_resident() -> int:
    # Not getrusage: there a process starts with the peak of the one that started it.
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def noise_seconds(count: int, repeats: int, device: str) -> dict[str, float]:
    """Median seconds of `count` Gaussians: ours (AES, double, sum of four), torch's, and Opacus's secure recipe."""
    stream, reference = RandomStream(bytes(32)), torch.zeros(count, device=device)
    recipes: dict[str, Step] = {
        "ours: sum of four, AES-256-CTR, double": lambda: stream.gaussian(count),
        "torch.normal, float32": lambda: torch.normal(0.0, 1.0, (count,), device=device),
        "Opacus secure_mode's recipe, mt19937, float32": lambda: _generate_noise(1.0, reference, secure_mode=True),
    }
    found = timed(recipes, repeats, device)
    return {name: statistics.median(wall for wall, _ in values) for name, values in found.items()}


def measure(name: str, batch: int, repeats: int, device: str) -> dict[str, object]:
    """Everything, as it is printed with --json: seconds, ratios, bytes."""
    steps, failed = runnable(WAYS[1:], name, batch, device)
    times = timed(steps, repeats, device)
    least = peak_bytes("nothing", name, batch, device) or 0
    rows = {}
    for way, values in times.items():
        peak = peak_bytes(way, name, batch, device)
        pairs = list(zip(values, times["not private"], strict=True))
        beside = list(zip(values, times["Opacus: hooks"], strict=True))
        rows[way] = {
            "seconds": statistics.median(wall for wall, _ in values),
            "ratio": statistics.median(own[0] / base[0] for own, base in pairs),
            "cpu_seconds": statistics.median(cpu for _, cpu in values),
            "cpu_ratio": statistics.median(own[1] / base[1] for own, base in pairs),
            "cpu_ratio_to_opacus_hooks": statistics.median(own[1] / base[1] for own, base in beside),
            "bytes": None if peak is None else peak - least,
        }
    model = MODELS[name]()
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "model": name,
        "parameters": parameters,
        "batch": batch,
        "device": torch.cuda.get_device_name() if device != "cpu" else f"cpu, {torch.get_num_threads()} threads",
        "auto": choose_mode(model, physical_batch=256).name,
        "ways": rows,
        "failed": failed,
        "noise": noise_seconds(parameters, repeats, device),
    }


def show(found: dict, repeats: int) -> None:  # type: ignore[type-arg]
    console = Console(width=110)
    console.print(
        f"{found['model']} of {found['parameters']:,} parameters, {found['batch']} records, {found['device']}; "
        f"auto is {found['auto']}; medians of {repeats} repetitions"
    )
    table = Table("one step", "ms", "x not private", "CPU ms", "x not private", "x Opacus's hooks", "peak MB")
    for way, row in found["ways"].items():
        memory = "-" if row["bytes"] is None else f"{row['bytes'] / 1e6:.0f}"
        wall, cpu = f"{row['seconds'] * 1e3:.1f}", f"{row['cpu_seconds'] * 1e3:.1f}"
        hooks = f"{row['cpu_ratio_to_opacus_hooks']:.2f}"
        table.add_row(way, wall, f"{row['ratio']:.2f}", cpu, f"{row['cpu_ratio']:.2f}", hooks, memory)
    for way, reason in found["failed"].items():
        table.add_row(way, "-", "-", "-", "-", "-", reason)
    console.print(table)
    noise = Table("noise of one step", "ms")
    for name, value in found["noise"].items():
        noise.add_row(name, f"{value * 1e3:.1f}")
    console.print(noise)


@click.command()
@click.option("--model", default="unet", type=click.Choice(list(MODELS)), show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--repeats", default=15, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--threads", default=None, type=int, help="of torch")
@click.option("--json", "as_json", is_flag=True)
@click.option("--peak-of", type=click.Choice(WAYS), hidden=True)
def main(
    model: str, device: str, repeats: int, batch: int, threads: int | None, as_json: bool, peak_of: str | None
) -> None:
    """Measure and print."""
    if threads:
        torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    if peak_of:
        _print_peak(peak_of, model, batch, device)
        return
    found = measure(model, batch, repeats, device)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show(found, repeats)


if __name__ == "__main__":
    main()
