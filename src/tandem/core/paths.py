"""Where Tandem's data files (config/, models/, launch/) are: beside the sources in a checkout, else under share/tandem."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tandem.core.errors import ConfigError


def share_dir() -> Path:
    """The folder that holds ``config/`` and ``models/``.

    Order: ``$TANDEM_SHARE``, the checkout this module lies in, ``<prefix>/share/tandem`` of each ament prefix and of Python.

    Raises:
        ConfigError: none of them holds ``config/``.
    """
    here = Path(__file__).resolve().parents[3]
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    site = Path(__file__).resolve().parents[4]
    places = [here, *(p / "share" / "tandem" for p in [*prefixes, Path(sys.prefix), site.parent])]
    if os.environ.get("TANDEM_SHARE"):
        places.insert(0, Path(os.environ["TANDEM_SHARE"]))
    for place in places:
        if (place / "config").is_dir():
            return place
    looked = ", ".join(map(str, places))
    raise ConfigError(f"data files of Tandem not found; looked for config/ in {looked}; set TANDEM_SHARE")


def config_file(*parts: str) -> Path:
    """``config/<parts>``; a path that exists as given is returned as it is.

    Raises:
        ConfigError: no such file; names the files that are there.
    """
    direct = Path(*parts)
    if direct.is_file():
        return direct
    path = share_dir() / "config" / direct
    if not path.is_file():
        known = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file; there are: {', '.join(known) or 'none'}")
    return path
