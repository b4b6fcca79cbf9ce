"""Score image files with a run that `vaelens export` wrote: no torch and no vaelens, Pillow alone to read the files.

python examples/onnx_numpy.py model.onnx photos/*.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

path, *files = sys.argv[1:]
session = onnxruntime.InferenceSession(path)
about = json.loads(session.get_modelmeta().custom_metadata_map["vaelens"])
_, height, width, channels = about["input"]["shape"]
if not files or "flagged" not in about["outputs"] or about["preprocessing"].get("frames", 1) > 1:
    sys.exit("takes image files, and a model that flags single images")
for file in files:
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith(("I", "F")) or image.has_transparency_data:
        sys.exit(f"{file}: pixels of more than 8 bits or transparent; save it with 8 bits and opaque, or make it so here")
    image = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    batch = np.asarray(image).reshape(1, height, width, channels)
    found = dict(zip(about["outputs"], session.run(None, {"images": batch}), strict=True))
    label, area = about["labels"][int(found["flagged"][0])], found["masks"][0].mean()
    print(f"{file}: {label}, p = {found['p_value'][0]:.3f}, score {found['score'][0]:.3f}, {area:.1%} of its pixels marked")
