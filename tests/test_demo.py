"""The demo's evidence: real photographs, and masks that say where they were changed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage")

from demo.make_evidence import exhibits, main


def test_masks_mark_the_pasted_pixels() -> None:
    made = exhibits()
    assert [e.name[:2] for e in made] == [f"{n:02}" for n in range(1, len(made) + 1)]
    assert sum(e.mask is not None for e in made) == 4
    for exhibit in made:
        image = Image.open(io.BytesIO(exhibit.content))
        assert image.format == {".jpg": "JPEG", ".png": "PNG"}[Path(exhibit.name).suffix]
        assert min(image.size) >= 300
        if exhibit.mask is not None:
            assert exhibit.mask.shape == image.size[::-1]
            assert 0.05 < exhibit.mask.mean() < 0.25


def test_the_same_files_every_time() -> None:
    assert [e.content for e in exhibits()] == [e.content for e in exhibits()]


def test_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(tmp_path / "deep" / "out")
    evidence = sorted(p.name for p in (tmp_path / "deep" / "out" / "evidence").iterdir())
    truth = tmp_path / "deep" / "out" / "truth"
    assert len(evidence) == 10
    assert all(name in (truth / "README.md").read_text() for name in evidence)
    assert np.asarray(Image.open(truth / "07_spliced_motorcycle_mask.png")).any()
    assert "10 files" in capsys.readouterr().out
