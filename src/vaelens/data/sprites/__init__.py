"""dSprites: white squares, ellipses and hearts of every scale, orientation and position, drawn from their geometry.

render(latent_classes)            # (N, 5) whole numbers -> (N, 64, 64) bool
sprites = Sprites()               # all 737,280 of them, in seconds
sprites.take(indices)             # (B,) -> (B, 1, 64, 64) float32
sprites = load_official(folder)   # the same from the official file
"""

from vaelens.data.sprites.geometry import FACTORS, SHAPES, SIZES, render
from vaelens.data.sprites.official import load, load_official
from vaelens.data.sprites.sprites import Sprites, name_of

__all__ = ["FACTORS", "SHAPES", "SIZES", "Sprites", "load", "load_official", "name_of", "render"]
