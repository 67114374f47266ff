"""Certificates: the filter signs what it certified, the executor plays nothing unsigned.

HMAC-SHA256 under a key that only filter and executor hold: a planner, a bug or a second node cannot make one by accident.
"""

from __future__ import annotations

import hashlib
import hmac

from tandem.core.errors import InputError


def _message(verdict_digest: str, motion_digest: str, switch_time_ns: int) -> bytes:
    return f"tandem-certificate-1|{verdict_digest}|{motion_digest}|{int(switch_time_ns)}".encode()


def sign(key: bytes, verdict_digest: str, motion_digest: str, switch_time_ns: int) -> str:
    """The certificate that binds a verdict to one motion of arm and gripper at one switch time.

    Args:
        key: shared secret, at least 16 bytes. verdict_digest: :attr:`tandem.core.types.Verdict.digest`.
        motion_digest: :meth:`tandem.core.types.Proposal.digest`. switch_time_ns: [ns] on the executor's clock.

    Returns:
        64 hexadecimal digits.

    Raises:
        InputError: the key is too short.
    """
    if len(key) < 16:
        raise InputError(f"certificate key has {len(key)} bytes; at least 16 are needed")
    return hmac.new(key, _message(verdict_digest, motion_digest, switch_time_ns), hashlib.sha256).hexdigest()


def bound_to(key: bytes, *what: str) -> bytes:
    """The key of those who share ``key`` and agree on ``what``: which arm, which bounds, whose.

    Filter and executor each make it from what they themselves were started with. Where that differs nothing is accepted: a motion
    certified for one arm, or for a small tracking error, is none for another.
    """
    return hmac.new(key, "|".join(("tandem-key-1", *what)).encode(), hashlib.sha256).digest()


def verify(key: bytes, verdict_digest: str, motion_digest: str, switch_time_ns: int, certificate: str) -> bool:
    """Whether ``certificate`` is that of :func:`sign` (compared in constant time; anything malformed is just False)."""
    try:
        expected = sign(key, verdict_digest, motion_digest, switch_time_ns)
        return hmac.compare_digest(expected.encode(), certificate.encode())
    except (InputError, AttributeError, UnicodeError, TypeError, ValueError):
        return False
