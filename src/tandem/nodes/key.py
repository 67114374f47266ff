"""The key with which the filter signs and the bridge verifies: one bring-up's secret, never a parameter's value."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tandem.core.errors import ConfigError

VARIABLE = "TANDEM_CERTIFICATE_KEY"
LEAST = 16


def read_key(path: str) -> bytes:
    """The key from the file ``path`` or, when that is empty, from the environment (hexadecimal).

    Raises:
        ConfigError: neither is there, others may read the file, or the key is shorter than 16 bytes.
    """
    if path:
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)
            key = Path(path).read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"certificate_key_file = {path!r}: {error.strerror}") from error
        if mode & 0o077:
            raise ConfigError(f"certificate_key_file = {path!r}: mode {mode:04o}; accepted: 0600, readable by its owner only")
    else:
        text = os.environ.get(VARIABLE, "")
        try:
            key = bytes.fromhex(text)
        except ValueError as error:
            raise ConfigError(f"{VARIABLE}: not hexadecimal") from error
    if len(key) < LEAST:
        raise ConfigError(
            f"certificate key: {len(key)} bytes; "
            f"accepted: at least {LEAST}, in the file certificate_key_file or, as hex, in {VARIABLE}"
        )
    return key
