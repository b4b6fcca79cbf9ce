"""What the processor computes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def computes_bf16(accelerator: str) -> bool:
    """Whether the processor computes in bfloat16; where it only emulates that, it is slower than float32."""
    if accelerator == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator == "cpu":
        # Older versions of torch cannot say; float32 is right everywhere.
        capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False
