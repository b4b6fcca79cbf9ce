"""The compared methods find a planted defect, and their maps are what their papers say, worked out another way."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from vaelens.errors import DataError, UsageError
from vaelens.localizers import Localizer, resnet
from vaelens.localizers.anogan import AnoGANLocalizer
from vaelens.localizers.autoencoder import AEL2Localizer, AESSIMLocalizer
from vaelens.localizers.features import FeatureDictionaryLocalizer
from vaelens.models import DCGAN, ConvVAE, build
from vaelens.objectives.ssim import ssim_residual
from vaelens.training import TrainSettings

SIDE = 32


def stripes(count: int, seed: int) -> Tensor:
    """Soft vertical stripes, shifted and shaded at random: (count, 1, 32, 32), floats in [0, 1]."""
    draw = torch.rand(2, count, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    phase = torch.arange(SIDE) * (2 * torch.pi / 8) + 2 * torch.pi * draw[0]
    return (0.5 + (0.2 + 0.1 * draw[1]) * torch.sin(phase)).expand(-1, -1, SIDE, -1).clone()


def planted(count: int, seed: int = 7) -> tuple[Tensor, Tensor]:
    """Stripes with a patch where they run across, and its mask (count, 32, 32)."""
    images, masks = stripes(count, seed), torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for i in range(count):
        top, left = 4 + 3 * (i % 5), 6 + 4 * (i % 4)
        patch = images[i, :, top : top + 8, left : left + 8]
        images[i, :, top : top + 8, left : left + 8] = (1.2 - patch).transpose(1, 2)
        masks[i, top : top + 8, left : left + 8] = True
    return images, masks


def auroc(maps: Tensor, masks: Tensor) -> float:
    """Share of pairs of a pixel inside and one outside that the map orders rightly, ties half."""
    inside, outside = maps[masks].numpy(), np.sort(maps[~masks].numpy())
    below = np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")
    return float(below.mean() / 2 / len(outside))


def check_found(localizer: Localizer, least: float) -> None:
    images, masks = planted(8)
    found = localizer.localize(images)
    assert found.maps.shape == masks.shape
    assert found.score.shape == (8,)
    assert bool((found.maps >= 0).all())
    assert not found.maps.requires_grad
    assert auroc(found.maps, masks) > least
    assert float(found.score.mean()) > 1.2 * float(localizer.localize(stripes(8, seed=8)).score.mean())


class Named:
    """What training needs of a set of images."""

    def __init__(self, images: Tensor) -> None:
        self.images = (images * 255).round().byte()
        self.names = tuple(map(str, range(len(images))))


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> ConvVAE:
    from vaelens.training.autoencoder import AutoencoderModule
    from vaelens.training.fit import fit

    torch.manual_seed(0)
    model = build("ae", 8, (1, SIDE, SIDE))
    settings = TrainSettings(epochs=20, batch_size=8, learning_rate=1e-3, precision="32")
    module, out = partial(AutoencoderModule, objective="ae"), tmp_path_factory.mktemp("ae")
    fit(model, Named(stripes(96, seed=1)), None, settings, out, progress=False, module=module)
    return model


def test_autoencoders_find_a_planted_defect(autoencoder: ConvVAE) -> None:
    check_found(AEL2Localizer(autoencoder).fit(stripes(2, 1)), 0.9)
    check_found(AESSIMLocalizer(autoencoder).fit(stripes(2, 1)), 0.9)


def test_their_maps_are_residuals_and_their_score_the_maximum() -> None:
    model = build("ae", 8, (3, SIDE, SIDE)).eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        made = model(images)[0]
    squared, similar = AEL2Localizer(model).localize(images), AESSIMLocalizer(model).localize(images)
    assert torch.allclose(squared.maps, ((images - made) ** 2).sum(1) / 3)
    assert torch.allclose(similar.maps, ssim_residual(images, made))
    narrow = AESSIMLocalizer(model, window=3).localize(images)
    assert torch.allclose(narrow.maps, ssim_residual(images, made, window=3))
    for found in (squared, similar):
        assert torch.equal(found.score, found.maps.flatten(1).amax(1))


@pytest.fixture(scope="module")
def gan() -> DCGAN:
    """A generator that no one trained: of images of its own it is a perfect one."""
    torch.manual_seed(3)
    model = build("dcgan", 4, (1, SIDE, SIDE))
    assert isinstance(model, DCGAN)
    with torch.no_grad():
        model.decoder[-1].weight *= 8  # type: ignore[operator]
        for _ in range(40):  # the running means of its batch norms
            model.discriminate(model.decode(model.noise(16, torch.Generator().manual_seed(4))))
    return model.eval().requires_grad_(False)


def generated(gan: DCGAN, count: int, seed: int = 5) -> Tensor:
    with torch.no_grad():
        return gan.decode(gan.noise(count, torch.Generator().manual_seed(seed)) * 0.5)


def test_anogan_finds_a_planted_defect_and_the_image_behind_it(gan: DCGAN) -> None:
    normal = generated(gan, 4)
    images, masks = normal.clone(), torch.zeros(4, SIDE, SIDE, dtype=torch.bool)
    images[:, :, 10:16, 12:18] = 1 - images[:, :, 10:16, 12:18]
    masks[:, 10:16, 12:18] = True
    few, many = (AnoGANLocalizer(gan, steps=steps).fit(normal) for steps in (1, 40))
    assert auroc(many.localize(images).maps, masks) > 0.9
    assert float(many.localize(normal).score.max()) < float(many.localize(images).score.min())
    assert bool((many.localize(normal).score < 0.5 * few.localize(normal).score).all())


def test_the_first_step_and_the_loss_are_those_of_the_paper(gan: DCGAN) -> None:
    images, weight, rate = generated(gan, 3), 0.3, 0.02
    start = torch.rand(1, 4, generator=torch.Generator().manual_seed(11)) * 2 - 1

    def loss(noise: Tensor) -> Tensor:
        made = gan.decode(noise)
        features = [gan.features(each * 2 - 1) for each in (images, made)]
        residual, matching = (images - made).abs(), (features[0] - features[1]).abs()
        return (1 - weight) * residual.sum((1, 2, 3)) + weight * matching.sum((1, 2, 3))

    noise = start.repeat(3, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(noise).sum(), noise)
    after = noise.detach() - rate * gradient.sign()  # Adam's first step, whatever the gradient's size
    localizer = AnoGANLocalizer(gan, steps=1, weight=weight, learning_rate=rate, seed=11)
    found = localizer.localize(images)
    assert torch.allclose(localizer.search(images), after, atol=1e-4)
    assert torch.allclose(found.score, loss(after), rtol=1e-3)
    assert torch.allclose(found.maps, (images - gan.decode(after)).abs()[:, 0], atol=1e-3)


def test_anogans_map_does_not_depend_on_the_batch(gan: DCGAN) -> None:
    images = torch.rand(11, 1, SIDE, SIDE)
    localizer = AnoGANLocalizer(gan, steps=8)
    together = localizer.localize(images)
    for order in (torch.arange(10, -1, -1), torch.tensor([9]), torch.tensor([3, 10, 3])):
        again = localizer.localize(images[order])
        assert torch.allclose(again.maps, together.maps[order], atol=1e-5)
        assert torch.allclose(again.score, together.score[order], rtol=1e-5)
    with torch.inference_mode():
        assert torch.equal(localizer.localize(images).maps, together.maps)


def test_anogan_leaves_the_networks_as_they_were(gan: DCGAN) -> None:
    model = build("dcgan", 4, (1, SIDE, SIDE))
    model.load_state_dict(gan.state_dict())
    before = {name: value.clone() for name, value in model.eval().state_dict().items()}
    AnoGANLocalizer(model, steps=2).localize(generated(gan, 1))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_anogan_refuses_misuse_and_says_how_far_it_searched(gan: DCGAN) -> None:
    with pytest.raises(UsageError, match=r"'dcgan'.*is a ConvAE: train a run with objective 'anogan'"):
        AnoGANLocalizer(build("ae", 4, (1, SIDE, SIDE)))
    with pytest.raises(UsageError, match="steps must be a whole number from 1 on"):
        AnoGANLocalizer(gan, steps=0)
    with pytest.raises(UsageError, match="weight is a share"):
        AnoGANLocalizer(gan, weight=2)
    with pytest.raises(UsageError, match=r"\(B, 1, 32, 32\), got \(2, 1, 16, 16\)"):
        AnoGANLocalizer(gan).localize(torch.rand(2, 1, 16, 16))
    assert AnoGANLocalizer(gan, steps=20).detail == "20 search steps (the paper: 500)"
    assert AnoGANLocalizer(gan, steps=500).detail == "500 search steps"


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine that has no weights of a ResNet-18."""
    monkeypatch.delenv(resnet.VARIABLE, raising=False)
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a whole ResNet-18, its classifier included, as torchvision publishes trained ones."""
    from monai.networks.nets import resnet18

    torch.manual_seed(5)
    net = resnet18(
        spatial_dims=2, n_input_channels=3, conv1_t_stride=2, num_classes=10, shortcut_type="B", bias_downsample=False
    )
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def encoder() -> ConvVAE:
    torch.manual_seed(6)
    return build("mnist", 4, (1, SIDE, SIDE)).eval()


@pytest.mark.usefixtures("no_weights")
def test_the_dictionary_finds_a_planted_defect_with_either_features(encoder: ConvVAE, weights: Path) -> None:
    own = FeatureDictionaryLocalizer(encoder, layer="encoder.relu1", words=200).fit(stripes(80, 1))
    check_found(own, 0.9)
    assert own.features_from.startswith("features of the run's own encoder, layer encoder.relu1: no weights")
    theirs = FeatureDictionaryLocalizer(encoder, weights=weights, block="layer1", grid=16, words=200).fit(stripes(80, 1))
    check_found(theirs, 0.9)
    assert theirs.features_from == "features of a ResNet-18 (layer1, 16 cells a side, resnet18.pth)"


@pytest.mark.usefixtures("no_weights")
def test_the_map_is_the_distance_to_the_nearest_word(encoder: ConvVAE) -> None:
    normal, images = stripes(30, 1), planted(3)[0]
    localizer = FeatureDictionaryLocalizer(encoder, layer="encoder.relu1", words=7, variance=0.9).fit(normal)

    def patches(images: Tensor) -> np.ndarray:
        with torch.no_grad():
            features = encoder.encoder.relu1(encoder.encoder.conv1(images))
        padded = functional.pad(features, (1, 1, 1, 1))
        sums = functional.conv2d(padded.flatten(0, 1)[:, None], torch.ones(1, 1, 3, 3)).view(features.shape)
        return (sums / sums.abs().sum(1, keepdim=True)).movedim(1, -1).flatten(0, 2).double().numpy()

    learned = patches(normal)
    variances, axes = np.linalg.eigh(np.cov(learned.T))
    kept = 1 + int((np.cumsum(variances[::-1]) / variances.sum() < 0.9).sum())
    axes = axes[:, ::-1][:, :kept]
    words = localizer.fitted.words.double().numpy()  # type: ignore[union-attr]
    components = localizer.fitted.components.double().numpy()  # type: ignore[union-attr]
    assert words.shape == (7, kept)
    assert np.allclose(np.abs(components @ axes), np.eye(kept), atol=0.02)

    def distances(found: np.ndarray) -> np.ndarray:
        coordinates = (found - learned.mean(0)) @ components.T
        return np.linalg.norm(coordinates[:, None] - words, axis=2).min(1)

    expected = distances(patches(images)) / distances(learned).mean()
    score = localizer.localize(images).score
    # Padding with zeros and dividing by the sum is the mean of what is there but for the border, where it is the same.
    assert np.allclose(score.numpy(), expected.reshape(3, -1).max(1), rtol=1e-3)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("own", [True, False])
def test_what_was_learned_comes_back_without_a_fit(encoder: ConvVAE, weights: Path, own: bool) -> None:
    options: dict[str, Any] = {"words": 9} if own else {"words": 9, "weights": weights, "grid": 4}
    normal, images = stripes(20, 1), planted(5)[0]
    fitted = FeatureDictionaryLocalizer(encoder, **options).fit(normal)
    state = {name: value.clone() for name, value in fitted.state().items()}
    assert all(value.dtype == torch.float32 for name, value in state.items() if name != "source")
    # Weights that have come since do not change what was fitted without them.
    options |= {"weights": weights, "grid": 4}
    restored = FeatureDictionaryLocalizer(encoder, **options).restore(normal[:0], state)
    assert torch.equal(restored.localize(images).maps, fitted.localize(images).maps)
    assert torch.equal(restored.localize(images).score, fitted.localize(images).score)
    assert torch.allclose(restored.localize(images[2:3]).maps, fitted.localize(images).maps[2:3], rtol=1e-4)
    again = FeatureDictionaryLocalizer(encoder, **(options if not own else {"words": 9})).fit(normal)
    assert all(torch.equal(value, state[name]) for name, value in again.state().items())


@pytest.mark.usefixtures("no_weights")
def test_other_features_than_those_fitted_on_are_refused(encoder: ConvVAE, weights: Path, tmp_path: Path) -> None:
    normal = stripes(6, 1)
    state = FeatureDictionaryLocalizer(encoder, weights=weights, grid=4, words=3).fit(normal).state()
    changed = torch.load(weights, weights_only=True)
    changed["conv1.weight"] += 0.01
    save_file(changed, tmp_path / "changed.safetensors")
    others: list[dict[str, Any]] = [
        {},
        {"weights": weights, "grid": 5},
        {"weights": weights, "grid": 4, "block": "layer2"},
        {"weights": tmp_path / "changed.safetensors", "grid": 4},
    ]
    for options in others:
        with pytest.raises(UsageError, match="was fitted on features of a ResNet-18, and here are features of"):
            FeatureDictionaryLocalizer(encoder, **options).restore(normal, state)
    del state["words"]
    with pytest.raises(UsageError, match="lacks words: fit it again"):
        FeatureDictionaryLocalizer(encoder).restore(normal, state)
    for use in (lambda each: each.localize(normal), lambda each: each.state()):
        with pytest.raises(UsageError, match="has not been fitted"):
            use(FeatureDictionaryLocalizer(encoder))


@pytest.mark.usefixtures("no_weights")
def test_images_all_alike_make_a_dictionary_too(encoder: ConvVAE) -> None:
    flat = torch.full((4, 1, SIDE, SIDE), 0.5)
    localizer = FeatureDictionaryLocalizer(encoder, words=5).fit(flat)
    found = localizer.localize(torch.cat([flat, planted(1)[0]]))
    assert bool(found.maps.isfinite().all())
    assert float(found.score[:4].max()) < float(found.score[4])


class Trap:
    """Does harm when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("harm"),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.usefixtures("no_weights")
