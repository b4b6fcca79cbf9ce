"""Score image files with a run that `vaelens export` wrote: no torch and no vaelens, Pillow alone to read the files.

python examples/onnx_numpy.py model.onnx photos/*.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

path, *files = sys.argv[1:]
session = onnxruntime.InferenceSession(path)
about = json.loads(session.get_modelmeta().custom_metadata_map["vaelens"])
_, height, width, channels = about["input"]["shape"]


def read(file):
    image = Image.open(file).convert("L" if channels == 1 else "RGB")
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels)


images = np.stack([read(file) for file in files])
results = session.run(None, {"images": images})
found = dict(zip(about["outputs"], results, strict=True))
for i, file in enumerate(files):
    label, area = about["labels"][int(found["flagged"][i])], found["masks"][i].mean()
    print(f"{file}: {label}, p = {found['p_value'][i]:.3f}, score {found['score'][i]:.3f}, {area:.1%} of its pixels marked")
