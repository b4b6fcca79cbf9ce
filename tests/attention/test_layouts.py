"""Tensors of four axes that are no feature maps: tokens with their channels last, and attention between tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vaelens.attention.plan
from vaelens.attention import LatentAttention, survey
from vaelens.errors import UsageError

D = 3


class Block(nn.Module):
    """Norm, mixing of neighbours, norm, mixing of channels: on tokens (B, h, w, n), as in Swin."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(n), nn.LayerNorm(n)
        self.mlp = nn.Sequential(nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + (y + y.roll(1, 1) + y.roll(1, 2)) / 3
        return x + self.mlp(self.norm2(x)).view(x.shape)


class Swin(nn.Module):
    def __init__(self, n: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, n, 2, 2)
        self.blocks = nn.Sequential(Block(n), Block(n))
        self.act, self.norm, self.head = nn.SiLU(), nn.LayerNorm(n), nn.Linear(n, 2 * D)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.norm(1.0 * self.blocks(self.act(self.patches(images)).permute(0, 2, 3, 1)))  # no layer takes in blocks
        mean, logvar = self.head(tokens.mean((1, 2))).chunk(2, 1)
        return mean, logvar


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(1, 12, 2, 2), nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.norm, self.up, self.act, self.down = nn.LayerNorm(12), nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12)
        self.head = nn.Linear(12, 2 * D)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(images)
        y = self.down(self.act(self.up(self.norm(self.deep(x).permute(0, 2, 3, 1)))))
        mean, logvar = self.head((x + y.permute(0, 3, 1, 2)).mean((-2, -1))).chunk(2, 1)
        return mean, logvar


class Attends(nn.Module):
    """A block of a vision transformer as they are written by hand, with one dropout for all."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(n), nn.LayerNorm(n)
        self.qkv, self.proj = nn.Linear(n, 3 * n), nn.Linear(n, n)
        self.mlp = nn.Sequential(nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n))
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, n = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, 2, n // 2).permute(2, 0, 3, 1, 4)
        mixed = self.drop((q @ k.transpose(-1, -2)).softmax(-1)) @ v
        x = x + self.drop(self.proj(mixed.transpose(1, 2).reshape(x.shape)))
        return x + self.drop(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    def __init__(self, depth: int = 3, n: int = 8) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, n, 4, 4), nn.Parameter(torch.randn(1, 1, n))
        self.blocks = nn.Sequential(*[Attends(n) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(n), nn.Linear(n, 2 * D)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = self.norm(self.blocks(torch.cat([self.token.expand(len(images), -1, -1), tokens], 1)))
        mean, logvar = self.head(tokens[:, 0]).chunk(2, 1)
        return mean, logvar


@pytest.fixture
def images() -> Tensor:
    """(2, 1, 16, 12)."""
    return torch.rand(2, 1, 16, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def textbook(model: Any, layer: str, images: Tensor, map_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Signed maps (B, D, h, w), one backward pass per latent; `map_of` lays what the layer gives as (B, n, h, w)."""
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.enable_grad():
        mean, _ = model.encode(images.clone().requires_grad_())
    handle.remove()
    maps = []
    for latent in range(D):
        (gradient,) = torch.autograd.grad(mean[:, latent].sum(), kept[-1], retain_graph=True)
        maps.append((map_of(gradient).mean((2, 3), keepdim=True) * map_of(kept[-1])).sum(1))
    return torch.stack(maps, 1).detach()


