"""The marker object file."""

from __future__ import annotations

import numpy as np
import pytest

from tandem.core.errors import ConfigError
from tandem.core.objects import load_object
from tandem.core.paths import config_file

MUG = config_file("objects", "mug.yaml")


def test_mug_markers_lie_on_the_faces_and_look_outward() -> None:
    mug = load_object(MUG)
    assert len(mug.markers) == 10 and len({m.id for m in mug.markers}) == 10
    for marker in mug.markers:
        normal, up = marker.pose[:3, 2], marker.pose[:3, 1]
        assert np.allclose(up, [0, 0, 1], atol=1e-6) and abs(normal[2]) < 1e-6
        assert marker.pose[:3, 3] @ normal == pytest.approx(mug.body.apothem, abs=0.001)
        assert normal @ [1, 0, 0] < 0.51, "the handle's face carries no marker"
        corners = marker.corners()
        assert corners[:, 2].min() > 0.0 and corners[:, 2].max() < mug.body.height
        assert np.allclose(np.cross(corners[1] - corners[0], corners[0] - corners[3]) / marker.size**2, normal, atol=1e-6)
        assert marker.size < mug.body.side
    assert mug.marker(49) is None


@pytest.mark.parametrize(("old", "new", "message"), [
    ("mass: 0.25", "mass: -1", "mass"), ("name: mug", "nmae: mug", "nmae"), ("DICT_4X4_50", "DICT_3X3", "DICT_4X4_50"),
    ("id: 0,", "id: 1,", "every id once"), ("id: 0,", "id: 77,", r"0 \.\. 49"), ("wall: 0.005", "wall: 0.04", "apothem"),
    ("high: 0.092", "high: 0.2", "handle"), ("{id: 0, size: 0.044,", "{id: 0, size: 0.001,", "size"),
    ("0.183012702, 0.183012702, 0.683012702, 0.683012702", "0, 0, 0, 0.5", "quaternion"), ("name: mug", "name: ''", "name"),
])
def test_errors_name_file_key_and_range(tmp_path, old: str, new: str, message: str) -> None:
    text = MUG.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_object(path)
    assert "bad.yaml" in str(caught.value)
