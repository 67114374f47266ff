"""Torch devices by name, asked for before any work begins."""

from __future__ import annotations

import torch

from tandem.core.errors import InputError, TandemError


def check_device(device: torch.device | str, error: type[TandemError] = InputError, who: str = "") -> None:
    """Raise ``error`` unless torch can compute on ``device`` here; ``who`` asks."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as why:
        name = f"{who}: device" if who else "device"
        raise error(f"{name} = {str(device)!r}: torch cannot use it here ({str(why).splitlines()[0]})") from why
