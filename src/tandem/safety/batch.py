"""Compiled loops over trajectories, heads and backups. Every loop has a serial twin: a parallel call costs tens of microseconds
by itself, and Numba's thread pool must not be entered from two Python threads at once (:data:`PARALLEL_LOCK`)."""

from __future__ import annotations

import threading

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from tandem.safety.backup import FamilyArrays
from tandem.safety.geometry import ArmArrays, BoundArrays, SceneArrays
from tandem.safety.kernels import OK, Work, check, make_work

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: held during every parallel call
PARALLEL_LOCK = threading.Lock()
#: trajectories one scratch space serves in turn
CHUNK = 16


@njit(cache=True, error_model="numpy", nogil=True)
def check_serial(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, times: Array, q: Array, v: Array, a: Array,
    last: bool, full: bool, code: IntArray, out: Array,
) -> None:
    """Check trajectories q, v, a (B, M, n) at ``times`` (M,); fills ``code`` (B,) and ``out`` (B, 4)."""
    work = make_work(arm, scene, bounds, times.shape[0])
    for b in range(q.shape[0]):
        code[b] = check(arm, scene, bounds, work, times, q[b], v[b], a[b], 0.0, last, full, out[b])


@njit(cache=True, error_model="numpy", parallel=True)
def check_parallel(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, times: Array, q: Array, v: Array, a: Array,
    last: bool, full: bool, code: IntArray, out: Array,
) -> None:
    """:func:`check_serial` over all Numba threads."""
    batch = q.shape[0]
    for chunk in prange((batch + CHUNK - 1) // CHUNK):
        work = make_work(arm, scene, bounds, times.shape[0])
        for b in range(chunk * CHUNK, min(batch, (chunk + 1) * CHUNK)):
            code[b] = check(arm, scene, bounds, work, times, q[b], v[b], a[b], 0.0, last, full, out[b])


@njit(cache=True, error_model="numpy")
def build_backup(family: FamilyArrays, q0: Array, v0: Array, a0: Array, k: Array, q: Array, v: Array, a: Array) -> None:
    """Knots q, v, a (6, n) of one backup; the compiled twin of :meth:`BackupFamily.build`."""
    t = family.times
    m, n = q.shape
    for d in range(n):
        brake = family.brake[0] * v0[d] + family.brake[1] * a0[d] + family.brake[2] * k[d]
        a[0, d] = a0[d]
        a[1, d] = a[2, d] = k[d]
        a[3, d] = a[4, d] = -brake
        a[5, d] = 0.0
        q[0, d] = q0[d]
        v[0, d] = v0[d]
        for i in range(m - 1):
            h = t[i + 1] - t[i]
            v[i + 1, d] = v[i, d] + 0.5 * h * (a[i, d] + a[i + 1, d])
            q[i + 1, d] = q[i, d] + h * (v[i, d] + h * (2.0 * a[i, d] + a[i + 1, d]) / 6.0)
        v[m - 1, d] = 0.0


@njit(cache=True, error_model="numpy")
def one_head(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, family: FamilyArrays, times: Array, q: Array, v: Array, a: Array,
    k: Array, full: bool, head_out: Array, feasible: Flags, clearance: Array,
) -> int:
    """One head, knots q, v, a (M, n), and all its backups k (K, n); fills ``feasible`` and ``clearance`` (K,). Returns the head's code."""
    m = times.shape[0]
    work = make_work(arm, scene, bounds, max(m, 6))
    code = check(arm, scene, bounds, work, times, q, v, a, 0.0, False, full, head_out)
    if code != OK and not full:
        feasible[:] = False
        clearance[:] = head_out[0]
        return code
    back_q, back_v, back_a = np.empty((6, q.shape[1])), np.empty((6, q.shape[1])), np.empty((6, q.shape[1]))
    out = np.empty(4)
    for i in range(k.shape[0]):
        build_backup(family, q[m - 1], v[m - 1], a[m - 1], k[i], back_q, back_v, back_a)
        found = check(arm, scene, bounds, work, family.times, back_q, back_v, back_a, times[m - 1], True, full, out)
        feasible[i] = code == OK and found == OK
        clearance[i] = min(head_out[0], out[0])
    return code


@njit(cache=True, error_model="numpy", nogil=True)
def grid_serial(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, family: FamilyArrays, times: Array, q: Array, v: Array, a: Array,
    k: Array, full: bool, code: IntArray, head_out: Array, feasible: Flags, clearance: Array,
) -> None:
    """All heads q, v, a (H, M, n) with backups k (1, K, n), shared, or (H, K, n), each head's own."""
    for h in range(q.shape[0]):
        ks = k[h if k.shape[0] > 1 else 0]
        code[h] = one_head(arm, scene, bounds, family, times, q[h], v[h], a[h], ks, full, head_out[h], feasible[h], clearance[h])


@njit(cache=True, error_model="numpy", parallel=True)
def grid_parallel(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, family: FamilyArrays, times: Array, q: Array, v: Array, a: Array,
    k: Array, full: bool, code: IntArray, head_out: Array, feasible: Flags, clearance: Array,
) -> None:
    """:func:`grid_serial` over all Numba threads."""
    for h in prange(q.shape[0]):
        ks = k[h if k.shape[0] > 1 else 0]
        code[h] = one_head(arm, scene, bounds, family, times, q[h], v[h], a[h], ks, full, head_out[h], feasible[h], clearance[h])


__all__ = ["PARALLEL_LOCK", "Work", "build_backup", "check_parallel", "check_serial", "grid_parallel", "grid_serial"]
