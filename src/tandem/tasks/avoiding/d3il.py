"""D3IL's own files of the Avoiding task: one pickle a demonstration, a dict with ``["robot"]["des_c_pos"]`` (T, 3) [m] and more.

A pickle can run any code when it is read. These are read by an unpickler that knows NumPy arrays and nothing else.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.tasks.avoiding.demonstrations import read, write

Array = NDArray[np.float64]

#: what a pickle of plain arrays names, under NumPy's old and new module names
_ALLOWED = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core") for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"),
                                                       ("numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict")}


class _ArraysOnly(pickle.Unpickler):
    """Reads containers, numbers, strings and arrays; anything else is refused before it can run."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which data have no need of")
        return super().find_class(module_name, global_name)


def read_pickle(path: Path) -> Array:
    """(T, 2) desired positions of one demonstration.

    Raises:
        InputError: unreadable, not of that layout, or with something else than data in it.
    """
    try:
        with path.open("rb") as file:
            desired = np.asarray(_ArraysOnly(file).load()["robot"]["des_c_pos"], dtype=np.float64)
    except Exception as error:  # an unpickler fed with anything raises anything
        raise InputError(f"{path}: not a demonstration of D3IL (a pickle with ['robot']['des_c_pos']): {error}") from error
    if desired.ndim != 2 or desired.shape[0] < 2 or desired.shape[1] not in (2, 3) or not np.isfinite(desired).all():
        raise InputError(f"{path}: des_c_pos {desired.shape}: expected (T, 3), T >= 2, finite")
    return desired[:, :2]


def convert(source: Path, out: Path) -> int:
    """Write ``out`` (.npz, for ``tandem train avoiding``) from D3IL's folder of pickles, one pickle, or such an .npz.

    Returns:
        Number of demonstrations.

    Raises:
        InputError: nothing there, or not what it should be.
    """
    if out.suffix != ".npz":
        raise InputError(f"out = {out}: accepted: a file name ending in .npz")
    if source.is_dir():
        files = sorted(source.rglob("*.pkl"))
        if not files:
            raise InputError(f"{source}: no .pkl files in it")
        demonstrations = [read_pickle(path) for path in files]
    elif source.suffix == ".pkl":
        demonstrations = [read_pickle(source)]
    else:
        demonstrations = read(source)
    write(out, demonstrations)
    return len(demonstrations)