def test_files_that_hold_no_weights_are_refused_unread(
    encoder: ConvVAE, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no weights of a ResNet-18 at .*nowhere\.pth; name a"):
        FeatureDictionaryLocalizer(encoder, weights="nowhere.pth")
    monkeypatch.setenv(resnet.VARIABLE, "elsewhere.pth")
    with pytest.raises(DataError, match=r"elsewhere.pth \(named by VAELENS_RESNET18\)"):
        FeatureDictionaryLocalizer(encoder)
    for name, content in (("trap.pth", pickle.dumps(Trap())), ("cut.pth", weights.read_bytes()[:5000]), ("x.safetensors", b"")):
        Path(name).write_bytes(content)
        with pytest.raises(DataError, match=f"cannot read the weights .*{name}"):
            FeatureDictionaryLocalizer(encoder, weights=name)
    assert not Path("harm").exists()
    torch.save({"conv1.weight": torch.zeros(1)}, "other.pth")
    with pytest.raises(DataError, match=r"other.pth does not hold the weights of a ResNet-18"):
        FeatureDictionaryLocalizer(encoder, weights="other.pth")
    torch.save([1, 2], "list.pth")
    with pytest.raises(DataError, match="holds no table of weights"):
        FeatureDictionaryLocalizer(encoder, weights="list.pth")


@pytest.mark.usefixtures("no_weights")
def test_weights_are_found_where_they_may_lie(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resnet.find_weights() is None
    places = (tmp_path / "torch" / "hub" / "checkpoints" / resnet.FILE, tmp_path / "cache" / "weights" / resnet.FILE)
    for place in places:
        place.parent.mkdir(parents=True)
        place.write_bytes(b"")
        assert resnet.find_weights() == place
    monkeypatch.setenv(resnet.VARIABLE, str(weights))
    assert resnet.find_weights() == weights
    assert resnet.find_weights(places[0]) == places[0]


@pytest.mark.usefixtures("no_weights")
def test_a_download_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(resnet, "fetch", lambda *arguments: seen.append(arguments) or arguments[2])
    found = resnet.find_weights("download")
    name, urls, target, checksum, *_ = seen[0]
    assert found == target
    assert target.name == name == resnet.FILE
    assert urls == [f"https://download.pytorch.org/models/{resnet.FILE}"]
    assert len(checksum) == 64
    assert checksum.startswith("f37072fd")  # torchvision names a file by the beginning of its sha256


def test_the_grid_and_the_features_are_those_of_the_block(weights: Path) -> None:
    found = resnet.ResNetFeatures(weights, "layer1", grid=8)
    images = torch.rand(2, 1, 32, 64)
    assert found(images).shape == (2, 64, 8, 16)
    assert resnet.ResNetFeatures(weights, "layer3", grid=3)(images).shape == (2, 256, 3, 6)
    kept = torch.load(weights, weights_only=True)

    def norm(x: Tensor, name: str) -> Tensor:
        scale = kept[f"{name}.weight"] / (kept[f"{name}.running_var"] + 1e-5).sqrt()
        moved = x - kept[f"{name}.running_mean"][:, None, None]
        return moved * scale[:, None, None] + kept[f"{name}.bias"][:, None, None]

    x = images.expand(-1, 3, -1, -1)
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    x = norm(nn.functional.conv2d(x, kept["conv1.weight"], stride=2, padding=3), "bn1").relu()
    x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
    for block in ("layer1.0", "layer1.1"):
        inner = norm(nn.functional.conv2d(x, kept[f"{block}.conv1.weight"], padding=1), f"{block}.bn1").relu()
        x = (x + norm(nn.functional.conv2d(inner, kept[f"{block}.conv2.weight"], padding=1), f"{block}.bn2")).relu()
    assert torch.allclose(found(images), x, atol=1e-4)
    with pytest.raises(UsageError, match="unknown block of the ResNet-18 'layer5'; there are: layer1"):
        resnet.ResNetFeatures(weights, "layer5")
