"""Any folder of normal images, with test images and masks where there are any.

root/train/good/...   or root/train/...   or images anywhere below root (but not in test and ground_truth)
     test/good/...                normal
     test/<defect>/...            anomalous
     test/...                     unknown (also test/unknown/...)
     ground_truth/<defect>/...    masks, named like their images
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vaelens.data.anomaly import AnomalyOptions, AnomalySplit
from vaelens.data.augment import Augmentation
from vaelens.data.decode import read_upright
from vaelens.data.defect_tree import GROUND_TRUTH, TEST, TRAIN, images_below, is_folder, split_tree, test_files
from vaelens.data.files import SUFFIXES, shown
from vaelens.data.held_out import check_held_out
from vaelens.data.preparation import Preparation
from vaelens.errors import DataError, UsageError

SIZE = (256, 256)
AUGMENTATION = Augmentation()
"""None: what an unknown object permits is not known."""
_SAMPLE = 32


def default_preparation(options: AnomalyOptions) -> Preparation:
    """256x256, brightness evened out; grey if all of up to 32 training images are, spread evenly over them.

    Raises:
        UsageError: no root, or no such folder.
        DataError: no images there, or a damaged one.
    """
    training = _training(_root(options))
    return Preparation(SIZE, channels=1 if _all_grey(training) else 3, brightness=True)


def load_anomaly(options: AnomalyOptions) -> AnomalySplit:
    """Load a folder. Images may differ in size, format and depth; their names are their paths below the root.

    Args:
        options: root: the folder. category: a folder in it, for several objects side by side; None: the root itself.

    Raises:
        UsageError: no root, no such folder, or a held-out share that cannot be.
        DataError: no training images, an image or a mask that cannot be read, or a mask that does not fit its image.
    """
    check_held_out(options.held_out)
    root = _root(options)
    training = _training(root)
    preparation = options.preparation or default_preparation(options)
    if preparation.frames != 1:
        raise UsageError("a folder holds images in no order: set frames to 1")
    dataset = "folder" if options.category is None else f"folder/{options.category}"
    return split_tree(dataset, root, training, test_files(root, options), preparation, options)


def _root(options: AnomalyOptions) -> Path:
    if options.root is None:
        raise UsageError("name the folder of normal images by --root")
    root = options.root if options.category is None else options.root / options.category
    if not is_folder(root):
        raise UsageError(f"the folder {shown(root)} does not exist or is no folder; name it by --root")
    return root


def _training(root: Path) -> list[Path]:
    """Files of normal images."""
    for folder in (root / TRAIN / "good", root / TRAIN):
        if is_folder(folder):
            found = images_below(folder)
            break
    else:
        folder = root
        apart = {TEST, GROUND_TRUTH}
        found = [path for path in images_below(root) if path.relative_to(root).parts[0] not in apart]
    if len(found) < 2:
        raise DataError(
            f"{shown(folder)} holds {'one image' if found else 'no images'} to train on, it takes two at least, one of them "
            f"to calibrate on; looked for files named *.{', *.'.join(SUFFIXES)}"
        )
    return found


def _all_grey(paths: Sequence[Path]) -> bool:
    count = min(len(paths), _SAMPLE)
    return all(_is_grey(paths[at * len(paths) // count]) for at in range(count))


def _is_grey(path: Path) -> bool:
    """Whether an image has no colour: its three channels are equal all over."""
    import numpy as np

    image = read_upright(path)
    if image.mode in ("1", "L", "LA") or image.mode.startswith("I"):
        return True
    pixels = np.array(image.convert("RGB"))
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all())
