"""Features of a ResNet-18 trained on ImageNet, from weights that lie in a file: nothing is downloaded unless asked for."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from vaelens.data.download import cache_folder, fetch
from vaelens.data.files import shown
from vaelens.errors import DataError, unknown, whole

if TYPE_CHECKING:
    from vaelens.data.download import Progress

FILE = "resnet18-f37072fd.pth"
"""Torchvision's published weights, IMAGENET1K_V1."""
VARIABLE = "VAELENS_RESNET18"
"""The environment variable that may name the file of the weights."""

_URL = f"https://download.pytorch.org/models/{FILE}"
_SHA256 = "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"
_BYTES = 46_830_571
# How many pixels of the image lie between two cells of the block's map.
STRIDES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the weights were trained


def download_weights(progress: Progress | None = None) -> Path:
    """Torchvision's weights (47 MB, BSD licence) in the cache folder, downloaded unless they are there.

    Raises:
        DataError: they cannot be downloaded; the message says where to put the file by hand.
    """
    return fetch(FILE, [_URL], cache_folder("weights") / FILE, _SHA256, _BYTES, progress)


def find_weights(weights: str | Path | None = None) -> Path | None:
    """The file of weights to use: the one named, else $VAELENS_RESNET18, else one in the caches of vaelens or torch.hub.

    Args:
        weights: a file; "download" downloads it into the cache; None looks for one.

    Returns:
        None where there is none.

    Raises:
        DataError: the file that was named, here or by the variable, is not there, or the download failed.
    """
    if weights == "download":
        return download_weights()
    named = weights or os.environ.get(VARIABLE)
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            by = "" if weights else f" (named by {VARIABLE})"
            raise DataError(f"there are no weights of a ResNet-18 at {shown(path)}{by}; name a .pth or .safetensors file")
        return path
    places = (cache_folder("weights") / FILE, Path(torch.hub.get_dir()) / "checkpoints" / FILE)
    return next((path for path in places if path.is_file()), None)


class ResNetFeatures:
    """The feature map of a block of a ResNet-18, over a grid of chosen size.

    Args:
        path: the weights, with torchvision's names: .safetensors, or .pth, of which nothing but tensors is unpickled.
        block: "layer1" to "layer4".
        grid: cells along the shorter side of the image, which is resized so that the map has so many.

    Attributes:
        fingerprint: a number that differs for other weights.
        grid: as given.
        channels: n, of the features.

    Raises:
        DataError: the file holds no weights of a ResNet-18.
        UsageError: an unknown block, or a grid below 1.
    """

    def __init__(self, path: Path, block: str = "layer3", grid: int = 16) -> None:
        from monai.networks.nets import resnet18  # heavy to import

        if block not in STRIDES:
            raise unknown("block of the ResNet-18", block, STRIDES)
        self.grid = whole("grid", grid, most=1024)
        self.channels = 64 * STRIDES[block] // 4
        self._stride = STRIDES[block]
        net = resnet18(
            spatial_dims=2, n_input_channels=3, conv1_t_stride=2, feed_forward=False, shortcut_type="B", bias_downsample=False
        )
        names = ["conv1", "bn1", "act", "maxpool", *STRIDES]
        used = names[: names.index(block) + 1]
        self.net = nn.Sequential(*(getattr(net, name) for name in used)).eval().requires_grad_(False)
        weights = _read(path)
        try:
            missing, _ = net.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fc.")}, strict=False)
            missing = [name for name in missing if not name.endswith("num_batches_tracked")]
            if missing:
                raise RuntimeError(f"it lacks {missing[0]}")
        except RuntimeError as error:
            why = " ".join(str(error).split("\n\t")[-1].split())[:200]
            raise DataError(f"{shown(path)} does not hold the weights of a ResNet-18 ({why}); name another file") from error
        self.fingerprint = zlib.crc32(b"".join(p.numpy().tobytes() for p in self.net.parameters()))

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), values in [0, 1], grey ones or coloured -> features (B, n, h, w)."""
        if images.shape[1] != 3:
            images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        height, width = images.shape[2:]
        scale = self.grid * self._stride / min(height, width)
        size = [max(1, round(side * scale / self._stride)) * self._stride for side in (height, width)]
        images = functional.interpolate(images, size, mode="bilinear", antialias=True)
        mean, std = (images.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        with torch.no_grad():
            features: Tensor = self.net.to(images.device)((images - mean) / std)
        return features


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways: zip, pickle, end of file, key, type
        raise DataError(f"cannot read the weights {shown(path)} ({type(error).__name__}); fetch the file again") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise DataError(f"{shown(path)} holds no table of weights; name the state_dict of a ResNet-18")
    return weights
