"""Which precision and which device."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from vaelens.errors import UsageError
from vaelens.models.precision import computes_bf16
from vaelens.training.device import pick_accelerator, pick_precision


@pytest.mark.parametrize("accelerator", ["cpu", "cuda", "mps"])
def test_auto_takes_bf16_where_the_processor_has_it(accelerator: str) -> None:
    assert pick_precision("auto", accelerator, has_bf16=lambda name: name == accelerator) == "bf16-mixed"
    assert pick_precision("auto", accelerator, has_bf16=lambda name: name != accelerator) == "32-true"


def test_what_is_asked_for_is_taken() -> None:
    assert pick_precision("32", "cpu", has_bf16=lambda _: True) == "32-true"
    assert pick_precision("bf16", "cpu", has_bf16=lambda _: False) == "bf16-mixed"
    with pytest.raises(UsageError, match="unknown precision '64'"):
        pick_precision("64", "cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"architecture": "aarch64", "bf16": True}, True),
        ({}, False),
    ],
)
def test_the_cpu_is_asked(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], expected: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert computes_bf16("cpu") is expected


def test_a_torch_that_cannot_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert computes_bf16("cpu") is False


def test_this_machine_agrees_with_its_kernel() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "flags" not in (text := cpuinfo.read_text()):
        pytest.skip("no flags in /proc/cpuinfo")
    assert computes_bf16("cpu") is ("avx512_bf16" in text or "amx_bf16" in text)


def test_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_accelerator("cpu") == "cpu"
    with pytest.raises(UsageError, match="unknown accelerator 'tpu'"):
        pick_accelerator("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_accelerator("auto") == "cpu"
    with pytest.raises(UsageError, match="accelerator 'cuda' is not available on this machine; there is 'cpu', or 'auto'"):
        pick_accelerator("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_accelerator("auto") == "cuda"


def test_bf16_trains(small: ModuleType, tmp_path: Path) -> None:
    exact = small.train(tmp_path / "32", epochs=2)[1]
    network, result = small.train(tmp_path / "bf16", epochs=2, precision="bf16")
    assert {weight.dtype for weight in network.state_dict().values()} == {torch.float32}
    assert result.last_loss < result.history[0]["val/loss"]
    # Autocast was on: near, and not equal.
    assert result.last_loss == pytest.approx(exact.last_loss, rel=0.05)
    assert result.last_loss != exact.last_loss
