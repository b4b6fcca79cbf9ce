"""The maps of any model's latents in a file: held against one backward pass per latent, for each kind of head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaelens import LatentAttention, adapt
from vaelens.errors import UsageError
from vaelens.export import export_attention, load


class VAE(nn.Module):
    """A convolution with its activation, and a head that gives mean and log variance in one piece."""

    def __init__(self, *head: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 5, 3, stride=2), nn.ReLU())
        self.head = nn.Sequential(*head)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.head(self.features(images)).chunk(2, dim=1)
        return mean, logvar


FLAT = 5 * 4 * 3
HEADS = {
    "leaky": lambda: (nn.Flatten(), nn.Linear(FLAT, 9), nn.LeakyReLU(0.3), nn.Linear(9, 8)),
    "batch norm": lambda: (nn.Flatten(), nn.Linear(FLAT, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 8)),
    "no hidden layer": lambda: (nn.Flatten(), nn.Linear(FLAT, 8)),
    "pooling": lambda: (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 7), nn.PReLU(), nn.Linear(7, 8)),
    "in place": lambda: (nn.Conv2d(5, 9, (4, 3)), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.5), nn.Linear(9, 8)),
}


def model(head: str) -> VAE:
    made = VAE(*HEADS[head]())
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean, module.running_var = torch.randn(9), torch.rand(9) + 0.5
    return made.eval()


@pytest.mark.parametrize("head", HEADS)
def test_maps_are_those_of_one_backward_pass_per_latent(head: str, tmp_path: Path) -> None:
    vae, images = model(head), torch.randn(6, 2, 9, 7)
    written = export_attention(LatentAttention(vae), tmp_path / "maps.onnx", images)
    got = load(written.path)(images.numpy())
    features = vae.features(images).detach().requires_grad_()
    mean, logvar = vae.head(features).chunk(2, dim=1)
    for i in range(4):
        (gradient,) = torch.autograd.grad(mean[:, i].sum(), features, retain_graph=True)
        wanted = torch.relu((gradient.mean((2, 3), keepdim=True) * features).sum(1)).detach()
        assert torch.allclose(torch.from_numpy(got["latent_maps"][:, i]), wanted, atol=1e-6)
    assert torch.allclose(torch.from_numpy(got["mean"]), mean.detach(), atol=1e-6)
    assert torch.allclose(torch.from_numpy(got["logvar"]), logvar.detach(), atol=1e-6)
    assert load(written.path)(images[:1].numpy())["mean"].shape == (1, 4)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vae.modules())


class Functional(VAE):
    """No module between its linear layers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(FLAT, 9), nn.Linear(9, 8))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = F.leaky_relu(self.features[0](images), 0.1)
        mean, logvar = self.head[1](F.relu(self.head[0](features.reshape(features.shape[0], -1)))).chunk(2, dim=1)
        return mean, logvar


class Named(VAE):
    """An encoder that needs an adapter."""

    def encode(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        mean, logvar = super().encode(images)
        return {"mu": mean, "log_var": logvar}


@pytest.mark.parametrize("vae", [Functional(), adapt(Named(*HEADS["leaky"]()))], ids=["functions", "adapted"])
def test_functions_and_adapted_models(vae: nn.Module, tmp_path: Path) -> None:
    vae, images = vae.eval(), torch.randn(5, 2, 9, 7)
    attention = LatentAttention(vae)
    got = load(export_attention(attention, tmp_path / "maps.onnx", images).path)(images.numpy())
    with torch.no_grad():
        wanted = LatentAttention(vae, method="vjp", layer=attention.layer)(images)
    assert torch.allclose(torch.from_numpy(got["latent_maps"]), wanted.per_latent, atol=1e-6)
    assert torch.allclose(torch.from_numpy(got["mean"]), wanted.mean, atol=1e-6)


@pytest.mark.parametrize("variant", ["expvae", "hirescam"])
def test_of_latents_asked_for_and_another_variant(variant: str, tmp_path: Path) -> None:
    vae, images = model("leaky"), torch.randn(3, 2, 9, 7)
    attention = LatentAttention(vae, latents="top2", variant=variant)
    got = load(export_attention(attention, tmp_path / "maps.onnx", images).path)(images.numpy())
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(got["latent_maps"]), attention(images).per_latent, atol=1e-6)


def test_maps_that_need_gradients_are_refused(tmp_path: Path) -> None:
    vae, images = model("leaky"), torch.randn(3, 2, 9, 7)
    attention = LatentAttention(vae, layer="features.0")
    with pytest.raises(UsageError, match=r"'features\.0' need gradients, which a file of ONNX cannot hold: 'features\.1'"):
        export_attention(attention, tmp_path / "maps.onnx", images)
    assert not list(tmp_path.iterdir())


def test_a_model_that_looks_at_numbers_is_refused_in_one_line(tmp_path: Path) -> None:
    class Choosing(VAE):
        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return super().encode(images if float(images.sum()) > 0 else 2 * images)

    vae = Choosing(*HEADS["leaky"]()).eval()
    with pytest.raises(UsageError, match="Choosing cannot be traced into a file of ONNX") as error:
        export_attention(LatentAttention(vae), tmp_path / "maps.onnx", torch.randn(3, 2, 9, 7))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("images", [torch.randn(1, 2, 9, 7), torch.randn(2, 9, 7), None])
def test_too_few_images_to_trace_with(images: Tensor | None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"images \(B, C, H, W\), two or more"):
        export_attention(LatentAttention(model("leaky")), tmp_path / "maps.onnx", images)  # type: ignore[arg-type]
