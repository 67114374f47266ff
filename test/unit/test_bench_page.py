"""The page of ``tandem bench jm2d``: marked tables are made anew from the rows, all else stays as its author wrote it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tandem.bench import jm2d, jm2d_coupling, jm2d_page
from tandem.core.errors import InputError


def padded(method: str, w: float, success: float, n: int, walls: int, paper: float | None = None) -> dict[str, Any]:
    """A row of the maze's Fig. 3."""
    whole = {"mean": success, "lo": success - 0.1, "hi": min(success + 0.1, 1.0)}
    return {
        "table": "Point maze, padded walls (Fig. 3)", "task": "maze", "method": method, "condition": f"w = {w:g}", "n": n,
        "safe_success": whole, "paper_safe_success": paper, "violations": {"mean": walls / n, "lo": 0.0, "hi": 1.0},
        "intervention": None if method == "policy" else whole, "paper_intervention": None,
    }


ROWS = [
    padded("policy", 0.0, 0.8375, 80, 13, 0.895), padded("policy", 0.25, 0.05, 80, 70),
    padded("jm2d", 0.0, 1.0, 80, 0, 0.98), padded("jm2d", 0.25, 0.9, 60, 0),
]


def test_marked_tables_are_made_anew_and_the_text_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Maze\n\nBefore.\n\n<!-- table maze-success -->\n| stale |\n<!-- end -->\n\nBetween.\n"
        "<!-- table maze-intervention -->\n<!-- end -->\n<!-- table donut -->\n| kept |\n<!-- end -->\n"
        "![m](jm2d_maze.webp)\nAfter.\n"
    )
    plots = tmp_path / "plots"
    plots.mkdir()
    (plots / "maze_padding.webp").write_bytes(b"drawn")
    (plots / "maze_budget.webp").write_bytes(b"not shown by the page")
    for _ in range(2):  # what it made itself it finds again
        jm2d_page.renew(page, ROWS, plots)
        assert page.read_text() == (
            "# Maze\n\nBefore.\n\n<!-- table maze-success -->\n"
            "| method | w = 0 | w = 0.25 | n a cell | met a wall |\n|---|---|---|---|---|\n"
            "| policy | .84 [.74, .94] (.90) | .05 [-0.05, .15] | 80 | 83 of 160 |\n"
            "| jm2d | 1 [.90, 1] (.98) | .90 [.80, 1] | 60–80 | 0 of 140 |\n<!-- end -->\n"
            "\nBetween.\n"
            "<!-- table maze-intervention -->\n| method | w = 0 | w = 0.25 |\n|---|---|---|\n"
            "| jm2d | 1 [.90, 1] | .90 [.80, 1] |\n<!-- end -->\n"
            "<!-- table donut -->\n| kept |\n<!-- end -->\n![m](jm2d_maze.webp)\nAfter.\n"
        )
    assert (tmp_path / "jm2d_maze.webp").read_bytes() == b"drawn" and not (tmp_path / "jm2d_budget.webp").exists()


def test_a_line_that_nothing_was_measured_for_stays_in_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    head = "# Maze\n<!-- table maze-success -->\n| method | w = 0 | w = 0.25 | n a cell | met a wall |\n|---|---|---|---|---|\n"
    stale = [f"| {name} | .98 | .94 | 9 | 0 of 18 |\n" for name in ("rail", "jm2d", "steered")]
    fresh = "| jm2d | 1 [.90, 1] (.98) | .90 [.80, 1] | 60–80 | 0 of 140 |\n"
    added = "| gibbs | .90 [.80, 1] | .80 [.70, .90] | 80 | 0 of 160 |\n"
    page.write_text(head + "".join(stale) + "<!-- end -->\n![m](jm2d_maze.webp)\n")
    (tmp_path / "maze_padding.webp").write_bytes(b"of one method")
    rows = [*ROWS[2:], padded("gibbs", 0.0, 0.9, 80, 0), padded("gibbs", 0.25, 0.8, 80, 0)]
    jm2d_page.renew(page, rows, None)
    text = head + stale[0] + fresh + added + stale[2] + "<!-- end -->\n![m](jm2d_maze.webp)\n"
    assert page.read_text() == text and not (tmp_path / "jm2d_maze.webp").exists()
    better = text.replace("| jm2d | 1 [.90, 1] (.98) | .90 [.80, 1] | 60–80 |", "| jm2d | .99 | .88 | 302–303 |")
    page.write_text(better)
    jm2d_page.renew(page, rows, None)
    assert page.read_text() == better, "of more episodes"
    jm2d_page.renew(page, [padded("gibbs", 0.0, 0.7, 500, 0), padded("best_of_n", 0.0, 0.7, 500, 0)], None)
    only = "| best_of_n | .70 [.60, .80] | – | 500 | 0 of 500 |\n"
    assert page.read_text() == better.replace(added, added + only), "a line that has one cell replaces none that has two"
    page.write_text(text.replace("w = 0.25", "w = 0.3"))
    jm2d_page.renew(page, rows, None)
    assert stale[0] not in page.read_text() and fresh in page.read_text(), "columns of another meaning do not stand in one table"


