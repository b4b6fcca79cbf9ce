"""How long a training step of FactorVAE on dSprites takes: as commonly written and as vaelens takes it; with the attention
loss in closed form and by double backward; how fast images are drawn and encoded, and codes are scored.

    python benchmarks/disentanglement.py                     # some minutes on 2 cores
    python benchmarks/disentanglement.py --steps 20 --rounds 10 --json results.json

The ways run in turn in one process, block after block of steps, so that a machine whose speed drifts slows all of them. Printed
are medians over all steps but the first two of a block, and the losses (reconstruction and KL divergence, in the mean over the
last third) that the common way and ours come to in --loss-steps steps from the same weights.

As commonly written: float32, a shuffled DataLoader over the array, both batches encoded with a graph, the discriminator run
once for each of the two losses, torch's default Adam. Ours is what `vaelens train dsprites --objective factor` runs,
Lightning included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from vaelens.data.sprites import Sprites
from vaelens.metrics import factor_vae_score
from vaelens.models import ConvVAE, build
from vaelens.objectives import Discriminator, attention_disentanglement, kl_per_latent, reparameterize
from vaelens.training.device import pick_accelerator, pick_precision
from vaelens.training.process import plain_warnings, quiet, unchanged_globals
from vaelens.training.settings import TrainSettings
from vaelens.training.terms import Terms

LATENTS, BATCH, GAMMA, RATE = 10, 64, 40.0, 1e-4


class Arrays(Dataset[tuple[Tensor, Tensor]]):
    """Images in an array, two at a time: one in its order, one at random, as implementations of FactorVAE have them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        other = int(torch.randint(len(self.images), ()))
        return self.images[index].float(), self.images[other].float()


@dataclass
class Way:
    """A way of training.

    Attributes:
        name: in the table.
        block: trains for so many steps, and gives the seconds of each and the losses.
    """

    name: str
    block: Callable[[int], tuple[list[float], list[float]]]
    seconds: list[float] = field(default_factory=list)

    def run(self, steps: int) -> None:
        self.seconds += self.block(steps)[0][2:]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def common(images: Tensor, pairs: str | None) -> Callable[[int], tuple[list[float], list[float]]]:
    """FactorVAE as commonly written; with `pairs`, and the attention loss by double backward."""
    torch.manual_seed(0)
    model, discriminator = build("dsprites", LATENTS), Discriminator(LATENTS)
    encoder = torch.optim.Adam(model.parameters(), lr=RATE)
    judge = torch.optim.Adam(discriminator.parameters(), lr=RATE, betas=(0.5, 0.9))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from DataLoader(Arrays(images), batch_size=BATCH, shuffle=True, drop_last=True)

    source = batches()

    def block(steps: int) -> tuple[list[float], list[float]]:
        seconds, losses = [], []
        for _ in range(steps):
            start = time.perf_counter()
            first, second = next(source)
            mean, logvar, overlap = encoded(model, first, pairs)
            codes = reparameterize(mean, logvar)
            logits = model.decode_logits(codes)
            reconstruction = functional.binary_cross_entropy_with_logits(logits, first, reduction="sum") / BATCH
            divergence = kl_per_latent(mean, logvar).sum() / BATCH
            judged = discriminator(codes)
            loss = reconstruction + divergence + GAMMA * (judged[:, 0] - judged[:, 1]).mean() + overlap
            encoder.zero_grad()
            loss.backward()
            encoder.step()
            other = reparameterize(*model.encode(second))
            permuted = torch.stack([column[torch.randperm(BATCH)] for column in other.unbind(1)], 1).detach()
            zeros, ones = torch.zeros(BATCH, dtype=torch.long), torch.ones(BATCH, dtype=torch.long)
            against = functional.cross_entropy(discriminator(codes.detach()), zeros)
            against = 0.5 * (against + functional.cross_entropy(discriminator(permuted), ones))
            judge.zero_grad()
            against.backward()  # type: ignore[no-untyped-call]
            judge.step()
            losses.append((reconstruction + divergence).item())
            seconds.append(time.perf_counter() - start)
        return seconds, losses

    return block


