"""What the training code calls a compression is what stands in the file."""

from __future__ import annotations

import random

import numpy as np
import pytest
from material import photo

from jscan import jpegheader
from jscan.decode import decode
from jscan.jpegtables import standard_table
from train import compress
from train.compress import OTHER_ENCODERS, SUBSAMPLINGS, Compression

BGR = np.ascontiguousarray(photo()[100:230, 60:201, ::-1])  # 130 x 141
ENCODERS = ("opencv", "pillow", *OTHER_ENCODERS)


def tables_of(data: bytes) -> list[tuple[int, ...]]:
    return [c.table for c in jpegheader.parse(data).components]


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_writes_what_is_asked_for(encoder: str, subsampling: str) -> None:
    for qf in (35, 90):
        how = compress.standard(qf, subsampling, encoder)
        data = compress.encode(BGR, how)
        header = jpegheader.parse(data)
        assert tables_of(data) == [how.luma, how.chroma, how.chroma]
        assert header.subsampling == subsampling and (header.height, header.width) == (130, 141)
        assert how.luma == tuple(standard_table(qf).tolist()) and how.nearest_qf == qf
    # The pixels are those of the picture, its colours in order.
    assert np.abs(compress.decode(data).astype(int) - BGR).mean() < 8


@pytest.mark.parametrize("encoder", ["pillow", *OTHER_ENCODERS])
def test_tables_of_ones_own(encoder: str) -> None:
    luma, chroma = tuple(range(1, 65)), tuple(range(70, 6, -1))
    data = compress.encode(BGR, Compression(luma, chroma, "4:4:4", encoder, None))
    assert tables_of(data) == [luma, chroma, chroma]


def test_opencv_refuses_other_tables() -> None:
    with pytest.raises(ValueError, match="standard tables only"):
        compress.encode(BGR, Compression((1,) * 64, (1,) * 64, "4:2:0", "opencv", None))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_grey_pictures(encoder: str) -> None:
    how = compress.standard(80, encoder=encoder)
    data = compress.encode(np.ascontiguousarray(BGR[..., 1]), how)
    assert tables_of(data) == [how.luma]
    assert compress.decode(data, gray=True).shape == (130, 141)


def test_luma_is_what_jscan_decodes() -> None:
    """The Q1 network is trained on the luma that it is run on."""
    for subsampling in SUBSAMPLINGS:
        data = compress.encode(BGR, compress.standard(75, subsampling))
        assert np.array_equal(compress.decode(data, gray=True), decode(data, max_pixels=10**6, rgb=False).luma), (
            subsampling
        )


def test_what_cannot_be_decoded() -> None:
    with pytest.raises(ValueError, match="could not be decoded"):
        compress.decode(b"no image")


def test_draws() -> None:
    rng = random.Random(0)
    drawn = [compress.draw(rng, 60, 95, odd=0.3) for _ in range(300)]
    odd = [how for how in drawn if how.qf is None]
    assert 0.2 < len(odd) / len(drawn) < 0.4
    assert {how.subsampling for how in drawn} == set(SUBSAMPLINGS)
    assert {how.encoder for how in drawn} == set(ENCODERS)
    for how in drawn:
        assert len(how.luma) == len(how.chroma) == 64
        assert all(1 <= q <= 255 for q in how.luma + how.chroma)
        assert how.qf is None or 60 <= how.qf <= 95
        assert all(isinstance(q, int) for q in how.luma)
    assert all(how.encoder == "pillow" for how in odd)
    again = random.Random(0)
    assert [compress.draw(again, 60, 95, odd=0.3) for _ in range(300)] == drawn
    presets = [compress.draw(rng, 60, 95, odd=0, common=1).qf for _ in range(50)]
    assert set(presets) <= {60, 70, 75, 80, 85, 90, 92, 95}


def test_tables_of_cameras() -> None:
    for luma, chroma in compress.camera_tables():
        assert len(luma) == len(chroma) == 64 and min(luma.min(), chroma.min()) >= 1 and luma.max() <= 255
    assert len(compress.camera_tables()) > 10
