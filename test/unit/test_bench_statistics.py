"""Intervals of the benchmark tables against SciPy, and the tables themselves."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from tandem.bench.statistics import bootstrap, share
from tandem.bench.table import markdown, write_table


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (43, 50), (1, 3)])
def test_share_is_wilsons_interval(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="wilson")
    got = share(k, n)
    assert got["mean"] == k / n
    assert got["lo"] == pytest.approx(expected.low, abs=1e-9)
    assert got["hi"] == pytest.approx(expected.high, abs=1e-9)


def test_a_share_lies_in_its_interval_to_the_last_bit() -> None:
    """Plots take the distances of the ends as error bars, which must not be negative."""
    for n in range(1, 200):
        for k in (0, 1, n // 2, n):
            s = share(k, n)
            assert 0.0 <= s["lo"] <= s["mean"] <= s["hi"] <= 1.0, (k, n)


def test_bootstrap_covers_the_mean_and_ignores_nan() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(100):
        interval = bootstrap(np.append(rng.normal(3.0, 1.0, 40), np.nan), seed=i)
        covered += interval["lo"] <= 3.0 <= interval["hi"]
    assert 85 <= covered <= 100
    assert np.isnan(bootstrap([])["mean"])


def test_table_files_hold_rows_and_meta(tmp_path) -> None:
    rows = [{"task": "mug", "method": "a", "condition": "x", "n": 2, "safe_success": share(1, 2), "plan_ms_p50": 12.3456}]
    write_table(tmp_path, rows, command="tandem bench x", seeds=[0, 1], wall_s=1.0, notes="a note")
    data = json.loads((tmp_path / "table.json").read_text())
    assert data["rows"] == rows
    assert set(data["meta"]) == {"command", "commit", "machine", "seeds", "wall_s"}
    text = (tmp_path / "table.md").read_text()
    assert "a note" in text and "0.500 [" in text and "12.3" in text
    assert markdown(rows).splitlines()[0].startswith("| task | method | condition | n |")


def test_rows_with_a_table_of_their_own_get_one_each() -> None:
    text = markdown([{"method": "a", "x": 1}, {"method": "b", "y": 0.5, "table": "Fig. 3"}, {"method": "c", "x": 2}])
    plain, own = text.split("**Fig. 3**")
    assert plain == "| method | x |\n|---|---|\n| a | 1 |\n| c | 2 |\n\n"
    assert own.strip() == "| method | y |\n|---|---|\n| b | 0.500 |"
