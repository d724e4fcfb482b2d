"""What 10-bit PQ video loses, for its pictures are coded from 8 bits: decoded to 8 bits, and to 10.

    python benchmarks/hdr.py ref_1.png current.png ref_2.png [--quality 40 70 95]

Makes a clip of PQ and BT.2020, 10 bits, 4:2:0, of photographs in order of time: in linear light, halved in size, white
at 1000 cd/m². The upper third becomes a smooth sky. Prints the bits per pixel, the PSNR of the 10-bit code values of
luma, of the picture and of the sky, and how many code values the sky has from top to bottom.
"""

import argparse
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from bsqcodec.file_decoder import decode_file
from bsqcodec.file_encoder import encode_file
from bsqcodec.media import colour

TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
SKY = (np.array([30.0, 60, 140]), np.array([300.0, 200, 120]))  # cd/m² at the top and at the bottom
WHITE, PEAK = 1000, 10_000  # cd/m²


def pq(light: np.ndarray) -> np.ndarray:
    """Code values 0..1 of luminances in cd/m² (SMPTE ST 2084)."""
    y = (light / PEAK) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def frame(path: Path) -> np.ndarray:
    """uint16 (H, W, 3) of 10 bits."""
    v = np.asarray(Image.open(path).convert("RGB")) / 255
    light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    light = light[: len(light) // 4 * 4, : light.shape[1] // 4 * 4]
    light = light.reshape(len(light) // 2, 2, light.shape[1] // 2, 2, 3).mean((1, 3)) @ TO_BT2020.T
    picture = pq(WHITE * light.clip(0, 1))
    rows = len(picture) // 3
    picture[:rows] = np.linspace(pq(SKY[0]), pq(SKY[1]), rows)[:, None]
    return np.rint(1023 * picture).astype(np.uint16)


def luma(path: Path) -> np.ndarray:
    """Code values of 10 bits, (frames, H, W)."""
    with av.open(str(path)) as file:
        planes = []
        for picture in file.decode(video=0):
            bits = colour.bits_of(picture.format)
            values = np.frombuffer(colour.samples(picture), np.uint8 if bits == 8 else np.uint16)
            here = values[: picture.height * picture.width].reshape(picture.height, -1)
            planes.append(here.astype(float) * 2 ** (10 - bits))
    return np.stack(planes)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(20 * np.log10(1023) - 10 * np.log10(np.mean((a - b) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--quality", nargs="+", type=int, default=[40, 70, 95])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = [frame(path) for path in options.files]
        height, width, _ = frames[0].shape
        with av.open(str(folder / "pq.mkv"), "w") as output:
            stream = output.add_stream("ffv1", Fraction(25), width=width, height=height, pix_fmt="yuv420p10le")
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 16, 9, 1
            for picture in frames:
                output.mux(stream.encode(colour.to_deep_yuv(picture, 10, "yuv420p10le", colour.BT2020)))
            output.mux(stream.encode(None))
        source, sky = luma(folder / "pq.mkv"), slice(8, height // 3 - 8)
        print("| quality | bits per pixel | decoded to | PSNR | PSNR of the sky | code values of the sky |")
        print("|---" * 6 + "|")
        print(f"| source | | 10 | | | {len(np.unique(source[:, sky]))} |")
        for quality in options.quality:
            encoded = encode_file(str(folder / "pq.mkv"), str(folder / "a.bsq"), quality=quality, force=True)
            rate = 8 * encoded.size / (len(frames) * height * width)
            for depth in (8, 10):
                decode_file(str(folder / "a.bsq"), str(folder / "a.y4m"), depth=depth, force=True)
                found = luma(folder / "a.y4m")
                figures = f"{psnr(found, source):.2f} | {psnr(found[:, sky], source[:, sky]):.2f}"
                print(f"| {quality} | {rate:.3f} | {depth} | {figures} | {len(np.unique(found[:, sky]))} |")


if __name__ == "__main__":
    main()
