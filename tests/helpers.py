"""What several tests need: networks with random weights, short clips and sounds, streams without a model.

Networks with random weights of a realistic scale exercise every layer, unlike freshly made ones.
"""

import io
import math
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from skimage import data as skdata

from bsqcodec.__main__ import main
from bsqcodec.media import open_sink, open_source
from bsqcodec.network.config import ModelConfig
from bsqcodec.network.export import integers
from bsqcodec.network.initialise import initialise
from bsqcodec.network.network import Network
from bsqcodec.network.objective import Objective
from bsqcodec.network.tokenizer import Condition, Context
from bsqcodec.network.unrounded import Unrounded
from bsqcodec.network.unrounded_layers import Mat, Norm
from bsqcodec.network.weights import Model
from bsqcodec.stream.container import StreamWriter
from bsqcodec.stream.fields import Fields, varint
from bsqcodec.types import Frame, MediaInfo, Packet, Track

TINY = ModelConfig(
    name="tiny", fine_width=18, fine_blocks=1, width=36, blocks=1, prior_width=32, prior_blocks=1, prior_head=32
)


def random_network(config: ModelConfig = TINY) -> Unrounded:
    """A network with the 16x16 DCT as its transform; what its blocks add to a picture is noise, but not much."""
    generator = torch.Generator().manual_seed(1)
    network = Unrounded(config)
    initialise(network, *_cosines())
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, Norm):
                module.w.copy_(0.4 + 0.1 * torch.randn(module.w.shape, generator=generator))
            elif isinstance(module, Mat):
                small = 0.1 if name in ("e_out", "d_out") or name.startswith("p_out") else 1.0
                w = module.w
                w.copy_(small * torch.randn(w.shape, generator=generator) * w.shape[1] ** -0.5)
        for name, p in network.named_parameters():
            if name.endswith((".bias", "p_phase")):
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return network.requires_grad_(False)


def _cosines() -> tuple[torch.Tensor, torch.Tensor]:
    """A basis for `initialise`, one column per coefficient, and variances as of photographs, in falling order."""
    i = torch.arange(16)
    dct = torch.cos(math.pi * (i + 0.5) * i[:, None] / 16) * torch.where(i == 0, 0.25, 8**-0.5)[:, None]
    colours = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]])
    colours /= colours.norm(dim=1, keepdim=True)
    basis = torch.einsum("pc,ia,jb->pijcab", colours, dct, dct).reshape(768, 768)
    radius = (i[:, None] ** 2 + i**2).sqrt()
    power = torch.tensor([1.0, 0.1, 0.03])[:, None, None] * 4e5 / (1 + radius) ** 3
    variance, order = power.flatten().sort(descending=True)
    return basis[order].T.contiguous(), variance


def random_model(config: ModelConfig = TINY, name: str = "tiny", device: str | torch.device = "cpu") -> Model:
    """A model of `random_network`."""
    return Model(config, integers(random_network(config)), Objective(), name, device)


CONDITIONS = [Condition(0, 40, 0), Condition(1, 37, 1), Condition(2, 90, 0)]


def random_frame(
    network: Network, condition: Condition, rows: int, columns: int, seed: int = 0
) -> tuple[Context, torch.Tensor]:
    """Context and coefficients of a frame of noise, of so many tokens; the left half of its prediction is dull."""
    g = torch.Generator().manual_seed(seed)
    prediction = classes = None
    if condition.frame_type:
        prediction = torch.randint(0, 256, (1, 3, 16 * rows, 16 * columns), generator=g)
        prediction[..., : 8 * columns] = prediction[..., : 8 * columns] // 32 + 100
    else:
        classes = torch.randint(-3, 4, (1, rows, columns), generator=g)
    spread = torch.exp(4 * torch.rand(1, rows, columns, network.n_coded(condition.quality), generator=g) ** 4)
    y = (torch.randn(spread.shape, generator=g) * spread).round().to(torch.int32)
    return network.context(condition, prediction, classes), y


def half_up(x: Fraction) -> int:
    """Round to the nearest integer, halves upwards."""
    return math.floor(x + Fraction(1, 2))


def as_batch(rgb: np.ndarray) -> torch.Tensor:
    """A picture, uint8 (height, width, 3), as networks take it, float32 (1, 3, height, width)."""
    return torch.from_numpy(rgb.transpose(2, 0, 1)[None].copy()).float()