def close(found: Tensor, expected: Tensor) -> None:
    assert float(expected.abs().max()) > 0
    assert found.shape == expected.shape
    assert float((found.detach() - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("layer", [None, "blocks.1", "blocks.0.mlp.1", "blocks.0.norm1"])
def test_rows_of_tokens_with_a_grid(layer: str | None, grad: bool, images: Tensor) -> None:
    model = Swin().eval()
    with torch.set_grad_enabled(grad):
        attention = LatentAttention(model, layer, grid=(8, 6))
        maps = attention(images)
    assert attention.layer == (layer or "norm")
    close(maps.signed, textbook(model, attention.layer, images, lambda x: x.permute(0, 3, 1, 2)))
    assert attention.why_not == "its tokens are laid on a grid"
    assert attention.layers["blocks.0"] == (12, 8, 6)


def test_rows_of_tokens_are_no_channels(images: Tensor) -> None:
    model = Swin().eval()
    for attention in (LatentAttention(model), LatentAttention(model, "patches")):
        maps = attention(images)
        close(maps.signed, textbook(model, attention.layer, images, lambda x: x))
        assert attention.layers == {"patches": (12, 8, 6), "act": (12, 8, 6)}
    said = r"gives \(8, 6, 12\) per image, no feature map.*its channels come last; say so: grid=\(8, 6\); there are: patches"
    with pytest.raises(UsageError, match=said):
        LatentAttention(model, "blocks.1")(images)
    with pytest.raises(UsageError, match=r"no layer of Swin\.encode fills a grid of 8 x 8; there are rows of tokens 8 x 6"):
        LatentAttention(model, grid=(8, 8))(images)
    model = ConvNeXt().eval()
    assert [way.layer for way in survey(model, images) if way.layer != "images"] == ["stem", "deep"]
    close(LatentAttention(model)(images).signed, textbook(model, "deep", images, lambda x: x))


def test_a_map_with_as_many_rows_as_channels_stays_one() -> None:
    """Where a shape tells nothing, what a convolution gave is a map still, behind its activation as well."""
    model, images = Swin(8).eval(), torch.rand(2, 1, 16, 16)
    attention = LatentAttention(model)
    close(attention(images).signed, textbook(model, "act", images, lambda x: x))
    assert [*attention.layers] == ["patches", "act"]
    attention = LatentAttention(model, grid=(8, 8))
    close(attention(images).signed, textbook(model, "norm", images, lambda x: x.permute(0, 3, 1, 2)))


class ChannelNorm(nn.LayerNorm):
    """Norms the channels of a map (B, n, h, w), as torchvision's and timm's LayerNorm2d."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("norm", [ChannelNorm, nn.RMSNorm])
def test_norms_of_channels(norm: Callable[[int], nn.Module], images: Tensor) -> None:
    model = Swin().eval()
    model.norm = norm(12)
    if norm is ChannelNorm:
        model.blocks = nn.Identity()
        model.encode = lambda x: model.head(model.norm(model.patches(x)).mean((2, 3))).chunk(2, 1)
        attention = LatentAttention(model)
        close(attention(images).signed, textbook(model, "norm", images, lambda x: x))
        assert attention.layers == {"patches": (12, 8, 6), "norm": (12, 8, 6)}
    else:
        attention = LatentAttention(model, grid=(8, 6))
        close(attention(images).signed, textbook(model, "norm", images, lambda x: x.permute(0, 3, 1, 2)))


def placed(tokens: Tensor) -> Tensor:
    """The class token left out."""
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, 4, 3)


def test_the_default_of_a_transformer_is_the_last_layer_that_the_class_token_looks_at(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by one backward pass, however deep it is; queries, keys and values side by side are no layer to prefer."""
    model = ViT(depth=6).eval()
    looks = []
    traced = vaelens.attention.plan.trace
    monkeypatch.setattr(vaelens.attention.plan, "trace", lambda *args, **options: looks.append(1) or traced(*args, **options))
    attention = LatentAttention(model, grid=(4, 3))
    maps = attention(images)
    assert attention.layer == "blocks.5.norm1"
    assert len(looks) == 2
    close(maps.signed, textbook(model, "blocks.5.norm1", images, placed))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.inference_mode():
        assert LatentAttention(model, grid=(4, 3))(images).layer == "blocks.5.norm1"


def test_attention_between_tokens_is_no_map_and_a_module_may_give_several_shapes(images: Tensor) -> None:
    """The dropout is called on attention (B, heads, T, T) first and on tokens later."""
    model = ViT().eval()
    assert [way.layer for way in survey(model, images) if way.layer != "images"] == ["patches"]
    ways = {way.layer: way for way in survey(model, images, grid=(4, 3))}
    assert ways["blocks.0.drop"].shape == (8, 4, 3)
    assert ways["blocks.0.qkv"].shape == (24, 4, 3)
    maps = LatentAttention(model, "blocks.0.drop", grid=(4, 3))(images)
    close(maps.signed, textbook(model, "blocks.0.drop", images, placed))
    with pytest.raises(UsageError, match=r"fills a grid of 5 x 3; there are tokens \(B, T, n\) with T 13$"):
        LatentAttention(model, grid=(5, 3))(images)


def test_a_module_whose_last_call_gives_vectors(images: Tensor) -> None:
    """The map is that of its last call that gives one."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(1, 4, 4, 4), nn.SiLU()
            self.fc, self.mean, self.logvar = nn.Linear(48, 9), nn.Linear(9, D), nn.Linear(9, D)

        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.act(self.fc(self.act(self.conv(images)).flatten(1)))
            return self.mean(hidden), self.logvar(hidden)

    model = Twice().eval()
    kept: list[Tensor] = []
    model.act.register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.enable_grad():
        mean, _ = model.encode(images)
    gradients = [torch.autograd.grad(mean[:, i].sum(), kept[0], retain_graph=True)[0] for i in range(D)]
    expected = torch.stack([(g.mean((2, 3), keepdim=True) * kept[0]).sum(1) for g in gradients], 1)
    model.act._forward_hooks.clear()
    for layer in ("act", None):
        maps = LatentAttention(model, layer)(images)
        assert maps.layer == "act"
        close(maps.signed, expected.detach())


class TokensFirst(nn.Module):
    """(T, B, n), as torch's transformers have them unless they are told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(1, 8, 4, 4), nn.Linear(8, 2 * D)
        self.blocks = nn.TransformerEncoderLayer(8, 2, 16)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.head(self.blocks(self.patches(images).flatten(2).permute(2, 0, 1)).mean(0)).chunk(2, 1)
        return mean, logvar


def test_tokens_that_do_not_lie_image_by_image(images: Tensor) -> None:
    """Two images are not two tokens of each of twelve."""
    model = TokensFirst().eval()
    for grid in ((1, 2), (4, 3)):
        with pytest.raises(UsageError, match=r"its tokens \(12, 2, 8\) do not lie image by image, .*batch_first=True"):
            LatentAttention(model, grid=grid)(images)
        with pytest.raises(
            UsageError, match=r"'blocks' gives \(12, 2, 8\) for 2 images, and not .* of each; there are: patches"
        ):
            LatentAttention(model, "blocks", grid=grid)(images)
    close(LatentAttention(model)(images).signed, textbook(model, "patches", images, lambda x: x))


def test_maps_of_windows_are_no_maps_of_images(images: Tensor) -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.inner = nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)
            self.head = nn.Linear(4 * 16 * 12, 2 * D)

        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            x = self.conv(images).view(-1, 4, 4, 4, 3, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, 4, 4)
            mean, logvar = self.head(self.inner(x).view(len(images), -1)).chunk(2, 1)
            return mean, logvar

    model = Windows().eval()
    attention = LatentAttention(model)
    close(attention(images).signed, textbook(model, "conv", images, lambda x: x))
    assert "inner" not in attention.layers
    with pytest.raises(UsageError, match=r"layer 'inner' gives \(24, 4, 4, 4\) for 2 images"):
        LatentAttention(model, "inner")(images)


def test_a_grid_without_tokens(images: Tensor, Toy: Any) -> None:
    model = Toy([nn.Conv2d(1, 2, 4, 4), nn.ReLU(), nn.Flatten()], nn.Linear(24, D), nn.Linear(24, D)).eval()
    with pytest.raises(UsageError, match="fills a grid of 4 x 3; it has no tokens: leave out the grid"):
        LatentAttention(model, grid=(4, 3))(images)
