"""What a file says about itself, as JSON in its metadata: what it takes, what it gives, and where its thresholds come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaelens._version import __version__
from vaelens.attention import LatentAttention

if TYPE_CHECKING:
    from vaelens.export.chosen import Chosen
    from vaelens.runs import Run

OUTPUTS = {
    "latent_maps": "(B, D, h, w) float32: the attention map of each latent, from 0 on, at the layer's resolution",
    "mean": "(B, D) float32: posterior mean",
    "logvar": "(B, D) float32: posterior log variance",
    "z_scores": "(B, D) float32: distance of the mean from that of held-out images, in their standard deviations",
    "fired": "(B, D) bool: latents 3 standard deviations or more away that carry more than 0.05 nats about the image",
    "maps": "(B, H, W) float32: how abnormal each pixel is, from 0 on",
    "score": "(B,) float32: how abnormal the image is, higher is more",
    "p_value": "(B,) float64: share of normal images that would score as high (split conformal)",
    "flagged": "(B,) bool: p-value at most the rate of false alarms",
    "masks": "(B, H, W) bool: pixels whose map exceeds the pixel threshold",
}
"""The results of a run's file; it has those that its run allows."""

_RESIZED = "stretched to the size by bilinear interpolation, averaging over what a pixel covers (Pillow: resize with BILINEAR)"


def describe(run: Run, chosen: Chosen, outputs: tuple[str, ...], false_alarms: float) -> dict[str, Any]:
    """Plain values for JSON."""
    channels, height, width = run.input_shape
    preparation = run.preparation
    dataset = run.config.dataset
    calibration = chosen.calibration
    frames = 1 if preparation is None else preparation.frames
    evens = preparation is not None and preparation.brightness
    return {
        "about": "A variational autoencoder with its explanation: maps of its latents, anomaly map, score and p-value.",
        "vaelens": __version__,
        "run": {name: dataset[name] for name in ("name", "normal", "category") if dataset.get(name) is not None},
        "network": run.config.network["name"],
        "objective": run.config.objective,
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": ["batch", height, width, channels],
            "values": "0 to 255",
            "channels": _channels(channels, frames),
        },
        "preprocessing": {
            "before": _before(run, frames),
            "inside": ("brightness and contrast evened out, then divided by 255" if evens else "divided by 255"),
            **({} if preparation is None else preparation.to_dict()),
        },
        "latents": run.model.latent_dim if run.has_posterior else 0,
        "active": run.active.tolist(),
        **_of_maps(chosen.attention, chosen.why_no_maps),
        "localizer": chosen.spec,
        "normals": chosen.normals,
        "false_alarms": None if calibration is None else false_alarms,
        "score_threshold": None if calibration is None else calibration.score_threshold(false_alarms),
        "pixel_threshold": None if calibration is None else calibration.pixel_threshold(false_alarms),
        "held_out": None if calibration is None else len(calibration.scores),
        "caution": run.caution,
        "labels": ["normal", "abnormal"],
        "outputs": {name: OUTPUTS[name] for name in outputs},
    }


def _of_maps(attention: LatentAttention | None, why_not: str) -> dict[str, Any]:
    if attention is None:
        return {"layer": None, "why_no_maps": why_not}
    return {"layer": attention.layer, "variant": attention.variant, "why_no_maps": ""}


def _channels(channels: int, frames: int) -> str:
    if frames > 1:
        return f"{frames} neighbouring grey frames of a video in their order; outside the clip its first or last frame"
    return "grey" if channels == 1 else "red, green, blue"


def _before(run: Run, frames: int) -> str:
    """What is to be done to an image file."""
    channels, height, width = run.input_shape
    kind = "grey" if channels == 1 or frames > 1 else "RGB"
    upright = f"upright, {kind}, 8 bits per channel, transparency flattened on black"
    if run.preparation is None:
        return f"{upright}, of {width}x{height} pixels (width x height) as the training images are"
    return f"{upright}, {_RESIZED}"