def exit_status(*words: str | int | float | PathLike) -> int:
    """Exit status of the command line `bsqcodec WORDS`, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bsqcodec", *map(str, words)])
        try:
            main()
        except SystemExit as e:
            return int(e.code or 0)
    return 0


def photo(height: int, width: int, top: int = 100, left: int = 150) -> np.ndarray:
    """A crop of a photograph of 512x512 pixels, uint8 (height, width, 3)."""
    crop = skdata.astronaut()[top : top + height, left : left + width]
    assert crop.shape == (height, width, 3), "the crop reaches beyond the photograph"
    return np.ascontiguousarray(crop)


def moving(
    frames: int,
    height: int = 48,
    width: int = 64,
    top: int = 100,
    left: int = 150,
    step: tuple[int, int] = (2, 3),
) -> np.ndarray:
    """Crops of a photograph along a path of `step` (down, right) per frame, uint8 (frames, height, width, 3)."""
    down, right = step
    return np.stack([photo(height, width, top + down * t, left + right * t) for t in range(frames)])


def psnr(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two pictures or clips of one shape, values 0..255, tensors on the CPU."""
    assert a.shape == b.shape
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else math.inf


def same_pictures(found: Iterable[np.ndarray], expected: Iterable[np.ndarray]) -> bool:
    """Whether two series have equally many pictures, and equal ones."""
    found, expected = list(found), list(expected)
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def write_video(
    path: str | Path,
    frames: np.ndarray,
    pts: Sequence[int] | None = None,
    rate: int = 25,
    audio: bool = False,
    **attributes: object,
) -> None:
    """An H.264 video, 4:4:4, with half a second of AAC sound if asked for.

    frames: uint8 (n, height, width, 3); pts: their times in ms [default: `rate` frames per second]; attributes: those
    of the codec context of the video.
    """
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=rate, options={"crf": "10"})
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv444p"
        video.codec_context.time_base = Fraction(1, 1000) if pts else Fraction(1, rate)
        for name, value in attributes.items():
            setattr(video.codec_context, name, value)
        packets = []
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = pts[i] if pts else i
            picture.time_base = video.codec_context.time_base
            packets += video.encode(picture)
        packets += video.encode(None)
        if audio:
            sound = out.add_stream("aac", rate=48000, layout="mono")
            tone = (np.sin(np.arange(48000) / 20) * 0.3).astype(np.float32)[None]
            for n in range(0, 24 * 1024, 1024):
                part = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, n : n + 1024]), "fltp", "mono")
                part.sample_rate, part.pts = 48000, n
                packets += sound.encode(part)
            packets += sound.encode(None)
        for packet in packets:
            out.mux(packet)


MODEL = bytes(range(8))
TRACK = Track("aac", Fraction(1, 48000), 48000, "stereo", b"\x11\x90")
INFO = MediaInfo(
    *(417, 233, Fraction(1, 90000), Fraction(30000, 1001), (4, 3), 270, 9, 1, 6, 1),
    tracks=(TRACK,),
)
PACKETS = [Packet(-1024, 1024, b"one"), Packet(0, 1024, b""), Packet(2000, 1, b"three")]
GOPS = [((-5, 3003, 6006), b"payload"), ((6010,), b""), ((9000, 9001, 9500), b"x" * 300)]


def checked(head: bytes) -> bytes:
    """Bytes followed by their checksum, as headers and chunks are."""
    return head + struct.pack("<I", zlib.crc32(head))


