"""The report of one episode: a folder with ``index.html``, pictures, plots, an animation, ``summary.json`` and the record itself.

The page needs nothing from elsewhere: it can be opened from disk, sent as a folder, or published as it is.
"""

from __future__ import annotations

import html
import json
import logging
import math
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from tandem.bench import pictures, plots
from tandem.bench.record import EpisodeRecord, PlanRecord, summary, verdict

log = logging.getLogger(__name__)
Image = NDArray[np.uint8]


def write(record: EpisodeRecord, folder: Path, *, render: bool = True, files: dict[str, str] | None = None) -> dict[str, Any]:
    """Write the report of ``record`` into ``folder`` and return the summary.

    Args:
        render: pictures that need OpenGL; without, the page says so.
        files: further files in ``folder`` to list: name -> what it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record.save(folder / "record")
    figures = summary(record)
    (folder / "summary.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sections = []
    if render and len(record.time):
        sections += _rendered(record, folder)
    elif len(record.time):
        sections.append("<p>Without pictures of the scene: this machine could not draw them.</p>")
    sections += [_plots(record, folder, render), _plans(record), _audit(record), _files(files or {})]
    page = Template(resources.files("tandem.bench").joinpath("report.html").read_text(encoding="utf-8"))
    audited = figures.get("audit_passed") is not False  # None: a run that has no recording to audit
    good = bool(figures["safe_success"]) and audited
    (folder / "index.html").write_text(
        page.substitute(
            title=html.escape(f"Tandem: {verdict(record)}"), verdict=html.escape(verdict(record)),
            badge="good" if good else "bad", badge_text="success" if good else "not a success" if audited else "audit failed",
            subtitle=_subtitle(record), tiles=_tiles(figures), body="\n".join(s for s in sections if s),
        ),
        encoding="utf-8",
    )
    return figures


def _subtitle(record: EpisodeRecord) -> str:
    names = {"task": "task", "method": "sampler", "scene": "scene", "seed": "seed", "source": "run as"}
    known = [f"{label} <code>{html.escape(str(record.meta[key]))}</code>" for key, label in names.items() if key in record.meta]
    return ", ".join(known)


def _number(value: Any, unit: str = "", digits: int = 0, scale: float = 1.0) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{scale * float(value):.{digits}f}{unit}"


def _tiles(f: dict[str, Any]) -> str:
    tiles = [
        (_number(f["contacts"]), "contacts with obstacles, table, itself"),
        (f"{f['certified']} / {f['plans']}", "plans certified"),
        (_number(f["intervention"], " %", 0, 100.0), "of the time under backup"),
        (_number(f["least_certified_clearance"], " mm", 1, 1e3), "least certified clearance"),
        (_number(f["episode_s"], " s", 1), "episode"),
        (_number(f["rtf"], "", 2), "real-time factor"),
        (f"{_number(f['plan_ms_p50'])} / {_number(f['plan_ms_p95'])}", "ms a plan, median / 95 %"),
        (f"{_number(f['certify_ms_p50'], '', 1)} / {_number(f['certify_ms_p95'], '', 1)}", "ms to certify, median / 95 %"),
        (_number(f["mug_lift"], " mm", 0, 1e3), "mug lifted by"),
    ]
    return "\n".join(f'<div class="tile"><b>{value}</b><span>{html.escape(text)}</span></div>' for value, text in tiles)


def _save_image(image: Image, path: Path) -> None:
    Pillow.fromarray(image).save(path, "WEBP", quality=88, method=4)


def _figure(name: str, caption: str, alt: str) -> str:
    return (
        f'<figure><img src="{name}" alt="{html.escape(alt)}" loading="lazy">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _css(colour: pictures.Colour) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in colour[:3])


def _legend(plan: PlanRecord) -> str:
    feasible = sum(c.feasible and not c.chosen for c in plan.candidates)
    infeasible = sum(not c.feasible and not c.chosen for c in plan.candidates)
    rows = [
        (pictures.FEASIBLE, f"feasible ({feasible})"), (pictures.INFEASIBLE, f"infeasible ({infeasible})"),
        (pictures.CHOSEN, "chosen"), (pictures.BACKUP, "its backup: brakes to rest"),
    ]
    return '<ul class="key">' + "".join(f'<li><i style="background:{_css(c)}"></i>{text}</li>' for c, text in rows) + "</ul>"


def _rendered(record: EpisodeRecord, folder: Path) -> list[str]:
    """Animation, camera view, and the telling plan from several sides."""
    sections = []
    with pictures.Stage(record, 640, 480) as stage:
        pictures.animation(stage, folder / "episode.webp")
    top = [_figure("episode.webp", "The episode in real time, with the plan in force.", "animation of the arm")]
    camera = pictures.camera_picture(record)
    if camera is not None:
        _save_image(camera[0], folder / "camera.webp")
        top.append(_figure("camera.webp", f"What the camera sees: {camera[1]}.", "camera image with detected markers"))
    sections.append('<h2>The episode</h2><div class="grid">' + "".join(top) + "</div>")
    choice = pictures.telling_plan(record.plans)
    if choice is not None:
        plan = record.plans[choice]
        with pictures.Stage(record, 960, 720) as stage:
            shots = pictures.plan_pictures(stage, plan)
        cells = []
        for name, image in shots.items():
            _save_image(image, folder / f"plan-{name}.webp")
            cells.append(_figure(f"plan-{name}.webp", name.capitalize(), f"sampled plans, {name}"))
        word = html.escape(plan.verdict or plan.reason)
        text = f"Plan {choice + 1} of {len(record.plans)}, made at {plan.time:.1f} s: {word}. "
        text += "Every sampled way of the fingertips; fainter where something stands in front of it."
        sections.append(f'<h2>Candidates</h2><p>{text}</p>{_legend(plan)}<div class="grid">' + "".join(cells) + "</div>")
    return sections


def _plots(record: EpisodeRecord, folder: Path, render: bool) -> str:
    if not len(record.time):
        return ""
    draws: dict[str, tuple[str, Any]] = {}
    if render and record.scene.obstacles:
        with pictures.Stage(record, 64, 48) as stage:
            times, distance = stage.clearance()
        draws["clearance"] = ("Clearance", plots.clearance(record, times, distance))
    draws["timing"] = ("Planning and certification", lambda ax: plots.timing(ax, record))
    draws["joints"] = ("Joints (dashed: commanded)", lambda ax: plots.joints(ax, record))
    draws["tracking"] = ("Tracking", lambda ax: plots.tracking(ax, record))
    draws["gripper"] = ("Gripper and mug", lambda ax: plots.gripper(ax, record))
    cells = []
    for name, (title, draw) in draws.items():
        plots.save(folder / name, record, draw)
        cells.append(
            f"<figure><figcaption>{title}</figcaption><picture>"
            f'<source srcset="{name}-dark.svg" media="(prefers-color-scheme: dark)">'
            f'<img src="{name}-light.svg" alt="{title} over time" loading="lazy"></picture></figure>'
        )
    return '<h2>Over time</h2><div class="plots">' + "".join(cells) + "</div>"


def _plans(record: EpisodeRecord) -> str:
    head = ("#", "at [s]", "switch [s]", "plan [ms]", "certify [ms]", "clearance [mm]", "network rows", "potential")
    rows = []
    for i, p in enumerate(record.plans, start=1):
        cells = [
            str(i), f"{p.time:.2f}", f"{p.switch_time:.2f}", _number(p.plan_ms), _number(p.certify_ms, "", 1),
            _number(p.clearance, "", 1, 1e3), str(p.network_rows), str(p.potential_evals),
        ]
        word = html.escape(p.verdict or p.reason)
        row = "".join(f"<td>{c}</td>" for c in cells) + f'<td class="text">{word}</td>'
        rows.append(f'<tr class="{"yes" if p.certified else "no"}">{row}</tr>')
    heads = "".join(f"<th>{h}</th>" for h in head) + '<th class="text">verdict</th>'
    table = f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    return f"<h2>Plans</h2>{table}" if rows else ""


def _audit(record: EpisodeRecord) -> str:
    rows = record.meta.get("audit") or []
    items = "".join(f"<li>{html.escape(str(row))}</li>" for row in rows)
    return f"<h2>Audit of the recording</h2><ul>{items}</ul>" if items else ""


def _files(files: dict[str, str]) -> str:
    known = {
        "summary.json": "the figures above, for programs",
        "record/": "the whole episode: arrays (record.npz), plans (record.json), scene (scene.yaml)",
        **files,
    }
    rows = [(html.escape(name), html.escape(text)) for name, text in known.items()]
    items = "".join(f'<li><a href="{name}"><code>{name}</code></a> {text}</li>' for name, text in rows)
    return f"<h2>Files</h2><ul>{items}</ul>"