def encoded(model: ConvVAE, images: Tensor, pairs: str | None) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior and attention loss: gradients of the means with a graph, latent by latent."""
    if pairs is None:
        mean, logvar = model.encode(images)
        return mean, logvar, torch.zeros(())
    features = model.encoder[:-2](images)  # type: ignore[index]
    hidden = model.encoder[-2:](features)  # type: ignore[index]
    mean, logvar = model.mean(hidden).flatten(1), model.logvar(hidden).flatten(1)
    latents = range(LATENTS) if pairs == "all" else torch.randperm(LATENTS)[:2].tolist()
    maps = []
    for latent in latents:
        (gradient,) = torch.autograd.grad(mean[:, latent].sum(), features, create_graph=True)
        maps.append(torch.relu((gradient.mean((2, 3), keepdim=True) * features).sum(1)))
    return mean, logvar, 20 * attention_disentanglement(torch.stack(maps, 1), "all")


def ours(sprites: Sprites, precision: str, **settings: Any) -> Callable[[int], tuple[list[float], list[float]]]:
    """What `vaelens train dsprites` runs, by Lightning."""
    with plain_warnings():
        from lightning.pytorch import Callback, Trainer
        from lightning.pytorch.plugins.environments import LightningEnvironment

        from vaelens.training.factor import FactorModule

    losses: list[Tensor] = []

    class Noted(FactorModule):
        def terms_and_posterior(self, *args: Any) -> tuple[Terms, Tensor, Tensor, Tensor]:
            found = super().terms_and_posterior(*args)
            losses.append(found[0].reconstruction.detach().mean() + found[0].kl.detach().sum(1).mean())
            return found

    torch.manual_seed(0)
    chosen = TrainSettings(
        batch_size=BATCH,
        learning_rate=RATE,
        gamma=GAMMA,
        warmup_epochs=0,
        precision=precision,
        steps_per_epoch=10**6,
        **settings,
    )
    module = Noted(build("dsprites", LATENTS), chosen, sprites, None)
    accelerator = pick_accelerator("cpu")

    ends: list[float] = []

    class Clock(Callback):  # type: ignore[misc]
        def on_train_batch_end(self, *_: Any) -> None:
            ends.append(time.perf_counter())

    def block(steps: int) -> tuple[list[float], list[float]]:
        ends.clear()
        losses.clear()
        with quiet(), unchanged_globals(accelerator):
            trainer = Trainer(
                max_epochs=1,
                limit_train_batches=steps + 1,
                accelerator=accelerator,
                devices=1,
                precision=pick_precision(precision, accelerator),
                plugins=[LightningEnvironment()],
                callbacks=[Clock()],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            module.train()
            trainer.fit(module, module.batches)
        return [after - before for before, after in itertools.pairwise(ends)], torch.stack(losses)[1:].tolist()

    return block


def draw(sprites: Sprites, rounds: int) -> float:
    """Seconds for a batch of 64 images."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(20 * rounds):
        start = time.perf_counter()
        sprites.take(sprites.draw(BATCH, generator))
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def encode(sprites: Sprites, count: int, rounds: int) -> tuple[float, float]:
    """Images a second: of the encoder's forward pass alone, and drawn and encoded, both in batches of 64."""
    half = pick_precision("auto", "cpu") == "bf16-mixed"
    model = build("dsprites", LATENTS).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seconds: tuple[list[float], list[float]] = ([], [])
    numbers = torch.arange(count).split(BATCH)  # type: ignore[no-untyped-call]
    layout = torch.channels_last
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        batch = sprites.take(numbers[0]).contiguous(memory_format=layout)
        for _ in range(rounds):
            start = time.perf_counter()
            for _ in numbers:
                model.encode(batch)
            middle = time.perf_counter()
            for each in numbers:
                model.encode(sprites.take(each).contiguous(memory_format=layout))
            seconds[0].append(middle - start)
            seconds[1].append(time.perf_counter() - middle)
    return count / statistics.median(seconds[0]), count / statistics.median(seconds[1])


