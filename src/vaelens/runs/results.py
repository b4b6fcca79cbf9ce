"""What a run says of images: what its latents see in them, and whether and where they are not normal."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vaelens.attention import LatentMaps

FIRED_Z = 3.0  # a latent fires where its mean is this many standard deviations from the normal images'
FIRED_NATS = 0.05  # and where it tells more about the image than this: a dead latent's spread is next to nothing


@dataclass(frozen=True)
class Explanation:
    """What the latents see in a batch of images.

    Attributes:
        maps: every latent's map (B, D, h, w).
        z_scores: (B, D), the posterior mean's distance from its mean over normal images, in their standard deviations.
        fired: (B, D), bool: |z| of at least 3, and more than 0.05 nats of information about this image.
        active: (D,), bool: latents that carry more than 0.05 nats on normal images; the others are dead there.
    """

    maps: LatentMaps
    z_scores: Tensor
    fired: Tensor
    active: Tensor


@dataclass(frozen=True)
class Verdict:
    """Whether images are normal, and where they are not.

    Attributes:
        maps: (B, H, W), values >= 0, higher is more abnormal.
        score: (B,), higher is more abnormal.
        p_value: (B,), share of normal images that would score as high (conformal; valid in finite samples).
        flagged: (B,), bool: p-value at most the false-alarm rate.
        masks: (B, H, W), bool: pixels above the pixel threshold.
        score_threshold: images above are flagged; infinite where too few normal images were held out for the rate.
        pixel_threshold: pixels above are flagged.
        localizer: whose maps and scores these are.
        posterior: mean and log variance (B, D), where the localizer encoded the images.
    """

    maps: Tensor
    score: Tensor
    p_value: Tensor
    flagged: Tensor
    masks: Tensor
    score_threshold: float
    pixel_threshold: float
    localizer: str
    posterior: tuple[Tensor, Tensor] | None = None