def test_a_line_of_a_table_of_metrics_is_known_by_both(tmp_path: Path) -> None:
    page = tmp_path / "page.md"

    def row(task: str, metric: str, mean: float) -> dict[str, Any]:
        cells = {name: {"mean": mean, "lo": mean, "hi": mean} for name in ("sequential", "best_of_n", "gibbs", "jm2d", "steered")}
        return {"table": jm2d_coupling.TITLE, "task": task, "condition": "A", "metric": metric, **cells, "best": "jm2d",
                "within_its_interval": ""}

    page.write_text("<!-- table coupling -->\n<!-- end -->\n")
    jm2d_page.renew(page, [row("donut", "feasible", 0.5), row("donut", "length", 0.25)], None)
    jm2d_page.renew(page, [row("donut", "length", 0.75), row("maze", "length", 0.125)], None)
    lines = [line.split(" | ")[:3] for line in page.read_text().splitlines()[3:-1]]
    assert lines == [["| donut, A", "feasible", ".50 [.50, .50]"], ["| donut, A", "length", ".75 [.75, .75]"],
                     ["| maze, A", "length", ".12 [.12, .12]"]]


def test_numbers_are_short_and_never_round_to_what_they_are_not() -> None:
    assert [jm2d_page.number(v) for v in (0.0, 1.0, 0.973, 5.254, None, math.nan)] == ["0", "1", ".97", "5.25", "–", "–"]
    assert jm2d_page.number(0.999) == "1.00" and jm2d_page.number(0.001) == ".00" and jm2d_page.number({"mean": 0.5}, 1) == ".5"
    assert jm2d_page.interval({"mean": 0.97, "lo": 0.893, "hi": 1.0}) == ".97 [.89, 1]" and jm2d_page.interval(None) == "–"
    assert jm2d_page.signed({"mean": -0.056, "lo": -0.12, "hi": 0.01}) == "-.06 [-.12, +.01]"
    assert jm2d_page.signed({"mean": 1.5, "lo": 0.25, "hi": 2.0}) == "**+1.50 [+.25, +2.00]**"


def test_a_page_without_marks_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    with pytest.raises(InputError, match="no such file"):
        jm2d.run(tmp_path / "out", quick=True, parts="donut", page=page)
    page.write_text("| a table | of someone's own |\n")
    with pytest.raises(InputError, match="no mark"):
        jm2d.run(tmp_path / "out", quick=True, parts="donut", page=page)
    page.write_text("<!-- table torus -->\n<!-- end -->\n")
    with pytest.raises(InputError, match=r"unknown table torus; accepted names: donut, .*coupling"):
        jm2d.run(tmp_path / "out", quick=True, parts="donut", page=page)
    assert not (tmp_path / "out").exists()


def test_the_projects_own_pages_ask_for_every_table_once() -> None:
    root = Path(__file__).parents[2]
    page = root / "docs" / "jm2d.md"
    assert sorted(jm2d_page.marks(page) + jm2d_page.marks(root / "README.md")) == sorted(jm2d_page.TABLES)
    assert all(f"({name})" in page.read_text() and (page.parent / name).is_file() for name in jm2d_page.PICTURES)
