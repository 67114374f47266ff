"""How the figures of ``tandem bench jm2d`` look, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "tandem", "font.family": "sans-serif", "font.size": 9}
#: of the raster form [dots per inch]
DPI = 80


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` as ``path`` (SVG, the same bytes for the same figure) and beside it as WebP, small enough for a page."""
    figure.savefig(path, metadata={"Date": None})
    figure.savefig(path.with_suffix(".webp"), dpi=DPI, pil_kwargs={"quality": 82, "method": 6})
