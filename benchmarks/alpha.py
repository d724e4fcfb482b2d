"""Bytes and errors of alpha, ours against WebP's and AVIF's, of made shapes of 1920x1080 and of a cut-out photograph.

    python benchmarks/alpha.py [PHOTO]

prints a table: of each shape and codec the quality, the bytes of its alpha, its mean and largest error, and of ours the
method (1 gray video, 2 values) and the seconds of CPU time to encode and decode it. Bytes of the others are what their
file grows by where a gray picture gets this alpha. With a photograph follows the share that its cut-out's alpha has.
"""

import io
import sys
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from bsqcodec.gop.alpha import AlphaEncoder, decode_alpha, fill_transparent
from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.network.weights import load_model
from bsqcodec.settings import EncodeSettings

SIZE = 1920, 1080
QUALITIES = 20, 40, 60, 80
TEXT = "The quick brown fox jumps over the lazy dog, 0123456789 times."


def outline(size: tuple[int, int], seed: int) -> list[tuple[float, float]]:
    """A closed curve that fills the middle of a picture."""
    rng, t = np.random.default_rng(seed), np.linspace(0, 2 * np.pi, 400)
    waves = sum(rng.uniform(0, 0.3 / n) * np.sin(n * t + rng.uniform(0, 6)) for n in range(2, 12))
    radius = 0.38 * size[1] * (1 + waves)
    return list(zip(size[0] / 2 + radius * np.cos(t), size[1] / 2 + radius * np.sin(t), strict=True))


def drawn(what: str, scale: int) -> Image.Image:
    """White text or curves on black, each side `scale` times as large."""
    picture = Image.new("L", (SIZE[0] * scale, SIZE[1] * scale))
    draw = ImageDraw.Draw(picture)
    if what == "text":
        draw.fontmode = "1"
        for row in range(12):
            font = ImageFont.load_default((30 + 2 * row) * scale)
            draw.text((40 * scale, (30 + 85 * row) * scale), TEXT[row:], fill=255, font=font)
    else:
        draw.polygon([(x * scale, y * scale) for x, y in outline(SIZE, 1)], fill=255)
    return picture


def shapes() -> Iterator[tuple[str, np.ndarray]]:
    """Names and alpha planes, uint8."""
    for what in ("text", "curve"):
        yield f"{what}, hard", np.asarray(drawn(what, 1))
        yield f"{what}, antialiased", np.asarray(drawn(what, 8).resize(SIZE, Image.Resampling.BOX))
    soft = drawn("curve", 1)
    yield "curve, 30 pixels soft", np.asarray(soft.filter(ImageFilter.GaussianBlur(15)))
    shadow = np.roll(np.asarray(soft.filter(ImageFilter.GaussianBlur(30))), (25, 25), (0, 1)) // 2
    yield "curve with shadow", np.maximum(drawn("curve", 8).resize(SIZE, Image.Resampling.BOX), shadow)


def ours(alpha: np.ndarray, quality: int) -> str:
    encoder, start = (
        AlphaEncoder(load_model("bsq1"), *alpha.shape, EncodeSettings(quality=quality)),
        time.process_time(),
    )
    encoder.push(alpha)
    body, _ = encoder.finish()
    middle = time.process_time()
    (decoded,) = decode_alpha(load_model("bsq1"), body, *alpha.shape, 1)
    seconds = middle - start, time.process_time() - middle
    return f"{len(body)} | {errors(decoded, alpha)} | {body[0]}; {seconds[0]:.2f} {seconds[1]:.2f}"


def others(format: str, alpha: np.ndarray, quality: int) -> str:
    gray = np.full((*alpha.shape, 3), 128, np.uint8)
    sizes = []
    for picture in (gray, np.dstack([gray, alpha])):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format, quality=quality, alpha_quality=quality)
        sizes.append(file.tell())
    decoded = np.asarray(Image.open(file).convert("RGBA"))[..., 3]
    return f"{sizes[1] - sizes[0]} | {errors(decoded, alpha)} |"


def errors(decoded: np.ndarray, alpha: np.ndarray) -> str:
    off = np.abs(decoded.astype(int) - alpha)
    return f"{off.mean():.3f} | {off.max()}"


def share(path: str) -> None:
    """What part of a picture's bytes the alpha of a cut-out is, with antialiased and with soft edges."""
    photo = Image.open(path).convert("RGB")
    for blur in (0.7, 12.0):
        plane = Image.new("L", photo.size)
        ImageDraw.Draw(plane).polygon(outline(photo.size, 2), fill=255)
        alpha = np.asarray(plane.filter(ImageFilter.GaussianBlur(blur)))
        for quality in QUALITIES:
            colour = GopEncoder(load_model("bsq1"), *alpha.shape, EncodeSettings())
            colour.push(fill_transparent(np.dstack([photo, alpha])), quality)
            colour.flush()
            encoder = AlphaEncoder(load_model("bsq1"), *alpha.shape, EncodeSettings(quality=quality))
            encoder.push(alpha)
            a, c = len(encoder.finish()[0]), len(colour.finish())
            print(f"| blur {blur} | {quality} | {c} | {a} | {100 * a / (a + c):.1f} % |", flush=True)


if __name__ == "__main__":
    for name, alpha in shapes():
        for quality in (100,) if "hard" in name else (*QUALITIES, 100):
            print(f"| {name} | bsqcodec | {quality} | {ours(alpha, quality)} |", flush=True)
        for format, points in (("webp", (50, 100)), ("avif", (60,))):
            for quality in points:
                print(f"| {name} | {format} | {quality} | {others(format, alpha, quality)} |", flush=True)
    for path in sys.argv[1:]:
        share(path)
