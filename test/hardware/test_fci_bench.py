"""The fault table in its quick form: every fault injected once and recovered from, with an arm that waits for busy machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pylibfranka")

from hardware.conftest import HOST, PATIENCE

from tandem.bench import faults
from tandem.bench.fci_server import FciServerError, server_python


@pytest.mark.fci
@pytest.mark.timeout(600)
def test_every_fault_is_survived(tmp_path: Path) -> None:
    try:
        server_python()
    except FciServerError as error:
        pytest.skip(str(error))
    faults.run(tmp_path, quick=True, host=HOST.removesuffix("1") + "9", patience=PATIENCE)
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert {r["condition"] for r in rows} >= {f.name for f in faults.FAULTS}
    for row in rows:
        if not row["n"] or "no trial" in row["state"]:
            continue  # not possible here, or a machine so busy that the arm never came to move
        assert row["recovered"] == row["n"] and row["uncertified"] == 0 and row["leaked"] == 0, row
    assert sum("no trial" in r["state"] for r in rows) <= 3
