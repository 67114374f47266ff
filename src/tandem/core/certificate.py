"""The filter's certificate: a keyed hash over what was certified, so that only the filter's word moves the arm."""

from __future__ import annotations

import hashlib
import hmac


def sign(key: bytes, verdict_digest: str, trajectory_digest: str, switch_time_ns: int) -> str:
    """HMAC-SHA256 (hex) over the verdict's digest, the trajectory's digest and the switch time [ns]."""
    message = f"{verdict_digest}|{trajectory_digest}|{switch_time_ns}".encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def verify(key: bytes, certificate: str, verdict_digest: str, trajectory_digest: str, switch_time_ns: int) -> bool:
    """Whether ``certificate`` was made by :func:`sign` with this key for exactly these values. Constant time."""
    expected = sign(key, verdict_digest, trajectory_digest, switch_time_ns)
    return hmac.compare_digest(expected.encode(), certificate.encode())