def stream(
    info: MediaInfo = INFO,
    gops: Iterable[tuple[Sequence[int], bytes]] = GOPS,
    other: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A stream of the model MODEL, with PACKETS after each group if `info` has sound.

    gops: times and payload of each group; other: chunks, type and body, before each group and before the end.
    """
    file = io.BytesIO()
    writer = StreamWriter(file, MODEL, info)
    for pts, payload in gops:
        for chunk in other:
            writer._chunk(*chunk)
        writer.gop(list(pts), payload)
        if info.tracks:
            writer.packets(PACKETS)
    for chunk in other:
        writer._chunk(*chunk)
    writer.close()
    assert writer.size == len(file.getvalue())
    return file.getvalue()


class Pipe(io.RawIOBase):
    """A file that gives its bytes once, as a pipe does, and at most `part` of them at a time."""

    def __init__(self, data: bytes, part: int = 1 << 20):
        self.inner, self.part = io.BytesIO(data), part

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.inner.read(min(len(buffer), self.part))
        buffer[: len(data)] = data
        return len(data)


def with_fields(change: Callable[[list[int]], list[int]], more: bytes = b"", info: MediaInfo = INFO) -> bytes:
    """A stream whose header has other fields: `change` takes and gives those that are numbers; `more` follows them."""
    data = stream(info)
    fields, numbers = Fields(data[14 : 6 + data[5]]), []
    while fields.rest():
        numbers.append(fields.varint())
    body = MODEL + b"".join(map(varint, change(numbers))) + more
    return checked(data[:5] + bytes([len(body)]) + body) + data[10 + data[5] :]


CLIP = MediaInfo(48, 32, Fraction(1, 25), Fraction(25), (1, 1))


def waves(count: int = 6, width: int = 48, height: int = 32) -> list[np.ndarray]:
    """Smooth, saturated colours that move, with a white corner that shows how the picture lies; uint8 (H, W, 3)."""
    x, y = np.arange(width)[None], np.arange(height)[:, None]
    result = []
    for i in range(count):
        colours = [np.sin((x + 3 * i) / 9 + c) * np.cos(y / 7 - c) + 0 * x for c in range(3)]
        rgb = np.stack([128 + 110 * w for w in colours], 2)
        rgb[: height // 4, : width // 4] = 255
        result.append(rgb.astype(np.uint8))
    return result


def write_media(
    path: str | Path,
    frames: Sequence[np.ndarray],
    info: MediaInfo = CLIP,
    times: Sequence[int] | None = None,
    audio: Iterable[Packet] = (),
    **options: Any,
) -> None:
    """Write frames, uint8 (H, W, 3) each, and packets of sound by `open_sink`."""
    info = replace(info, width=frames[0].shape[1], height=frames[0].shape[0])
    with open_sink(str(path), info, **options) as sink:
        for packet in audio:
            sink.write_packet(packet)
        for i, frame in enumerate(frames):
            sink.write(frame, times[i] if times else i)


def read_media(path: str | Path, **options: Any) -> tuple[MediaInfo, list[Frame], list[Packet]]:
    """Everything that `open_source` gives: the MediaInfo, the frames, the packets of sound."""
    with open_source(str(path), **options) as source:
        items = list(source)
    frames = [item for item in items if isinstance(item, Frame)]
    return source.info, frames, [item for item in items if isinstance(item, Packet)]


def mean_error(a: ArrayLike, b: ArrayLike) -> float:
    """Mean absolute difference of the values of two pictures."""
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


def sound(codec: str = "aac", container: str = "mp4", seconds: float = 0.5) -> tuple[Track, list[Packet]]:
    """A sine, encoded by FFmpeg, as it is read back from its file: the track and its packets."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(codec, 48000)  # of a type that depends on the codec
        stream.codec_context.options = {"strict": "experimental"}
        stream.layout = "stereo"
        sine = 0.3 * np.sin(np.arange(int(48000 * seconds)) / 20)
        frame = av.AudioFrame.from_ndarray(np.stack([sine, -sine]).astype(np.float32), "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        output.mux(stream.encode(frame) + stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as source:
        stream = source.streams.audio[0]
        context = stream.codec_context
        header = bytes(context.extradata or b"")
        track = Track(context.codec.canonical_name, stream.time_base, 48000, "stereo", header)
        packets: list[Any] = [packet for packet in source.demux(stream) if packet.size]  # all of these have times
        return track, [Packet(p.pts, p.duration, bytes(p)) for p in packets]


def encode_by_ffmpeg(
    path: str | Path, codec: str, pixel_format: str, frames: int = 3, width: int = 48, **tags: object
) -> None:
    """A video of `waves` that are somewhat transparent, if the pixel format can hold that."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, 25)  # of a type that depends on the codec
        stream.width, stream.height, stream.pix_fmt = width, 32, pixel_format
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for picture in waves(frames, width):
            rgba = np.dstack([picture, np.full(picture.shape[:2], 200, np.uint8)])
            frame = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format=pixel_format)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
