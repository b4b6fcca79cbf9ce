"""How long all attention maps of a batch take: closed form, batched products, one backward pass per latent, and captum.

    python benchmarks/attention.py            # the four networks, a few minutes on 2 cores
    python benchmarks/attention.py --network mnist --rounds 15 --json results.json
    python benchmarks/attention.py --network others      # adapted models of pythae and MONAI, where these are installed

All methods run in turn in one process, round after round, so that a machine whose speed drifts slows all of them, each behind
a forward pass that is not timed; printed are medians over the rounds and ratios of medians. Peak memory is what torch's
allocator held above the start of the call.
captum (LayerGradCam, one call per latent) is timed on the same images where it is installed: `pip install vaelens[bench]`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # torch's profiler would report its every start

import torch
from torch import Tensor, nn

from vaelens import adapt
from vaelens.attention import LatentAttention
from vaelens.models import build

BATCH = {"mnist": 128, "ucsd": 32, "mvtec": 8, "dsprites": 64, "pythae": 64, "monai": 64}
OTHERS = ("pythae", "monai")
METHODS = ("one encoder forward", "closed form", "batched VJP", "one backward per latent", "captum LayerGradCam")


@dataclass(frozen=True)
class Timing:
    """One method on one network: seconds (median of the rounds) and peak bytes above the start."""

    seconds: float
    peak_bytes: int


def made(network: str, latent_dim: int) -> nn.Module:
    """One of the four networks, or an adapted model of another library, in eval mode."""
    if network == "pythae":
        from pythae.models import BetaVAE, BetaVAEConfig
        from pythae.models.nn.benchmarks.mnist import Encoder_Conv_VAE_MNIST

        config = BetaVAEConfig(input_dim=(1, 28, 28), latent_dim=latent_dim)
        return adapt(BetaVAE(config, encoder=Encoder_Conv_VAE_MNIST(config))).eval()
    if network == "monai":
        from monai.networks.nets import VarAutoEncoder

        sizes = {"channels": (16, 32, 64), "strides": (2, 2, 2)}
        return adapt(VarAutoEncoder(2, in_shape=(1, 64, 64), out_channels=1, latent_size=latent_dim, **sizes)).eval()
    return build(network, latent_dim=latent_dim).eval()


def backward_per_latent(model: nn.Module, layer: str, images: Tensor, latent_dim: int) -> Tensor:
    """The usual way: hook the layer, then one backward pass for each latent. Rectified maps (B, D, h, w)."""
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        mean, _ = model.encode(images)  # type: ignore[operator]
    finally:
        handle.remove()
    features = kept[-1]
    maps = []
    for i in range(latent_dim):
        (gradient,) = torch.autograd.grad(mean[:, i].sum(), features, retain_graph=True)
        maps.append(torch.relu((gradient.mean((2, 3), keepdim=True) * features).sum(1)))
    return torch.stack(maps, 1).detach()


def captum_per_latent(model: nn.Module, layer: str, images: Tensor, latent_dim: int) -> Tensor:
    """captum's LayerGradCam on the posterior mean, one call per latent. Rectified maps (B, D, h, w)."""
    from captum.attr import LayerGradCam

    cam = LayerGradCam(lambda x: model.encode(x)[0], model.get_submodule(layer))  # type: ignore[operator]
    maps = [cam.attribute(images, target=i, relu_attributions=True) for i in range(latent_dim)]
    return torch.cat(maps, 1).detach()


def has_captum() -> bool:
    try:
        import captum  # noqa: F401
    except ImportError:
        return False
    return True


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that torch's CPU allocator held during `run`, above what it held at the start."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = most = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def measure(network: str, batch: int, latent_dim: int, rounds: int) -> tuple[dict[str, Timing], float]:
    """Time every method on one network; also the largest difference between any two, relative to the largest map value."""
    torch.manual_seed(0)
    model = made(network, latent_dim)
    images = torch.rand(batch, *model.input_shape)  # type: ignore[misc]
    closed = LatentAttention(model, method="closed_form")
    products = LatentAttention(model, method="vjp")
    layer = closed.layer

    def quiet(call: Callable[[Tensor], object]) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return call(images)

        return run

    runs: dict[str, Callable[[], object]] = {
        METHODS[0]: quiet(model.encode),  # type: ignore[arg-type]
        METHODS[1]: quiet(lambda x: closed(x).per_latent),
        METHODS[2]: quiet(lambda x: products(x).per_latent),
        METHODS[3]: lambda: backward_per_latent(model, layer, images, latent_dim),
    }
    if has_captum():
        runs[METHODS[4]] = lambda: captum_per_latent(model, layer, images, latent_dim)

    maps = [run() for name, run in runs.items() if name != METHODS[0]]
    tensors = [m for m in maps if isinstance(m, Tensor)]
    difference = max(float((m - tensors[0]).abs().max()) for m in tensors) / float(tensors[0].max())
    peaks = {name: peak_bytes(run) for name, run in runs.items()}

    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            runs[METHODS[0]]()  # not timed: each method finds memory and cache as a forward pass left them
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(statistics.median(s), peaks[name]) for name, s in seconds.items()}, difference


def print_table(network: str, batch: int, latent_dim: int, timings: dict[str, Timing], difference: float) -> None:
    forward = timings[METHODS[0]]
    print(f"\n{network}: batch {batch}, D = {latent_dim}; largest difference between methods {difference:.1e} of the range")
    print(f"| {'method':<26} | {'ms':>8} | {'x forward':>9} | {'peak MB':>8} | {'x forward':>9} |")
    print(f"| {'-' * 26} | {'-' * 7}: | {'-' * 8}: | {'-' * 7}: | {'-' * 8}: |")
    for name, t in timings.items():
        slower, larger = t.seconds / forward.seconds, t.peak_bytes / forward.peak_bytes
        print(f"| {name:<26} | {t.seconds * 1e3:8.1f} | {slower:9.2f} | {t.peak_bytes / 1e6:8.1f} | {larger:9.2f} |")
    closed = timings[METHODS[1]].seconds
    for name in METHODS[2:]:
        if name in timings:
            print(f"closed form is {timings[name].seconds / closed:.1f}x as fast as {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", choices=[*BATCH, "all", "others"], default="all")
    parser.add_argument("--batch", type=int, help="default: 128 mnist, 32 ucsd, 8 mvtec, 64 others")
    parser.add_argument("--latents", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, {platform.machine()}")
    results = {}
    several = {"all": [network for network in BATCH if network not in OTHERS], "others": OTHERS}
    for network in several.get(options.network, [options.network]):
        batch = options.batch or BATCH[network]
        timings, difference = measure(network, batch, options.latents, options.rounds)
        print_table(network, batch, options.latents, timings, difference)
        results[network] = {
            "batch": batch,
            "latents": options.latents,
            "difference": difference,
            "methods": {name: {"seconds": t.seconds, "peak_bytes": t.peak_bytes} for name, t in timings.items()},
        }
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
