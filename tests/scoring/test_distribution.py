"""How sure explained maps are: which latents are shown, and that the numbers are those of the posterior."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vaelens.data.images import to_float
from vaelens.runs import Run, load_run
from vaelens.runs.train import load_split
from vaelens.scoring.distribution import MOST_FIRED, MOST_TOLD, Distribution
from vaelens.scoring.explain import explain
from vaelens.scoring.gallery import picture
from vaelens.scoring.sources import Source


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Run:
    return load_run(tiny_run)


@pytest.fixture(scope="module")
def seen(run: Run) -> Tensor:
    return to_float(load_split(run.config).test.images[:24])


def test_shows_the_latents_that_fired_or_those_that_carry_most(run: Run, seen: Tensor) -> None:
    explanation = run.explain(seen)
    found = Distribution.of(run, seen, explanation)
    assert found is not None
    assert explanation.fired.any(1).unique().tolist() == [False, True]  # both kinds are among them
    for i in range(len(seen)):
        rows = found.rows(i)
        fired = explanation.fired[i].nonzero().flatten().tolist()
        if fired:
            assert rows == sorted(fired, key=lambda d: -abs(float(explanation.z_scores[i, d])))[:MOST_FIRED]
        else:
            mean, logvar = explanation.maps.mean[i], explanation.maps.logvar[i]
            nats = 0.5 * (mean**2 + logvar.exp() - 1 - logvar)
            assert rows == nats.argsort(descending=True).tolist()[:MOST_TOLD]
            assert "No latent fired" in found.caption(i)


def test_numbers_are_those_of_sampled_maps(run: Run, seen: Tensor) -> None:
    found = Distribution.of(run, seen[:2], run.explain(seen[:2]))
    assert found is not None
    numbers = found.to_dict(1)
    posterior = found.posterior
    noise = torch.randn(10_000, 8, generator=torch.Generator().manual_seed(0))
    signed = posterior.mean[1] + noise[..., None, None] * posterior.slope[1]
    for k in range(8):
        at = int(posterior.maps.signed[1, k].flatten().argmax())
        values = signed[:, k].flatten(1)
        assert numbers["peak"][k] == pytest.approx(max(0.0, float(posterior.maps.signed[1, k].max())))
        assert numbers["std_at_peak"][k] == pytest.approx(float(values[:, at].std()), rel=0.05, abs=1e-9)
        assert numbers["probability_at_peak"][k] == pytest.approx(float((values[:, at] > 0).double().mean()), abs=0.03)


@pytest.mark.parametrize(("latents", "method", "count"), [(None, "vjp", 8), ([5, 2], "auto", 2), ("top3", "auto", 3)])
def test_explain_draws_and_tells_it(run: Run, latents: Any, method: str, count: int, tmp_path: Path) -> None:
    attention = run.attend(latents=latents, method=method)
    explain(run, Source(run, ["digits/0001", "digits/1795"]), tmp_path / "out", attention)
    assert len(list((tmp_path / "out").glob("*-spread.png"))) == 2
    told = json.loads((tmp_path / "out" / "latents.json").read_text())
    for image in told["images"]:
        one = image["distribution"]
        assert len(one["latents"]) == len(one["peak"]) == len(one["certain"]) == count
        assert all(0 <= share <= 1 for share in (*one["certain"], *one["probability_at_peak"]))
        if isinstance(latents, list):
            assert one["latents"] == latents
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("how sure the maps are") >= 2


def test_latents_below_normal_show_what_lowers_them(run: Run, seen: Tensor) -> None:
    explanation = run.explain(seen)
    found = Distribution.of(run, seen, explanation)
    assert found is not None
    low = [(i, d) for i in range(24) for d in range(8) if explanation.fired[i, d] and explanation.z_scores[i, d] < 0]
    i, latent = low[0]
    figure = found.drawn(i, "image", picture(seen[i]))
    words = [text.get_text() for text in figure.axes[0].texts]
    assert "what lowers it" in words
    assert f"z{latent}" in " ".join(words)


def test_other_variants_have_none(run: Run, tmp_path: Path) -> None:
    attention = run.attend(variant="expvae")
    explain(run, Source(run, ["digits/0001"]), tmp_path / "out", attention)
    assert not list((tmp_path / "out").glob("*-spread.png"))
    assert json.loads((tmp_path / "out" / "latents.json").read_text())["images"][0]["distribution"] is None


def test_the_images_own_pixels(tiny_run: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """By the command, at the resolution of the images, with a distribution."""
    out = tmp_path / "out"
    done = cli("explain", tiny_run, "digits/0001", "--layer", "images", "--variant", "hirescam", "--out", out)
    assert done.code == 0, done.err
    kept = json.loads((out / "latents.json").read_text())
    assert kept["images"][0]["distribution"] is not None
    assert list(out.glob("*.png"))
    refused = cli("explain", tiny_run, "digits/0001", "--layer", "images", "--out", tmp_path / "none")
    assert refused.code == 2
    assert "explain them pixel by pixel, variant='hirescam'" in refused.err
    assert not (tmp_path / "none").exists()


def test_equals_ten_thousand_samples_on_real_digits(mnist_runs: dict[int, Path]) -> None:
    """A run on MNIST, one of its test images, and maps of 10,000 sampled codes."""
    run = load_run(mnist_runs[1])
    image = to_float(load_split(run.config).test.images[:1])
    found = run.posterior(image)
    generator = torch.Generator().manual_seed(0)
    total, square, above = (torch.zeros_like(found.mean[0], dtype=torch.float64) for _ in range(3))
    with torch.no_grad():
        for _ in range(20):
            maps = run.attention(image.expand(500, -1, -1, -1), sample=True, generator=generator).per_latent.double()
            total, square, above = total + maps.sum(0), square + maps.square().sum(0), above + (maps > 0).sum(0)
    mean, share = total / 10_000, above / 10_000
    std = (square / 10_000 - mean.square()).clamp(min=0).sqrt()
    scale = float(found.std.max())
    assert scale > 0.01 * float(found.mean.abs().max())  # there is a spread to speak of
    assert bool(((mean - found.rectified_mean[0]).abs() <= 5 * found.rectified_std[0] / 100 + 1e-4 * scale).all())
    torch.testing.assert_close(std, found.rectified_std[0].double(), rtol=0.1, atol=1e-2 * scale)
    probability = found.probability()[0]
    assert bool(((share - probability).abs() <= 5 * (probability * (1 - probability) / 10_000).sqrt() + 5e-4).all())
