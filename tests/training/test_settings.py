"""Settings: checked on construction, plain values in and out."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vaelens.errors import UsageError
from vaelens.models import NETWORKS
from vaelens.training import DEFAULTS, TrainSettings


def test_mnist_has_the_supplements_settings() -> None:
    settings = TrainSettings.for_network("mnist")
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (100, 128, 1e-3)
    assert (settings.likelihood, settings.kl_weight) == ("bernoulli", 1.0)


def test_every_network_has_defaults() -> None:
    assert set(DEFAULTS) == set(NETWORKS)
    for network in NETWORKS:
        warmup = TrainSettings.for_network(network).warmup
        assert warmup == 0 if network == "dsprites" else warmup > 0  # FactorVAE has none


def test_fewer_epochs_shorten_the_warmup_and_more_later_do_not_lengthen_it() -> None:
    settings = TrainSettings.for_network("mnist", epochs=5)
    assert settings.warmup == 0.5
    assert settings.warmup_steps(batches_per_epoch=53) == 26
    assert dataclasses.replace(settings, epochs=50).warmup == 0.5


@given(
    st.builds(
        TrainSettings,
        epochs=st.integers(1, 10_000),
        batch_size=st.integers(1, 4096),
        learning_rate=st.floats(1e-9, 10),
        likelihood=st.sampled_from(["bernoulli", "gaussian", "optimal-gaussian"]),
        kl_weight=st.floats(0, 1e6),
        kl_start=st.floats(0, 1e6),
        rate_warmup_epochs=st.floats(0, 1e6),
        rate_cooldown_epochs=st.floats(0, 1),
        warmup_epochs=st.none() | st.floats(1e-3, 1),
        seed=st.integers(0, 2**63 - 1),
        patience=st.none() | st.integers(1, 1000),
        precision=st.sampled_from(["auto", "32", "bf16"]),
        logger=st.sampled_from(["csv", "tensorboard", "both"]),
        accelerator=st.sampled_from(["auto", "cpu", "cuda", "mps"]),
        checkpoint_every=st.integers(1, 100),
        steps_per_epoch=st.none() | st.integers(1, 10_000),
        gamma=st.none() | st.floats(0, 1e6),
        discriminator_learning_rate=st.none() | st.floats(1e-9, 10),
        standardize_after=st.none() | st.floats(0, 100),
        pooled_until=st.none() | st.floats(0, 100),
        gather_after=st.none() | st.floats(1e-3, 0.99),
        turn_after=st.none() | st.floats(1e-3, 0.99),
        wake_after=st.none() | st.floats(1e-3, 0.99),
        ad_weight=st.none() | st.floats(0, 1e6),
        ad_pairs=st.sampled_from(["random", "top2", "all"]),
        ad_layer=st.none() | st.sampled_from(["encoder.relu4", "encoder.conv1"]),
    )
)
def test_yaml_keeps_settings(settings: TrainSettings) -> None:
    assert TrainSettings.from_dict(yaml.safe_load(yaml.safe_dump(settings.to_dict()))) == settings


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_numbers_of_numpy_become_pythons_own(kind: Any) -> None:
    """YAML and checkpoints take no others."""
    given = {
        "learning_rate": kind(1),
        "gamma": kind(40),
        "kl_start": kind(200),
        "warmup_epochs": kind(2),
        "epochs": np.int64(3),
    }
    values = TrainSettings.from_dict(given).to_dict()
    for name, value in given.items():
        assert values[name] == value
        assert type(values[name]) in (int, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number from 1 on, got 0"),
        ({"epochs": 2.5}, "epochs .* got 2.5"),
        ({"batch_size": True}, "batch_size .* got True"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"learning_rate": "1e-3"}, "learning_rate must be a number from 0 on, got '1e-3'"),
        ({"learning_rate": math.nan}, "learning_rate .* got nan"),
        ({"kl_weight": -1.0}, "kl_weight .* got -1.0"),
        ({"rate_warmup_epochs": -1}, "rate_warmup_epochs must be a number from 0 on, got -1"),
        ({"rate_cooldown_epochs": -1}, "rate_cooldown_epochs must be a number from 0 on, got -1"),
        ({"epochs": 5, "rate_cooldown_epochs": 5.5}, "rate_cooldown_epochs must be at most epochs, 5, got 5.5"),
        ({"kl_start": -1.0}, "kl_start must be a number from 0 on, got -1.0"),
        ({"kl_start": 4, "warmup_epochs": 0}, "leaves kl_start, 4, during the warm-up: give warmup_epochs above 0"),
        ({"discriminator_learning_rate": 0}, "discriminator_learning_rate must be above 0, got 0"),
        ({"discriminator_learning_rate": -1e-4}, "discriminator_learning_rate must be a number from 0 on, got -0.0001"),
        ({"standardize_after": "1"}, "standardize_after must be a number from 0 on, got '1'"),
        ({"pooled_until": -1}, "pooled_until must be a number from 0 on, got -1"),
        ({"gather_after": -1.0}, "gather_after must be a number from 0 on, got -1.0"),
        ({"turn_after": "1"}, "turn_after must be a number from 0 on, got '1'"),
        ({"turn_after": 0.0}, "turn_after must be above 0 and below epochs, 100, got 0"),
        ({"wake_after": -1}, "wake_after must be a number from 0 on, got -1"),
        ({"wake_after": 0}, "wake_after must be above 0 and below epochs, 100, got 0"),
        ({"epochs": 5, "wake_after": 5}, "wake_after must be above 0 and below epochs, 5, got 5"),
        ({"warmup_epochs": -1}, "warmup_epochs .* got -1"),
        ({"epochs": 5, "warmup_epochs": 6}, "warmup_epochs must be at most epochs, got 6 and 5"),
        ({"seed": -1}, "seed .* got -1"),
        ({"patience": 0}, "patience .* got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson'; there are: bernoulli, gaussian, optimal-gaussian"),
        ({"precision": "16"}, "unknown precision '16'; there are: auto, 32, bf16"),
        ({"logger": None}, "unknown logger None"),
        ({"accelerator": "gpu"}, "unknown accelerator 'gpu'; there are: auto, cpu, cuda, mps"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be a whole number from 1 on, got 0"),
        ({"steps_per_epoch": 1.5}, "steps_per_epoch .* got 1.5"),
        ({"gamma": -1}, "gamma must be a number from 0 on, got -1"),
        ({"gamma": math.inf}, "gamma .* got inf"),
        ({"gamma": True}, "gamma .* got True"),
        ({"ad_weight": -0.1}, "ad_weight must be a number from 0 on, got -0.1"),
        ({"ad_weight": "20"}, "ad_weight .* got '20'"),
        ({"ad_pairs": "most"}, "unknown ad_pairs 'most'; there are: random, top2, all"),
        ({"ad_pairs": None}, "unknown ad_pairs None"),
        ({"ad_layer": 4}, "ad_layer is the dotted name of a module, got 4"),
        ({"learning_rat": 1.0}, "unknown training setting 'learning_rat'; there are: epochs, batch_size, learning_rate"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        TrainSettings.from_dict(change)
    assert "\n" not in str(caught.value)


def test_settings_of_before_total_correlation_and_attention_are_read_as_ever(younger_settings: dict[str, Any]) -> None:
    settings = TrainSettings.for_network("mnist", epochs=7, seed=3)
    old = {name: value for name, value in settings.to_dict().items() if name not in younger_settings}
    assert TrainSettings.from_dict(old) == settings
    assert {name: getattr(settings, name) for name in younger_settings} == younger_settings


def test_dsprites_has_the_settings_of_factor_vae() -> None:
    settings = TrainSettings.for_network("dsprites")
    assert (settings.batch_size, settings.learning_rate, settings.likelihood) == (64, 1e-4, "bernoulli")


def test_unknown_network() -> None:
    with pytest.raises(UsageError, match="unknown network 'cifar'; there are: mnist, ucsd, mvtec, dsprites"):
        TrainSettings.for_network("cifar")


def test_settings_import_neither_torch_nor_lightning() -> None:
    code = "import vaelens.training, sys; print([m for m in ('torch', 'lightning', 'numpy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
