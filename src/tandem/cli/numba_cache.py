"""Where numba keeps compiled code when several checkouts share one cache (``NUMBA_CACHE_LOCATOR_CLASSES``, set by tandem.sh).

numba names the cache's folder after the source file's absolute path, so that a second clone would compile everything again.
Freshness is checked by the source's content, hence the path is not needed: here the folder is the module's place in its package.
"""

from __future__ import annotations

from pathlib import Path

from numba.core.caching import UserProvidedCacheLocator


class SharedCacheLocator(UserProvidedCacheLocator):
    """``$NUMBA_CACHE_DIR/<package folders>`` whatever checkout the package lies in."""

    @classmethod
    def get_suitable_cache_subpath(cls, py_file: str) -> str:
        """Folders from the outermost package down, joined by dots; numba's own name for files outside packages."""
        folder = Path(py_file).resolve().parent
        parts: list[str] = []
        while (folder / "__init__.py").is_file():
            parts.insert(0, folder.name)
            folder = folder.parent
        return ".".join(parts) if parts else super().get_suitable_cache_subpath(py_file)