def score(sprites: Sprites) -> float:
    """Seconds for the FactorVAE score of all images from their codes."""
    codes, factors = torch.randn(len(sprites), LATENTS, generator=torch.Generator().manual_seed(0)).numpy(), sprites.factors()
    found = []
    for seed in range(3):
        start = time.perf_counter()
        factor_vae_score(codes, factors, seed=seed)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def print_ways(ways: dict[str, Way], compared: dict[str, tuple[str, ...]]) -> None:
    print(f"| {'step':<44} | {'ms':>7} |")
    print(f"| {'-' * 44} | {'-' * 6}: |")
    for name, way in ways.items():
        print(f"| {name:<44} | {1e3 * way.median:7.1f} |")
    for base, others in compared.items():
        for name in others:
            ratio = ways[base].median / ways[name].median
            said = f"{ratio:.2f}x the steps per second of" if ratio >= 1 else f"{1 / ratio:.3f}x the time of"
            print(f"{name}: {said} {base}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=12, help="in a block")
    parser.add_argument("--rounds", type=int, default=8, help="of blocks")
    parser.add_argument("--loss-steps", type=int, default=300, help="that the losses are compared after; 0: not at all")
    parser.add_argument("--array", type=int, default=50_000, help="images in the array of the common way")
    parser.add_argument("--encoded", type=int, default=16_384, help="images that encoding is timed on")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads of {os.cpu_count()} cores, {platform.machine()}")
    start = time.perf_counter()
    sprites = Sprites()
    drawn = time.perf_counter() - start
    generator = torch.Generator().manual_seed(0)
    images = sprites.take(sprites.draw(options.array, generator)).to(torch.uint8)
    names = ("common", "common, random pair by double backward", "common, all pairs by double backward")
    mine = ("ours", "ours in float32", "ours, random pair in closed form", "ours, all pairs in closed form")
    ways = {
        way.name: way
        for way in (
            Way(names[0], common(images, None)),
            Way(mine[0], ours(sprites, "auto")),
            Way(mine[2], ours(sprites, "auto", ad_weight=20.0, ad_pairs="random")),
            Way(mine[3], ours(sprites, "auto", ad_weight=20.0, ad_pairs="all")),
            Way(mine[1], ours(sprites, "32")),
            Way(names[1], common(images, "random")),
            Way(names[2], common(images, "all")),
        )
    }
    for _ in range(options.rounds):
        for way in ways.values():
            way.run(options.steps)
    compared = {names[0]: (mine[0], mine[1], *names[1:]), mine[0]: mine[2:], names[1]: (mine[2],), names[2]: (mine[3],)}
    print_ways(ways, compared)
    losses = {}
    if options.loss_steps:
        last = max(1, options.loss_steps // 3)
        for name, block in ((names[0], common(images, None)), (mine[0], ours(sprites, "auto"))):
            losses[name] = statistics.fmean(block(options.loss_steps)[1][-last:])
            print(f"loss after {options.loss_steps} steps, {name}: {losses[name]:.1f} nats")
    batch, scored = draw(sprites, options.rounds), score(sprites)
    raw, whole = encode(sprites, options.encoded, max(2, options.rounds // 2))
    print(f"all {len(sprites):,} images drawn in {drawn:.1f} s; a batch of {BATCH} taken in {1e3 * batch:.3f} ms")
    print(f"encoding {whole:,.0f} images a second, {whole / raw:.2f} of the encoder's forward pass ({raw:,.0f})")
    print(f"FactorVAE score of all codes in {scored:.2f} s")
    if options.json:
        figures = {
            "threads": threads,
            "seconds_per_step": {name: way.median for name, way in ways.items()},
            "losses": losses,
            "draw_all_seconds": drawn,
            "batch_seconds": batch,
            "images_per_second": {"forward": raw, "encoded": whole},
            "score_seconds": scored,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
