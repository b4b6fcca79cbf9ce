"""A small convolutional head that reads signals of a VAE and says, pixel by pixel, how likely a defect is."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vaelens.models.precision import computes_bf16

_WIDTHS = (16, 32, 64, 96, 128)
_RATE = 2e-3
_PRIOR = -3.0  # logit: defects are rare


class Head(nn.Module):
    """A U-Net of 0.8 million parameters that works at half the images' resolution.

    Args:
        signals: number of channels that it reads.
    """

    def __init__(self, signals: int) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(_WIDTHS))
        self.stem = _block(4 * signals, _WIDTHS[0])
        self.down = nn.ModuleList(nn.Sequential(_block(a, b, stride=2), _block(b, b)) for a, b in pairs)
        self.up = nn.ModuleList(_block(a + b, a) for a, b in pairs)
        self.out = nn.Conv2d(_WIDTHS[0], 4, 3, padding=1)
        nn.init.constant_(self.out.bias, _PRIOR)  # type: ignore[arg-type]

    def forward(self, signals: Tensor) -> Tensor:
        """Signals (B, c, H, W) -> logits (B, H, W)."""
        height, width = signals.shape[2:]
        even = functional.pad(signals, (0, width % 2, 0, height % 2), mode="replicate")
        features = self.stem(functional.pixel_unshuffle(even, 2))
        passed = [features]
        for down in self.down:
            features = down(features)
            passed.append(features)
        for up, beside in zip(reversed(self.up), reversed(passed[:-1]), strict=True):
            wide = functional.interpolate(features, beside.shape[2:], mode="bilinear", align_corners=False)
            features = up(torch.cat([beside, wide], 1))
        return functional.pixel_shuffle(self.out(features), 2)[:, 0, :height, :width]


def train_head(
    signals: Tensor,
    masks: Tensor,
    steps: int,
    seed: int,
    batch_size: int = 16,
    done: Callable[[int], None] | None = None,
) -> Head:
    """Train a head on signals (N, c, H, W) of images with synthetic defects and their masks (N, H, W), bool.

    Adam with decoupled weight decay and one cycle of the learning rate; cross entropy and the Dice loss of a batch. `done` is
    called before each step with the number of those taken.

    Returns:
        The head in eval mode. The global random state is left as it was.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(signals.shape[1])
    device = signals.device.type
    head.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=1e-2)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=max(steps, 2), pct_start=0.15)
    order = torch.empty(0, dtype=torch.long)
    with torch.enable_grad():
        for step in range(steps):
            if done is not None:
                done(step)
            if len(order) < batch_size:
                order = torch.cat([order, torch.randperm(len(signals), generator=generator, device="cpu")])
            chosen, order = order[:batch_size], order[batch_size:]
            seen, wanted = signals[chosen].float(), masks[chosen].to(device).float()
            if bool(torch.rand((), generator=generator) < 0.5):
                seen, wanted = seen.flip(-1), wanted.flip(-1)
            with torch.autocast(device, torch.bfloat16, enabled=computes_bf16(device)):
                logits = head(seen.contiguous(memory_format=torch.channels_last))
            loss = _loss(logits.float(), wanted)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cycle.step()
    head.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return head.eval().requires_grad_(False)


def _loss(logits: Tensor, masks: Tensor) -> Tensor:
    entropy = functional.binary_cross_entropy_with_logits(logits, masks)
    found = logits.sigmoid()
    overlap = (2 * (found * masks).sum() + 1) / (found.sum() + masks.sum() + 1)
    return 2 * entropy + 0.5 * (1 - overlap)


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())
