"""Pages that people read: ``tandem bench jm2d --page docs/jm2d.md`` renews its tables and pictures, the text stays the author's;
so do README's short tables with ``--page README.md``.

What stands between a line ``<!-- table NAME -->``, with NAME of :data:`TABLES`, and the next ``<!-- end -->`` is made anew from
the rows of the bench; so are pictures of :data:`PICTURES` that the page shows. A table that nothing was measured for stays, and
so does a line of a table, or one that fewer episodes were measured for (to begin anew, empty the table); with ``--only`` the
pictures stay too, for they show all of a part.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tandem.bench import jm2d_coupling
from tandem.core.errors import InputError

Row = dict[str, Any]
#: head and lines of a table
Table = tuple[list[str], list[list[str]]]

#: pictures beside the page, and the plots that they are
PICTURES = {
    "jm2d_donut.webp": "donut_constraint.webp", "jm2d_donut_estimates.webp": "donut_estimates.webp",
    "jm2d_donut_paths.webp": "donut_paths.webp", "jm2d_maze.webp": "maze_padding.webp", "jm2d_samples.webp": "maze_samples.webp",
    "jm2d_budget.webp": "maze_budget.webp", "jm2d_avoiding.webp": "avoiding_paths.webp",
    "jm2d_avoiding_cost.webp": "avoiding_cost.webp",
}
_MARKED = re.compile(r"(<!-- table (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
#: A.2's last lines are among Table 1's methods: JM2D whose chunks are all played
_WHOLE = {"jm2d-hold": "full", "jm2d_tight-hold": "tight, full"}
#: Fig. 4's last point is among Fig. 3's methods
_FIG4 = {"jm2d": "jm2d, N = 32, N_K = 64"}
_SCENES = ("top_left", "top_right", "both", "cluttered")


def marks(page: Path) -> list[str]:
    """Names of the tables that ``page`` asks for.

    Raises:
        InputError: no such page, no mark in it, or one with an unknown name.
    """
    if not page.is_file():
        raise InputError(f"page = {page}: no such file; it holds the text, and marks <!-- table NAME --> ... <!-- end -->")
    names = [name for _, name, *_ in _MARKED.findall(page.read_text(encoding="utf-8"))]
    unknown = [name for name in names if name not in TABLES]
    if unknown or not names:
        found = f"unknown table {', '.join(unknown)}" if unknown else "no mark <!-- table NAME --> ... <!-- end -->"
        raise InputError(f"page = {page}: {found}; accepted names: {', '.join(TABLES)}")
    return names


def renew(page: Path, rows: list[Row], plots: Path | None) -> None:
    """Write ``page`` anew from ``rows`` (the bench's) and the pictures in folder ``plots``, None: these stay.

    Raises what :func:`marks` does.
    """
    marks(page)
    text = page.read_text(encoding="utf-8")

    def filled(mark: re.Match[str]) -> str:
        head, lines = TABLES[mark[2]](rows)
        return mark[1] + _markdown(*_merged(mark[3], head, lines)) + mark[4] if lines else mark[0]

    page.write_text(_MARKED.sub(filled, text), encoding="utf-8")
    for shown, plot in PICTURES.items():
        if plots is not None and f"({shown})" in text and (plots / plot).is_file():
            shutil.copyfile(plots / plot, page.parent / shown)


def _merged(table: str, head: list[str], lines: list[list[str]]) -> Table:
    """The new ``lines`` under ``head``, and those of ``table`` (Markdown) that they do not replace.

    A line is known by its first cell (and its metric). An old one stays unless the new one has all its cells, and of as many
    episodes.
    """
    cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.splitlines()]
    known = cells[0] if cells else head
    if not (set(known) <= set(head) or set(head) <= set(known)):
        return head, lines
    columns = max(known, head, key=len)
    names = columns[: 2 if "metric" in columns[:2] else 1]

    def by_name(titles: list[str], found: list[list[str]]) -> dict[tuple[str, ...], dict[str, str]]:
        rows = [{**dict.fromkeys(columns, "–"), **dict(zip(titles, line, strict=True))} for line in found]
        return {tuple(row[name] for name in names): row for row in rows}

    old, new = by_name(known, cells[2:]), by_name(head, lines)
    out = list(old)
    at = len(out)
    for key in new:  # one that is not there yet follows the one before it, or comes last
        if key not in old:
            out.insert(at, key)
        at = out.index(key) + 1
    whole = {**new, **{key: row for key, row in old.items() if key not in new or _better(row, new[key])}}
    return columns, [[whole[key][c] for c in columns] for key in out]


def _better(old: dict[str, str], new: dict[str, str]) -> bool:
    """Whether the old line has a cell that the new one lacks, or more episodes."""
    lacks = any(cell == "–" != old[column] for column, cell in new.items())
    episodes = [[int(n) for n in re.findall(r"\d+", row.get("n", row.get("n a cell", "")))] for row in (old, new)]
    return lacks or max(episodes[0], default=0) > max(episodes[1], default=0)


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, *lines)).replace("\n", "\n|" + "---|" * len(head) + "\n", 1)


# --- cells ------------------------------------------------------------------------------------------------------------------
def number(value: Any, digits: int = 2) -> str:
    """``.97``, ``1``, ``5.25``; the mean of an interval; a dash for what there is not."""
    if isinstance(value, dict):
        value = value["mean"]
    if value is None or not math.isfinite(value):
        return "–"
    if value in (0, 1):
        return str(int(value))
    return f"{value:.{digits}f}".lstrip("0") if 0 < value < 1 and round(value, digits) < 1 else f"{value:.{digits}f}"


def interval(value: dict[str, float] | None, digits: int = 2) -> str:
    """``.97 [.89, .99]``."""
    if value is None or not math.isfinite(value["mean"]):
        return "–"
    return f"{number(value, digits)} [{number(value['lo'], digits)}, {number(value['hi'], digits)}]"


def signed(value: dict[str, float], digits: int = 2) -> str:
    """``-.06 [-.09, -.02]``, each with its sign; bold where the interval has no 0."""
    if not math.isfinite(value["mean"]):
        return "–"
    cells = [("-" if value[k] < 0.0 else "+") + number(abs(value[k]), digits) for k in ("mean", "lo", "hi")]
    text = f"{cells[0]} [{cells[1]}, {cells[2]}]"
    return f"**{text}**" if value["lo"] * value["hi"] > 0.0 else text


def _paper(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f" ({number(value, digits)})"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 10.0 else f"{value:,.0f}"


# --- rows -------------------------------------------------------------------------------------------------------------------
def _titled(rows: Iterable[Row], start: str) -> list[Row]:
    return [row for row in rows if row.get("table", "").startswith(start)]


def _by_method(rows: list[Row]) -> dict[str, dict[str, Row]]:
    """Method -> condition -> row, in the rows' order."""
    out: dict[str, dict[str, Row]] = {}
    for row in rows:
        out.setdefault(row["method"], {})[row["condition"]] = row
    return out


def _grid(rows: list[Row], cell: Callable[[Row], str], name: Callable[[str], str] = str) -> Table:
    """A line a method, a column a condition."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    lines = []
    for method, by in _by_method(rows).items():
        cells = [cell(by[c]) if c in by else "–" for c in conditions]
        if any(c != "–" for c in cells):
            lines.append([method, *cells])
    return ["method", *map(name, conditions)], lines


# --- tables -----------------------------------------------------------------------------------------------------------------
def _donut(rows: list[Row]) -> Table:
    head = ["method", "valid and in distribution", "out of distribution", "`tight`: valid and in", "out", "network rows", "ms"]
    lines = []
    for method, by in _by_method(_titled(rows, "Donut under")).items():
        if len(by) < 2:
            continue
        loose, tight = by["Fig. 5"], by["tight"]
        lines.append([
            method, interval(loose["valid_in_distribution"]) + _paper(loose["paper"]),
            interval(loose["out_of_distribution"]) + _paper(loose["paper_out"]), interval(tight["valid_in_distribution"]),
            interval(tight["out_of_distribution"]), _count(loose["network_rows"]), _ms(loose["plan_ms_p50"]),
        ])
    return head, lines


def _donut_estimates(rows: list[Row]) -> Table:
    head = ["clean estimate", "valid and in distribution", "points outside, of 2", "chamfer distance", "network rows", "ms"]
    return head, [
        [
            row["method"].removeprefix("jm2d, "), interval(row["valid_in_distribution"]), interval(row["violations"]),
            number(row["chamfer"], 3), _count(row["network_rows"]), _ms(row["plan_ms_p50"]),
        ]
        for row in _titled(rows, "Donut, clean estimates")
    ]


def _donut_paths(rows: list[Row]) -> Table:
    found = _titled(rows, "Donut, paths")
    head, lines = _grid(
        found, lambda r: f"{interval(r['feasible'])}; {interval(r['length'])}",
        lambda c: f"{c.removeprefix('Fig. 2, ')}: feasible, length",
    )
    for line, by in zip(lines, _by_method(found).values(), strict=True):
        last = list(by.values())[-1]
        line += [_count(last["network_rows"]), _ms(last["plan_ms_p50"])]
    return [*head, "network rows", "ms"], lines


def _maze(metric: str, degraded: bool = False) -> Callable[[list[Row]], Table]:
    """A metric against the padding, or with ``degraded`` backups; with safe success the episodes, and how many met a wall."""

    def table(rows: list[Row]) -> Table:
        found = [row for row in _titled(rows, f"Point maze, {'degraded' if degraded else 'padded'}") if row[metric] is not None]
        head, lines = _grid(found, lambda r: interval(r[metric]) + _paper(r[f"paper_{metric}"]), _backup if degraded else str)
        if metric == "safe_success":
            for line, by in zip(lines, _by_method(found).values(), strict=True):
                line += [_range(row["n"] for row in by.values()), _met_a_wall(by.values())]
            head += ["n a cell", "met a wall"]
        return head, lines

    return table


def _backup(condition: str) -> str:
    """``original``, ``backups +x+y``."""
    return condition.split(", ")[1] if ", " in condition else "original"


def _maze_difference(metric: str) -> Callable[[list[Row]], Table]:
    """A metric less sequential's, over the episodes that both have played."""

    def table(rows: list[Row]) -> Table:
        found = [row for row in _titled(rows, "Point maze, padded") if f"difference_{metric}" in row]
        return _grid(found, lambda r: signed(r[f"difference_{metric}"]))

    return table


def _range(counts: Iterable[int]) -> str:
    own = sorted(set(counts))
    return str(own[0]) if len(own) == 1 else f"{own[0]}–{own[-1]}"


def _met_a_wall(rows: Iterable[Row]) -> str:
    found = list(rows)
    return f"{sum(round(r['violations']['mean'] * r['n']) for r in found)} of {_count(sum(r['n'] for r in found))}"


def _maze_samples(rows: list[Row]) -> Table:
    head = ["method", "safe success", "intervention", "horizon [s]", "n", "network rows"]
    return head, [
        [
            _FIG4.get(str(row["method"]), str(row["method"])), interval(row["safe_success"]), interval(row["intervention"]),
            interval(row["horizon_s"]), str(row["n"]), _count(row["network_rows"]),
        ]
        for row in _titled(rows, "Point maze, number of samples")
    ]


def _cost(start: str, *reached: str) -> Callable[[list[Row]], Table]:
    """Plan times of a part, and what the method ``reached`` there."""

    def table(rows: list[Row]) -> Table:
        head = ["method", "network rows", "one core [ms]", "two cores [ms]", *(name.replace("_", " ") for name in reached)]
        return head, [
            [
                row["method"], _count(row["network_rows"]), interval(row.get("plan_ms_1_core"), 1),
                interval(row.get("plan_ms_2_cores"), 1), *(interval(row.get(name)) for name in reached),
            ]
            for row in _titled(rows, f"{start}, cost")
        ]

    return table


def _avoiding_cell(row: Row) -> str:
    safe = interval(row["safe_success"]) + _paper(row.get("paper"))
    return f"{safe}; {number(row['violations'], 1)}" + _paper(row.get("paper_violations"), 1)


def _avoiding(estimates: bool) -> Callable[[list[Row]], Table]:
    """Methods against scenes; ``estimates``: A.2's rows instead."""

    def table(rows: list[Row]) -> Table:
        found = [
            row for row in rows if row["task"] == "avoiding" and row["condition"] in _SCENES
            and (row["method"].startswith("jm2d, ") == estimates or (estimates and row["method"] in _WHOLE))
        ]
        head, lines = _grid(found, _avoiding_cell, lambda c: f"`{c}`")
        for line, by in zip(lines, _by_method(found).values(), strict=True):
            own = list(by.values())
            line[0] = _WHOLE.get(line[0], line[0].removeprefix("jm2d, ")) if estimates else line[0]
            line += [_range(row["n"] for row in own), _count(sum(row["network_rows"] for row in own) / len(own))]
            line.append(_ms(sum(row["plan_ms_p50"] for row in own) / len(own)))
        return [*head, "n", "rows a plan", "ms"], lines

    return table


def _avoiding_free(rows: list[Row]) -> Table:
    return ["method", "task success", "ways, of 24", "most frequent way", "n"], [
        [row["method"], interval(row["task_success"]), row["ways"].split(" ")[0], number(row["way_share"]), str(row["n"])]
        for row in rows if row["task"] == "avoiding" and row["condition"] == "free"
    ]


def _avoiding_direct(rows: list[Row]) -> Table:
    return ["method", "safe success (DiRecT's safety rate)", "violations", "n"], [
        [row["method"], interval(row["safe_success"]) + _paper(row.get("paper")), interval(row["violations"]), str(row["n"])]
        for row in rows if row["task"] == "avoiding" and row["condition"] == "direct"
    ]


def _coupling(rows: list[Row]) -> Table:
    names = ("sequential", "best_of_n", "gibbs", "jm2d", "steered")
    ours = ["sequential (16 or 25 rows)", "best of N", "Gibbs", "JM2D", "steering"]
    head = ["problem", "metric", *ours, "best", "within its interval"]
    return head, [
        [
            f"{row['task']}, {row['condition'].removeprefix('Fig. 2, ')}", row["metric"].replace("_", " "),
            *(interval(row[name]) for name in names), row["best"], row["within_its_interval"] or "–",
        ]
        for row in _titled(rows, jm2d_coupling.TITLE)
    ]


#: what the short tables show, and what they call it
_BRIEF_MAZE = {
    "jm2d": "JM2D (paper)", "jm2d_archive": "JM2D with archive", "jm2d_archive_544": "the same, an eighth of the rows",
    "best_of_n_512": "best of 512 samples, an eighth of the rows", "rail": "RAIL (paper)",
}
_BRIEF_AVOIDING = {
    "jm2d_tight": "JM2D, tightened by 10 mm (paper)", "jm2d": "JM2D, not tightened",
    "jm2d_tight-hold": "JM2D, tightened, every chunk played",
    "best_of_32_tight": "32 samples, those that keep 10 mm first", "steered_tight": "steering, tightened by 10 mm",
    "jm2d_tight+rest": "JM2D, tightened, the motion to rest in V", "best_of_32_tight+rest": "32 samples, the same",
    "steered_tight+rest": "steering, the same",
    "steered_tight+rest_first": "steering, tightened, the motion to rest first, else V alone",
    "best_of_32": "32 samples with rejection", "steered": "steering", "best_of_1": "one sample, judged and held",
    "best_of_32+ahead": "32 samples that know pillars and way", "steered+ahead": "steering with the same knowledge",
    "dpcc_t_tightened": "DPCC-T, tightened (paper)", "mpd_tweedie": "MPD at Tweedie's mean", "mpd_tweedie+hold": "the same, held",
    "mpd": "MPD (paper)", "safediffuser": "SafeDiffuser (paper)", "policy": "plain policy",
}


def _brief_maze(rows: list[Row]) -> Table:
    found = _by_method(_titled(rows, "Point maze, padded"))
    conditions = list(dict.fromkeys(row["condition"] for row in _titled(rows, "Point maze, padded")))
    lines = []
    for metric, title in (("safe_success", "safe success"), ("intervention", "under the backup")):
        for method, label in _BRIEF_MAZE.items():
            if method in found:
                cells = [found[method].get(c) for c in conditions]
                lines.append([
                    f"{title}: {label}", *("–" if r is None else number(r[metric]) + _paper(r[f"paper_{metric}"]) for r in cells)
                ])
    return ["", *conditions], lines


def _brief_avoiding(rows: list[Row]) -> Table:
    found = _by_method([row for row in rows if row["task"] == "avoiding" and row["condition"] in _SCENES])
    lines = []
    for method, label in _BRIEF_AVOIDING.items():
        if method in found:
            own = [found[method].get(c) for c in _SCENES]
            played = [r for r in own if r is not None]
            cells = ["–" if r is None else number(r["safe_success"]) + ("(paper)" in label) * _paper(r.get("paper")) for r in own]
            count = _count(sum(r["network_rows"] for r in played) / len(played))
            lines.append([label, *cells, count, _range(r["n"] for r in played)])
    return ["safe success", *(f"`{c}`" for c in _SCENES), "rows a plan", "n"], lines


TABLES: dict[str, Callable[[list[Row]], Table]] = {
    "donut": _donut, "donut-estimates": _donut_estimates, "donut-paths": _donut_paths, "donut-cost": _cost("Donut"),
    "maze-success": _maze("safe_success"), "maze-intervention": _maze("intervention"), "maze-horizon": _maze("horizon_s"),
    "maze-less-intervention": _maze_difference("intervention"), "maze-less-horizon": _maze_difference("horizon_s"),
    "maze-degraded": _maze("safe_success", degraded=True), "maze-degraded-intervention": _maze("intervention", degraded=True),
    "maze-degraded-horizon": _maze("horizon_s", degraded=True),
    "maze-samples": _maze_samples, "maze-cost": _cost("Point maze", "safe_success", "intervention"),
    "avoiding-free": _avoiding_free, "avoiding": _avoiding(False), "avoiding-estimates": _avoiding(True),
    "avoiding-direct": _avoiding_direct, "avoiding-cost": _cost("Avoiding", "safe_success"), "coupling": _coupling,
    "brief-maze": _brief_maze, "brief-avoiding": _brief_avoiding,
}
