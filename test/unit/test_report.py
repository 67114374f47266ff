"""Episode records come back as they went; a report is complete, self-contained and escapes what it shows."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from records import synthetic

from tandem.bench import pictures, plots, report
from tandem.bench.record import EpisodeRecord, summary, verdict
from tandem.cli import checks
from tandem.core.errors import InputError
from tandem.core.types import Candidate


@pytest.fixture(scope="module")
def record() -> EpisodeRecord:
    """A made-up episode without camera pictures."""
    return synthetic(seconds=2.0, render=False, plans=4)


def test_records_come_back_as_they_went(record: EpisodeRecord, tmp_path: Path) -> None:
    record.save(tmp_path)
    back = EpisodeRecord.load(tmp_path)
    assert summary(back) == summary(record)
    np.testing.assert_array_equal(back.q_measured, record.q_measured)
    assert back.mode.tolist() == record.mode.tolist()
    assert back.scene == record.scene
    ours, theirs = record.plans[0].candidates[-1], back.plans[0].candidates[-1]
    assert theirs.chosen and theirs.backup_path is not None
    np.testing.assert_allclose(theirs.path, ours.path, atol=1e-6)


def test_damaged_records_are_refused(record: EpisodeRecord, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an episode record"):
        EpisodeRecord.load(tmp_path)
    record.save(tmp_path)
    data = json.loads((tmp_path / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps({**data, "format": 99}))
    with pytest.raises(InputError, match="format = 99"):
        EpisodeRecord.load(tmp_path)
    with pytest.raises(InputError, match="width"):
        replace(record, width=np.zeros(3))


def test_the_summary_tells_contacts_and_rejections(record: EpisodeRecord) -> None:
    figures = summary(record)
    assert figures["safe_success"] and figures["certified"] == 3 and figures["plans"] == 4
    assert figures["rejected"] == {"collision not excluded": 1}
    assert json.dumps(figures)
    hit = replace(record, contacts={"robot-obstacle": 2, "finger-mug": 5})
    assert not summary(hit)["safe_success"] and summary(hit)["contacts"] == 2
    assert "2 contacts" in verdict(hit)
    helped = replace(record, meta={**record.meta, "operator_resumes": 2, "stopped_because": "joint 2"})
    assert "resumed by the operator 2 times" in verdict(helped) and summary(helped)["operator_resumes"] == 2
    assert "operator" not in verdict(record)


def test_an_empty_episode_has_a_summary_and_a_page(record: EpisodeRecord, tmp_path: Path) -> None:
    empty = EpisodeRecord(record.scene)
    figures = report.write(empty, tmp_path)
    assert figures["plan_ms_p50"] is None and figures["rtf"] is None
    assert "was not picked up" in (tmp_path / "index.html").read_text()


def test_an_episode_without_a_certified_plan_has_a_page(record: EpisodeRecord, tmp_path: Path) -> None:
    refused = replace(record, plans=[replace(p, certified=False, clearance=np.nan) for p in record.plans])
    plots.save(tmp_path / "clearance", refused, plots.clearance(refused, refused.time, np.full(len(refused.time), 0.1)))
    figures = report.write(replace(refused, plans=[]), tmp_path, render=False)
    assert figures["certified"] == 0 and figures["least_certified_clearance"] is None


def test_a_page_is_whole_and_shows_nothing_raw(record: EpisodeRecord, tmp_path: Path) -> None:
    nasty = replace(record, meta={**record.meta, "method": "<script>alert(1)</script>"})
    report.write(nasty, tmp_path, render=False, files={"launch.log": "what <the> nodes said"})
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page and "what &lt;the&gt; nodes said" in page
    assert "http" not in page, "nothing is fetched from elsewhere"
    for name in re.findall(r'(?:src|srcset)="([^"]+)"', page):
        assert (tmp_path / name).stat().st_size > 0, name
    assert json.loads((tmp_path / "summary.json").read_text())["task_success"] is True
    assert len(EpisodeRecord.load(tmp_path / "record").plans) == 4


def test_the_telling_plan_has_candidates_of_both_kinds(record: EpisodeRecord) -> None:
    plans = [replace(p) for p in record.plans]
    assert pictures.telling_plan([]) is None
    plans[0].candidates = [Candidate(c.path, True, 0.0) for c in plans[0].candidates]
    choice = pictures.telling_plan(plans)
    assert choice is not None and choice != 0 and plans[choice].certified


def test_hidden_parts_and_nan_do_not_break_drawing() -> None:
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels = np.array([[1.0, 1.0], [60.0, 40.0], [1e5, -1e5], [30.0, 20.0]])
    pictures._stroke(image, pixels, np.array([True, True, True, False]), pictures.CHOSEN, 1.0, 2)
    assert image.any()
    assert pictures._resample(np.full((4, 3), np.nan)).shape == (0, 3)
    line = pictures._resample(np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]]))
    np.testing.assert_allclose(line[[0, -1]], [[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]])


@pytest.mark.render
def test_a_report_with_pictures(tmp_path: Path) -> None:
    if not checks.working_gl()[0]:
        pytest.skip("no off-screen rendering here")
    report.write(synthetic(seconds=0.6, plans=2), tmp_path)
    page = (tmp_path / "index.html").read_text()
    for name in ("episode.webp", "camera.webp", "plan-overview.webp", "clearance-light.svg"):
        assert name in page and (tmp_path / name).stat().st_size > 500
    assert (tmp_path / "episode.webp").stat().st_size < 4_000_000
    assert "pose of the mug with a standard deviation" in page


def test_a_failed_audit_is_no_success(record: EpisodeRecord, tmp_path: Path) -> None:
    for passed, badge in ((True, "success"), (False, "audit failed")):
        meta = {**record.meta, "audit_passed": passed, "audit": ["FAILED: tracking: 5 < mrad"]}
        report.write(replace(record, meta=meta), tmp_path, render=False)
        page = (tmp_path / "index.html").read_text()
        assert f">{badge}</" in page and "FAILED: tracking: 5 &lt; mrad" in page
