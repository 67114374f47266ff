"""After an installation: can everything be imported, does off-screen rendering work, and compile the numba kernels.

``python -m tandem.cli.warmup [--gl-file FILE]`` writes the rendering backend that works (``egl`` or ``osmesa``) to FILE.
Exit codes: 0 done (a machine that cannot render is told so, but may do everything else), 1 a library is missing or broken.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from tandem.cli import checks

log = logging.getLogger("tandem.warmup")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; see the module's text."""
    logging.basicConfig(level=logging.INFO, format="tandem: %(message)s")
    logging.getLogger("OpenGL").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="python -m tandem.cli.warmup", description=__doc__)
    parser.add_argument("--gl-file", type=Path, help="file to write the working rendering backend to")
    options = parser.parse_args(arguments)
    bad = checks.missing_imports()
    for name, reason in bad.items():
        log.error("cannot import %s (%s): %s", name, checks.IMPORTS[name], reason)
    if bad:
        return 1
    backend, failures = checks.working_gl()
    if options.gl_file is not None and backend:
        options.gl_file.write_text(backend + "\n", encoding="ascii")
    if not backend:
        log.warning("no off-screen rendering: %s; the camera of the simulation will not work", failures)
    start = time.perf_counter()
    compiled = checks.compile_kernels()
    if compiled:
        log.info("compiled kernels of %s in %.1f s", ", ".join(compiled), time.perf_counter() - start)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
