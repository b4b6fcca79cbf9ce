"""Structural similarity, against its formula written out pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaelens.errors import UsageError
from vaelens.objectives.ssim import ssim_error, ssim_residual

C1, C2 = 0.01**2, 0.03**2


def by_hand(one: np.ndarray, other: np.ndarray, window: int = 11) -> np.ndarray:
    """(1 - SSIM) / 2 of two images (H, W), one window after the other."""
    half = window // 2
    line = np.exp(-((np.arange(window) - half) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    p, q = (np.pad(image.astype(float), half, mode="reflect") for image in (one, other))
    found = np.empty(one.shape)
    for i, j in np.ndindex(one.shape):
        a, b = p[i : i + window, j : j + window], q[i : i + window, j : j + window]
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
        both = (weights * (a - mean_a) * (b - mean_b)).sum()
        brightness = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
        found[i, j] = (1 - brightness * (2 * both + C2) / (var_a + var_b + C2)) / 2
    return found


def test_each_image_and_channel_is_as_the_formula_has_it() -> None:
    one, other = torch.rand(3, 2, 13, 9), torch.rand(3, 2, 13, 9)
    expected = [[by_hand(one[b, c].numpy(), other[b, c].numpy()) for c in range(2)] for b in range(3)]
    assert torch.allclose(ssim_residual(one, other), torch.from_numpy(np.array(expected)).mean(1).float(), atol=1e-6)
    small = torch.from_numpy(np.array([by_hand(one[0, 0].numpy(), other[0, 0].numpy(), window=3)])).float()
    assert torch.allclose(ssim_residual(one[:1, :1], other[:1, :1], window=3), small, atol=1e-6)


def test_bright_images_of_little_contrast_lose_nothing_to_rounding() -> None:
    one = 0.9 + 0.01 * torch.rand(1, 1, 16, 16)
    other = one + 0.005 * torch.rand(1, 1, 16, 16)
    expected = torch.from_numpy(by_hand(one[0, 0].numpy(), other[0, 0].numpy())).float()
    assert torch.allclose(ssim_residual(one, other)[0], expected, atol=1e-5)


def test_equal_images_have_no_loss_and_opposite_ones_much() -> None:
    images = torch.rand(2, 1, 16, 16)
    assert ssim_error(images, images).abs().max() < 1e-6
    assert ssim_error(images, 1 - images).min() > 0.8


@given(st.floats(0.05, 1), st.floats(0.05, 1))
@settings(max_examples=20, deadline=None)
def test_flat_images_differ_in_brightness_alone(a: float, b: float) -> None:
    expected = (1 - (2 * a * b + C1) / (a * a + b * b + C1)) / 2
    found = ssim_error(torch.full((1, 1, 12, 12), a), torch.full((1, 3, 12, 12), b)[:, :1])
    assert math.isclose(float(found), expected, abs_tol=1e-6)


def test_the_loss_is_the_mean_of_the_map_and_leads_towards_the_image() -> None:
    images, others = torch.rand(4, 1, 12, 20), torch.rand(4, 1, 12, 20, requires_grad=True)
    loss = ssim_error(images, others)
    assert loss.shape == (4,)
    assert torch.allclose(loss, ssim_residual(images, others).mean((1, 2)))
    (gradient,) = torch.autograd.grad(loss.sum(), others)
    assert bool((ssim_error(images, others - 0.1 * gradient / gradient.abs().amax()) < loss).all())


def test_half_precision_is_computed_in_single() -> None:
    images = 0.9 + 0.01 * torch.rand(1, 1, 16, 16)  # variances far below what half precision can tell apart
    others = images + 0.005 * torch.rand(1, 1, 16, 16)
    half = ssim_residual(images.bfloat16(), others.bfloat16())
    assert half.dtype == torch.float32
    assert torch.equal(half, ssim_residual(images.bfloat16().float(), others.bfloat16().float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ssim_residual(images, others), ssim_residual(images, others))
        found = ssim_residual(images, others)
    assert torch.allclose(found, ssim_residual(images, others), atol=1e-6)


def test_misuse_is_refused() -> None:
    image = torch.rand(1, 1, 16, 16)
    with pytest.raises(UsageError, match=r"one shape .*\(1, 1, 16, 16\) and \(1, 1, 16, 12\)"):
        ssim_residual(image, image[..., :12])
    with pytest.raises(UsageError, match="odd number of pixels, got 10"):
        ssim_residual(image, image, window=10)
    with pytest.raises(UsageError, match="more than 5 pixels a side"):
        ssim_residual(image[..., :5], image[..., :5])
