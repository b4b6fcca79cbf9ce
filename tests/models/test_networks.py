"""The four networks are those of the supplement, at every size that their strides allow."""

from __future__ import annotations

import re

import pytest
import torch

from vaelens.errors import UsageError
from vaelens.models import build


@pytest.mark.parametrize(("network", "count"), [("mnist", 13_216_193), ("ucsd", 77_243_073), ("mvtec", 72_803_363)])
def test_parameter_counts_prove_the_tables(network: str, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build(network).parameters()) == count


@pytest.mark.parametrize(
    ("network", "size"),
    [
        ("mnist", (4, 8)),
        ("mnist", (32, 28)),
        ("ucsd", (8, 12)),
        ("ucsd", (60, 104)),
        ("mvtec", (64, 128)),
        ("dsprites", (16, 48)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_go_in_and_come_out_at_one_size(network: str, size: tuple[int, int], channels: int) -> None:
    model = build(network, latent_dim=3, input_shape=(channels, *size)).eval()
    images = torch.rand(2, channels, *size)
    with torch.no_grad():
        reconstruction, mean, logvar = model(images)
    assert reconstruction.shape == images.shape
    assert mean.shape == logvar.shape == (2, 3)
    assert 0 <= float(reconstruction.min()) <= float(reconstruction.max()) <= 1


@pytest.mark.parametrize("network", ["mnist", "ucsd", "mvtec", "dsprites"])
@pytest.mark.parametrize("size", [1, 30, 66, 101])
def test_another_size_is_refused_with_sizes_that_work(network: str, size: int) -> None:
    with pytest.raises(UsageError) as error, torch.device("meta"):
        build(network, input_shape=(1, size, size))
    for works in re.findall(r"\d+", re.search(r"for instance (.*?)\)", str(error.value))[1]):  # type: ignore[index]
        with torch.device("meta"):
            build(network, input_shape=(1, int(works), int(works)))


def test_other_misuse_is_refused() -> None:
    with pytest.raises(UsageError, match="mnist, ucsd, mvtec, dsprites"):
        build("imagenet")
    with pytest.raises(UsageError, match="one or three channels"):
        build("mnist", input_shape=(2, 28, 28))
    with pytest.raises(UsageError, match="latent_dim"):
        build("mnist", latent_dim=0)
    with pytest.raises(UsageError, match="1, 28, 28"):
        build("mnist", latent_dim=2).encode(torch.rand(1, 1, 32, 32))
