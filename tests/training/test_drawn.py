"""Batches that are drawn at random: which images depends on the seed and the pass, and a run of them resumes exactly."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vaelens.data.sprites import Sprites
from vaelens.errors import TrainingError, UsageError
from vaelens.training.batches import Batches
from vaelens.training.drawn import (
    Drawable,
    DrawnBatches,
    batches_of,
    check_trainable,
    digest_of,
    first_images,
)
from vaelens.training.fit import CHECKPOINT, fit
from vaelens.training.settings import STEPS_PER_EPOCH

pytestmark = pytest.mark.filterwarnings("ignore::vaelens.training.collapse.LatentCollapseWarning")


def numbers(batches: DrawnBatches) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def test_sprites_can_be_drawn_from_and_images_in_memory_cannot(drawn: ModuleType, small: ModuleType) -> None:
    assert isinstance(Sprites.__new__(Sprites), Drawable)
    assert isinstance(drawn.few(), Drawable)
    assert not isinstance(small.digits(0, 3), Drawable)


def test_a_pass_has_so_many_batches_of_the_drawn_images(drawn: ModuleType) -> None:
    few = drawn.few()
    batches = DrawnBatches(few, 8, 5, seed=0)
    assert len(batches) == 5
    made = list(batches)
    assert len(made) == 5
    for batch in made:
        assert batch.images.shape == (8, 1, 16, 16)
        assert batch.images.dtype == torch.float32
        assert torch.equal(batch.images, few.take(batch.indices))


def test_which_images_depends_on_the_seed_and_the_pass_alone(drawn: ModuleType) -> None:
    few = drawn.few()
    batches = DrawnBatches(few, 8, 5, seed=0)
    first = numbers(batches)
    assert numbers(batches) == first  # the same pass again
    batches.set_epoch(1)
    second = numbers(batches)
    assert second != first
    again = DrawnBatches(few, 8, 5, seed=0)
    again.set_epoch(1)
    torch.rand(3)  # torch's global generator has no part in it
    assert numbers(again) == second
    assert numbers(DrawnBatches(few, 8, 5, seed=1)) != first


def test_an_iterator_made_before_the_pass_is_set_belongs_to_that_pass(drawn: ModuleType) -> None:
    batches = DrawnBatches(drawn.few(), 8, 2, seed=0)
    early = iter(batches)
    batches.set_epoch(3)
    assert [batch.indices.tolist() for batch in early] == numbers(batches)


def test_every_image_is_drawn_in_time_and_as_often(drawn: ModuleType) -> None:
    few = drawn.few()
    counts = torch.tensor(numbers(DrawnBatches(few, 64, 100, seed=0))).flatten().bincount(minlength=len(few))
    assert int(counts.min()) > 60  # of 107 expected, spread 10
    assert int(counts.max()) < 160


@pytest.mark.parametrize("kind", ["drawn", "memory"])
def test_another_batch_of_a_step_is_independent_of_it_and_repeatable(drawn: ModuleType, kind: str) -> None:
    few = drawn.few()
    batches: Any = DrawnBatches(few, 8, 40, seed=0) if kind == "drawn" else Batches(few.images, 8, seed=0)
    others = [batches.another(step) for step in range(40)]
    assert all(images.shape == (8, 1, 16, 16) and images.dtype == torch.float32 for images in others)
    assert all(float(images.min()) >= 0 and float(images.max()) <= 1 for images in others)
    assert torch.equal(batches.another(7), others[7])
    assert not torch.equal(others[0], others[1])
    shared = 0
    for step, batch in enumerate(batches):
        assert not torch.equal(batch.images, others[step])
        shared += int((batch.images.flatten(1)[:, None] == others[step].flatten(1)).all(2).any(1).sum())
    # Of 8 images one is in another batch of 8 of 60 in 12 of 100 cases, whichever the step.
    assert shared < 0.3 * 8 * len(batches)


def test_the_settings_decide_on_the_kind_of_batches(drawn: ModuleType, small: ModuleType) -> None:
    assert isinstance(batches_of(small.digits(0, 3), drawn.settings(steps_per_epoch=None)), Batches)
    assert len(batches_of(drawn.few(), drawn.settings(steps_per_epoch=7))) == 7
    assert len(batches_of(drawn.few(), drawn.settings(steps_per_epoch=None))) == STEPS_PER_EPOCH == 1000


def test_a_first_look_takes_two_images_at_most(drawn: ModuleType, small: ModuleType) -> None:
    few = drawn.few()
    assert torch.equal(first_images(few), few.take(torch.tensor([0, 1])))
    assert len(first_images(drawn.Few(few.images[:1], few.names[:1]))) == 1
    assert torch.equal(first_images(small.digits(0, 5)), few.take(torch.tensor([0, 1])))


def test_other_images_have_another_digest(drawn: ModuleType) -> None:
    few = drawn.few()
    assert digest_of(few) == digest_of(drawn.few())
    changed = few.images.clone()
    changed[59] = 0
    digests = {digest_of(each) for each in (few, drawn.Few(changed, few.names), drawn.Few(few.images[:59], few.names))}
    assert len(digests) == 3
    assert digest_of(few).startswith("60 drawn, 60x1x16x16-")


def test_what_cannot_be_trained_on_is_refused_in_one_line(drawn: ModuleType, small: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the model takes images \(C, H, W\) of \(1, 32, 32\), these are \(1, 16, 16\)"):
        fit(drawn.model(32), drawn.few(), None, drawn.settings(), tmp_path / "a", progress=False)
    with pytest.raises(UsageError, match="steps_per_epoch is for images that are drawn at random"):
        fit(drawn.model(), small.digits(0, 9), None, drawn.settings(), tmp_path / "a", progress=False)
    with pytest.raises(UsageError, match="patience watches the held-out loss"):
        fit(drawn.model(), drawn.few(), None, drawn.settings(patience=1), tmp_path / "a", progress=False)
    empty = drawn.Few(drawn.few().images[:0], ())
    with pytest.raises(UsageError, match="training takes at least one image, got none"):
        fit(drawn.model(), empty, None, drawn.settings(), tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
    check_trainable(drawn.few(), drawn.settings(), None)


def test_a_vae_trains_on_drawn_images_and_its_row_has_the_overlap_of_maps(drawn: ModuleType, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    network, result = drawn.train(tmp_path, module=None)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert set(result.history[0]) == {
        *(
            "epoch",
            "train/loss",
            "train/reconstruction",
            "train/kl",
            "active_latents",
            "kl_weight",
            "attention_overlap",
            "empty_maps",
        ),
        *("kl/z0", "kl/z1", "kl/z2", "kl/z3", "seconds"),
    }
    for row in result.history:
        assert row["train/loss"] == pytest.approx(row["train/reconstruction"] + row["train/kl"], rel=1e-5)
        assert sum(row[f"kl/z{latent}"] for latent in range(4)) == pytest.approx(row["train/kl"], rel=1e-5)
        assert 0 <= row["attention_overlap"] <= 1
        assert row["active_latents"] == sum(row[f"kl/z{latent}"] > 0.05 for latent in range(4))
    assert [result.history[-1][f"kl/z{latent}"] for latent in range(4)] == list(result.mean_kl)
    assert result.history[-1]["train/loss"] < result.history[0]["train/loss"]
    assert not network.training
    header = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()[0]
    assert header.split(",") == list(result.history[0])


def test_a_loss_that_is_no_number_names_the_drawn_images(drawn: ModuleType, tmp_path: Path) -> None:
    network = drawn.model()
    with torch.no_grad():
        next(network.decoder.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"the loss is nan at epoch 1, batch 1 \(digit-\d+, .* and 5 more\)"):
        drawn.train(tmp_path, network, module=None)


def test_a_run_that_goes_on_equals_one_that_was_not_stopped(drawn: ModuleType, tmp_path: Path) -> None:
    def losses(result: Any) -> list[dict[str, float]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]

    whole, expected = drawn.train(tmp_path / "whole", module=None)
    drawn.train(tmp_path / "part", module=None, epochs=1)
    resumed, result = drawn.train(tmp_path / "part", drawn.model(seed=9), module=None, resume=True)
    assert losses(result) == losses(expected)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    for change, message in (({"steps_per_epoch": 5}, "steps_per_epoch is 5, but"), ({"gamma": 3.0}, "gamma is 3.0, but")):
        with pytest.raises(UsageError, match=message):
            drawn.train(tmp_path / "part", module=None, resume=True, **change)
    few = drawn.few()
    with pytest.raises(UsageError, match=r"the training images .*59 drawn.* are not those"):
        fit(
            *(drawn.model(), drawn.Few(few.images[1:], few.names), None, drawn.settings(), tmp_path / "part"),
            resume=True,
            progress=False,
        )
    assert (tmp_path / "part" / CHECKPOINT).is_file()


@pytest.mark.parametrize("heads", ["one latent", "no feature map"])
def test_a_model_whose_maps_cannot_be_compared_trains_all_the_same(drawn: ModuleType, tmp_path: Path, heads: str) -> None:
    network = drawn.model(latent_dim=1)
    if heads == "no feature map":

        class Dense(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder = torch.nn.Linear(256, 6)
                self.decoder = torch.nn.Linear(3, 256)

            def encode(self, images: Any) -> Any:
                return self.encoder(images.flatten(1)).chunk(2, 1)

            def decode_logits(self, latents: Any) -> Any:
                return self.decoder(latents).view(-1, 1, 16, 16)

        network = Dense()
    elif heads == "one latent":
        del network.latent_dim  # as a model of one's own, that does not say
    _, result = drawn.train(tmp_path, network, module=None, epochs=1)
    assert "attention_overlap" not in result.history[0]
    assert result.history[0]["train/loss"] > 0
