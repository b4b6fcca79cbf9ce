"""MVTec AD: 15 kinds of objects and textures, good and with defects of 73 kinds, with masks.

Bergmann, Fauser, Sattlegger, Steger, "MVTec AD - a comprehensive real-world dataset for unsupervised anomaly detection",
CVPR 2019. Its page asks for a form to be filled before it gives the addresses of its archives, so that nothing is downloaded
here: put an archive, or what it holds, where `load_anomaly` says.
"""

from __future__ import annotations

from pathlib import Path

from vaelens.data.anomaly import ANOMALOUS, AnomalyOptions, AnomalySplit
from vaelens.data.archive import unpack
from vaelens.data.augment import Augmentation
from vaelens.data.defect_tree import TEST, TRAIN, images_below, is_folder, split_tree, test_files
from vaelens.data.download import cache_folder
from vaelens.data.files import shown
from vaelens.data.held_out import check_held_out
from vaelens.data.preparation import Preparation
from vaelens.errors import DataError, UsageError, unknown

LICENCE = "MVTec AD: CC BY-NC-SA 4.0, not for commercial use; cite Bergmann, Fauser, Sattlegger, Steger (CVPR 2019)"
PAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
ARCHIVE = "mvtec_anomaly_detection.tar.xz"
SIZE = (256, 256)
"""The paper's (height, width)."""
GREY = ("grid", "screw", "zipper")

AUGMENTATIONS: dict[str, Augmentation] = {
    # The paper rotates all within 30 degrees and mirrors all. What follows keeps of that what turns no good object into
    # one that is not: a mirrored thread or print is a defect, and reflecting at the edge bends whatever crosses it straight.
    "bottle": Augmentation(30, True, True),  # a round opening from above
    "cable": Augmentation(30),  # three colours in a fixed turn: mirrored, two are swapped, which is a defect (cable_swap)
    "capsule": Augmentation(30),  # a print, and one end is black
    "carpet": Augmentation(0, True, True),  # a weave of straight threads: turned, they bend at the edge
    "grid": Augmentation(0, True, True),  # straight wires: turned, they bend at the edge, which is a defect (bent)
    "hazelnut": Augmentation(30, True, True),  # lies as it falls
    "leather": Augmentation(30, True, True),  # no direction
    "metal_nut": Augmentation(30),  # its teeth lean to one side: mirrored it lies upside down, which is a defect (flip)
    "pill": Augmentation(30),  # a print
    "screw": Augmentation(30),  # its thread turns one way
    "tile": Augmentation(30, True, True),  # no direction
    "toothbrush": Augmentation(30, True),  # as wide on either side, but its handle is always below
    "transistor": Augmentation(0, True),  # stands upright in its board: turned it is misplaced, which is a defect
    "wood": Augmentation(0, True, True),  # a straight grain: turned, it bends at the edge
    "zipper": Augmentation(0, True, True),  # runs from edge to edge: turned, its row of teeth bends there
}
CATEGORIES = tuple(AUGMENTATIONS)


def categories(root: Path) -> tuple[str, ...]:
    """The categories of MVTec AD that a folder holds, in alphabetical order."""
    return tuple(name for name in CATEGORIES if is_folder(root / name / TRAIN / "good"))


def default_preparation(options: AnomalyOptions) -> Preparation:
    """256x256 as in the paper, grey for grid, screw and zipper, brightness evened out.

    Raises:
        UsageError: no category, or one that there is not.
    """
    return Preparation(SIZE, channels=1 if check_category(options.category) in GREY else 3, brightness=True)


def load_anomaly(options: AnomalyOptions) -> AnomalySplit:
    """Load one category; its name is such as "mvtec/screw", its images' such as "mvtec/screw/test/thread_top/000.png".

    Args:
        options: category: one of `CATEGORIES`. root: the folder that holds the categories, or that of the category itself;
            None: the cache, $VAELENS_CACHE/mvtec, in which an archive of all or of this category is unpacked at first use.

    Raises:
        UsageError: no category, an unknown one, no such root, or a held-out share that cannot be.
        DataError: files that are missing (the message has the page, the licence and the place) or damaged, or a defective
            image without a mask.
    """
    check_held_out(options.held_out)
    category = check_category(options.category)
    preparation = options.preparation or default_preparation(options)
    if preparation.frames != 1:
        raise UsageError("MVTec AD holds no video: set frames to 1")
    root = _from_cache(category) if options.root is None else _find(options.root, category)
    training = images_below(root / TRAIN / "good")
    test = test_files(root, options)
    for part, there in ((f"{TRAIN}/good", training), (TEST, test)):
        if not there:
            raise DataError(f"{shown(root / part)} holds no images; unpack the archive of {category} again")
    lacking = next((one for one in test if one.label == ANOMALOUS and one.mask is None), None)
    if lacking is not None:
        mask = root / "ground_truth" / lacking.defect / f"{lacking.path.stem}_mask.png"
        raise DataError(f"{shown(lacking.path)} lacks its mask {shown(mask)}; unpack the archive of {category} again")
    return split_tree(f"mvtec/{category}", root, training, test, preparation, options, f"mvtec/{category}/")


def check_category(category: str | None) -> str:
    """The category, if it is one.

    Raises:
        UsageError: none is given, or it is unknown.
    """
    if category is None:
        raise UsageError(f"name a category of MVTec AD by --category; there are: {', '.join(CATEGORIES)}")
    if category not in CATEGORIES:
        raise unknown("category of MVTec AD", category, CATEGORIES)
    return category


def _find(root: Path, category: str) -> Path:
    if not is_folder(root):
        raise UsageError(f"the MVTec AD folder {shown(root)} does not exist or is no folder; name it by --root")
    for folder in (root / category, root):
        if is_folder(folder / TRAIN / "good") and folder.resolve().name == category:
            return folder
    here = categories(root)
    there = f"it has {', '.join(here)}" if here else f"get MVTec AD from {PAGE} ({LICENCE})"
    raise DataError(f"{shown(root)} lacks {category}/train/good; {there}")


def _from_cache(category: str) -> Path:
    folder = cache_folder("mvtec")
    if category not in categories(folder):
        archive = next((folder / name for name in (f"{category}.tar.xz", ARCHIVE) if (folder / name).is_file()), None)
        if archive is None:
            raise DataError(
                f"MVTec AD is not here: get {category}.tar.xz or {ARCHIVE} from {PAGE} ({LICENCE}) and put it into "
                f"{shown(folder)}, or name by --root the folder that holds {category}"
            )
        unpack(archive, folder)
    return _find(folder, category)
