"""The compact network: its table, its size, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from vaelens.attention import LatentAttention
from vaelens.errors import UsageError
from vaelens.models import CompactVAE, build


def test_it_is_as_its_table_says() -> None:
    model = build("compact", 32, (1, 128, 128)).eval()
    assert isinstance(model, CompactVAE)
    assert sum(p.numel() for p in model.parameters()) == 9_808_129
    images = torch.rand(2, 1, 128, 128)
    found = {}
    for name in ("conv1", "relu2", "conv3", "relu4", "linear"):
        getattr(model.encoder, name).register_forward_hook(lambda m, a, out, name=name: found.update({name: out.shape[1:]}))
    with torch.no_grad():
        mean, logvar = model.encode(images)
        assert model.decode(mean).shape == images.shape
    assert mean.shape == logvar.shape == (2, 32)
    shapes = {"conv1": (32, 64, 64), "relu2": (64, 32, 32), "conv3": (128, 16, 16), "relu4": (256, 8, 8), "linear": (256,)}
    assert {name: tuple(shape) for name, shape in found.items()} == shapes


def test_it_has_an_eighth_of_the_parameters_of_the_network_that_it_stands_for() -> None:
    with torch.device("meta"):
        compact, paper = (build(name, 32, shape) for name, shape in (("compact", (1, 128, 128)), ("ucsd", (1, 100, 100))))
    counts = [sum(p.numel() for p in model.parameters()) for model in (compact, paper)]
    assert round(counts[1] / counts[0]) == 8


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 48), (1, 96, 64)])
def test_other_shapes(shape: tuple[int, int, int]) -> None:
    model = build("compact", 5, shape).eval()
    with torch.no_grad():
        mean, _ = model.encode(torch.rand(2, *shape))
        made = model.decode(mean)
    assert mean.shape == (2, 5)
    assert made.shape == (2, *shape)
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1


def test_its_maps_have_a_closed_form_at_the_last_layer() -> None:
    attention = LatentAttention(build("compact", 3, (1, 32, 32)).eval())
    assert (attention.layer, attention.method) == ("encoder.relu4", "closed_form")


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 40, 32), (2, 32, 32), (1, 33, 32)])
def test_what_its_strides_do_not_allow(shape: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="compact") as error:
        build("compact", 4, shape)
    assert "\n" not in str(error.value)
