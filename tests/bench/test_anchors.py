"""The codecs that ours is compared with: what they encode decodes, and those that are missing are skipped."""

import io

import av
import pytest
from av.video.frame import PictureType

from bsqcodec.bench import anchors, metrics
from bsqcodec.bench.codec import BenchSettings
from bsqcodec.settings import EncodeSettings


@pytest.mark.parametrize("name", ["jpeg", "jpeg2000", "webp", "avif"])
def test_image_anchors(name, astronaut):
    (codec,), skipped = anchors.select([name], BenchSettings())
    assert not skipped and codec.options()
    points = codec.points[1], codec.points[-2]
    sizes, quality = [], []
    for point in points:
        chunks = codec.encode([astronaut[:100, :101]], 0, point)
        (decoded,) = codec.decode(chunks, 100, 101)
        sizes.append(len(chunks[0]))
        quality.append(metrics.psnr(astronaut[:100, :101], decoded))
    assert (sizes[0] < sizes[1]) == codec.rising
    assert (quality[0] < quality[1]) == codec.rising and min(quality) > 20


@pytest.mark.parametrize("name", ["h264", "hevc", "av1"])
@pytest.mark.parametrize("mode", ["low-delay", "random-access"])
def test_video_anchors(name, mode, astronaut):
    codec = anchors.CODECS[name](BenchSettings(EncodeSettings(gop=3), mode))
    if codec.missing():
        pytest.skip(codec.missing())
    frames = [astronaut[i : i + 71, i : i + 97] for i in range(6)]  # odd sizes
    chunks = codec.encode(iter(frames), 25, 24)
    decoded = list(codec.decode(chunks, 71, 97))
    assert len(decoded) == 6 and decoded[0].shape == (71, 97, 3)
    assert metrics.psnr(frames[0], decoded[0]) > 26 and metrics.psnr(frames[5], decoded[5]) > 26
    with av.open(io.BytesIO(chunks[0]), format=codec.format) as container:
        pictures = list(container.decode(video=0))
    kinds = [PictureType(p.pict_type).name for p in pictures]
    if mode == "low-delay":
        assert kinds == ["I", "P", "P"] * 2
    for word in (b"x264", b"x265"):
        assert word not in chunks[0]


def test_codec_that_is_missing_is_skipped(monkeypatch):
    monkeypatch.setattr(anchors.H264, "encoder", "libnothing")
    chosen, skipped = anchors.select(["h264", "jpeg"], BenchSettings())
    assert [c.name for c in chosen] == ["jpeg"]
    assert skipped == ["codec h264 skipped: this FFmpeg build has no libnothing"]
    _, skipped = anchors.select(["av1"], BenchSettings(pixel_format="yuv444p"))
    assert skipped == ["codec av1 skipped: libsvtav1 cannot encode yuv444p"] or "no libsvtav1" in skipped[0]
