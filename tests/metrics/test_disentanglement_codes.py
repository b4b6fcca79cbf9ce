"""What every metric of disentanglement shares: the codes and factors it takes and refuses, and that a seed settles it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaelens import metrics
from vaelens.errors import UsageError
from vaelens.metrics.codes import labelled

FEW: dict[str, dict[str, Any]] = {
    "factor_vae_score": {"training_votes": 100, "evaluation_votes": 50},
    "beta_vae_score": {"training_points": 100, "evaluation_points": 50},
    "mutual_information_gap": {},
    "modularity": {},
    "sap": {},
    "dci": {},
}
SEEDED = ("factor_vae_score", "beta_vae_score", "sap", "dci")


def grid(*sizes: int) -> Any:
    return np.stack(np.meshgrid(*[np.arange(size) for size in sizes], indexing="ij"), -1).reshape(-1, len(sizes))


FACTORS = grid(3, 4, 5)
CODES = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)


def measure(name: str, codes: Any = CODES, factors: Any = FACTORS, **given: Any) -> dict[str, Any]:
    found: dict[str, Any] = getattr(metrics, name)(codes, factors, **(FEW[name] | given)).to_dict()
    return found


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize(
    "turned",
    [
        lambda codes, factors: (torch.from_numpy(codes).requires_grad_(), torch.from_numpy(factors)),
        lambda codes, factors: (codes, factors.tolist()),
        lambda codes, factors: (np.asfortranarray(codes), factors.astype(np.uint8)),
        lambda codes, factors: (codes, torch.from_numpy(factors).float()),
        lambda codes, factors: (codes, (factors * 60 - 128).astype(np.int8)),
        lambda codes, factors: (codes, (factors * 30_000 - 60_000).astype(np.float16)),
        lambda codes, factors: (codes, factors * 2**40),
    ],
    ids=["torch", "lists", "bytes", "floats", "signed bytes", "half precision", "large numbers"],
)
def test_the_form_of_the_input_does_not_matter(name: str, turned: Callable[[Any, Any], tuple[Any, Any]]) -> None:
    assert measure(name, *turned(CODES, FACTORS)) == measure(name)


@pytest.mark.parametrize("name", FEW)
def test_lists_are_taken_for_float64(name: str) -> None:
    assert measure(name, CODES.tolist()) == measure(name, torch.from_numpy(CODES).double())


@pytest.mark.parametrize("name", ["factor_vae_score", "beta_vae_score", "mutual_information_gap", "modularity"])
def test_which_number_stands_for_which_value_does_not_matter(name: str) -> None:
    found, expected = measure(name, factors=1000 - 7 * FACTORS), measure(name)
    assert found["score"] == pytest.approx(expected["score"], abs=1e-12)


@pytest.mark.parametrize("name", SEEDED)
def test_same_seed_same_result(name: str) -> None:
    assert measure(name, seed=3) == measure(name, seed=3)
    assert measure(name, seed=3) != measure(name, seed=4)


@pytest.mark.parametrize("name", FEW)
def test_results_are_plain_values(name: str) -> None:
    found = measure(name)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (CODES[:50], FACTORS, r"codes \(50, 4\) and factors \(60, 3\) must have as many rows: one for each observation"),
        (CODES[:1], FACTORS[:1], r"codes \(1, 4\) and factors \(1, 3\) must have at least 2 rows"),
        (CODES[:0], FACTORS[:0], r"at least 2 rows"),
        (CODES[:, 0], FACTORS, r"codes must have the shape \(observations, latents\), got \(60,\)"),
        (CODES[:, :0], FACTORS, r"codes must have the shape \(observations, latents\), got \(60, 0\)"),
        (CODES, FACTORS[:, 0], r"factors must have the shape \(observations, factors\), got \(60,\)"),
        (CODES, FACTORS[:, :0], r"factors must have the shape \(observations, factors\), got \(60, 0\)"),
        (CODES + 1j, FACTORS, r"codes must hold real numbers of at most 64 bits, got complex"),
        (CODES.astype(str), FACTORS, r"codes must hold real numbers"),
        (CODES, FACTORS.astype(object), r"factors must hold real numbers"),
        ([[0.0, 1.0], [2.0]], FACTORS, r"codes must be an array \(observations, latents\), got \[\[0.0, 1.0\], \[2.0\]\]"),
        (torch.ones(60, 4).to_sparse(), FACTORS, r"codes must be an array"),
        (CODES, FACTORS * 0.5, r"factors must be whole numbers, got 0.5 in row 20, factor 0"),
        (CODES, np.where(FACTORS == 4, np.nan, FACTORS), r"factors must be whole numbers, got nan in row 4, factor 2"),
        (CODES, FACTORS * [1, 0, 1], r"factor 1 is constant; leave it out"),
    ],
)
def test_what_cannot_be_measured_is_one_line(name: str, codes: Any, factors: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        getattr(metrics, name)(codes, factors)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2e30])
def test_a_code_that_is_no_number_names_its_row(name: str, value: float) -> None:
    codes = CODES.copy()
    codes[7, 2] = value
    with pytest.raises(UsageError, match=r"codes must be finite, at most 1e\+30 in size, got .* in row 7, latent 2$"):
        getattr(metrics, name)(codes, FACTORS)


@pytest.mark.parametrize(("name", "metric"), [("mutual_information_gap", "MIG"), ("sap", "SAP"), ("dci", "DCI")])
def test_one_latent_has_no_next(name: str, metric: str) -> None:
    with pytest.raises(UsageError, match=rf"{metric} needs at least 2 latents, got codes \(60, 1\) and factors \(60, 3\)"):
        measure(name, CODES[:, :1])


@pytest.mark.parametrize("name", ["factor_vae_score", "beta_vae_score", "modularity", "dci"])
def test_one_factor_is_told_from_no_other(name: str) -> None:
    with pytest.raises(UsageError, match=r"needs at least 2 factors, got codes \(60, 4\) and factors \(60, 1\)"):
        measure(name, factors=FACTORS[:, :1])


@pytest.mark.parametrize("name", ["mutual_information_gap", "sap"])
def test_one_factor_has_a_gap(name: str) -> None:
    assert 0 <= measure(name, factors=FACTORS[:, :1])["score"] <= 1


@pytest.mark.parametrize("name", ["factor_vae_score", "beta_vae_score", "modularity"])
def test_one_latent_is_enough_for_the_others(name: str) -> None:
    assert 0 <= measure(name, CODES[:, :1])["score"] <= 1


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize("seed", [-1, 1.5, None])
def test_a_seed_is_a_whole_number(name: str, seed: Any) -> None:
    with pytest.raises(UsageError, match=r"seed must be a whole number from 0 on"):
        measure(name, seed=seed)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("factor_vae_score", {"preset": "kim"}, r"unknown preset 'kim'; there are: disentanglement_lib, infogan_cr"),
        ("factor_vae_score", {"observations": 1}, r"observations must be a whole number from 2 on, got 1"),
        ("factor_vae_score", {"training_votes": 0}, r"training_votes must be a whole number from 1 on, got 0"),
        ("factor_vae_score", {"evaluation_votes": -1}, r"evaluation_votes must be a whole number from 0 on, got -1"),
        ("factor_vae_score", {"least_std": -0.1}, r"least_std must be a number from 0 on, got -0.1"),
        ("factor_vae_score", {"least_std": "no"}, r"least_std must be a number from 0 on, got 'no'"),
        ("beta_vae_score", {"pairs": 0}, r"pairs must be a whole number from 1 on, got 0"),
        ("beta_vae_score", {"training_points": 0}, r"training_points must be"),
        ("beta_vae_score", {"evaluation_points": 0}, r"evaluation_points must be"),
        ("mutual_information_gap", {"bins": 1}, r"bins must be a whole number from 2 on, got 1"),
        ("modularity", {"bins": 2.5}, r"bins must be a whole number from 2 on, got 2.5"),
        ("sap", {"training_points": 0}, r"training_points must be"),
        ("sap", {"test_points": 0}, r"test_points must be"),
        ("sap", {"continuous": "no"}, r"continuous must be true or false, got 'no'"),
        ("dci", {"test_points": 0}, r"test_points must be"),
        ("dci", {"estimator": "lasso"}, r"unknown estimator 'lasso'; there are: forest, boosting"),
    ],
)
def test_a_setting_out_of_range_is_one_line(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure(name, **given)


@settings(deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=30).filter(lambda values: len(set(values)) > 1),
    st.sampled_from([np.int64, np.int8, np.uint64, np.float64, np.bool_]),
)
def test_values_are_numbered_in_their_order(values: list[int], kind: type) -> None:
    column = np.array(values, np.int64).view(np.uint64).astype(kind) if kind is np.uint64 else np.array(values).astype(kind)
    if len(np.unique(column)) < 2:
        return
    data = labelled("this", np.zeros((len(column), 1)), column[:, None])
    different, numbers = np.unique(column, return_inverse=True)
    assert data.labels.tolist() == [numbers.tolist()]
    assert data.values == (len(different),)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.int64, np.float64),
        (np.bool_, np.float64),
    ],
)
def test_codes_are_floats_and_copied_only_where_they_must_be(given: type, kept: type) -> None:
    codes: Any = (CODES * 4).astype(given)
    data = labelled("this", codes, FACTORS)
    assert data.codes.dtype == kept
    assert np.shares_memory(data.codes, codes) == (given is kept)
    assert data.codes == pytest.approx(codes.astype(kept))


def test_half_precision_tensors_are_taken() -> None:
    codes = torch.from_numpy(CODES).bfloat16()
    assert measure("mutual_information_gap", codes) == measure("mutual_information_gap", codes.float().numpy())


def test_importing_the_metrics_does_not_import_scikit_learn() -> None:
    code = "import vaelens.metrics, sys; print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
