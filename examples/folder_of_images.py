"""Compress every picture of a folder, and print what each one costs and how close it comes back.

python examples/folder_of_images.py holiday/ holiday-bsq/ --quality 40
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

import bsqcodec


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures of one shape; infinite if they are equal."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def read(path: Path) -> np.ndarray | None:
    """A picture the right way up, uint8 (height, width, 3) RGB; None if the file is none, or is transparent."""
    try:
        with Image.open(path) as image:
            return None if image.has_transparency_data else np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description="Compress every picture of a folder to .bsq files.")
    parser.add_argument("folder", type=Path, help="folder of pictures, in any format that Pillow reads")
    parser.add_argument("out", type=Path, help="folder for the .bsq files; made if it is not there")
    parser.add_argument("--quality", type=int, default=40, help="1..100, default 40")
    parser.add_argument("--tune", default="perceptual", help="perceptual (default) or psnr")
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    before = after = 0
    for path in sorted(p for p in options.folder.iterdir() if p.is_file()):
        picture = read(path)
        if picture is None:
            print(f"{path.name}: left out, not an opaque picture")
            continue
        # the model is read at the first call and kept for those that follow
        data = bsqcodec.encode_image(picture, quality=options.quality, tune=options.tune)
        (options.out / f"{path.name}.bsq").write_bytes(data)
        height, width = picture.shape[:2]
        rate, fidelity = 8 * len(data) / (height * width), psnr(picture, bsqcodec.decode_image(data))
        print(f"{path.name}: {width}x{height}, {len(data)} bytes, {rate:.3f} bits per pixel, PSNR {fidelity:.2f} dB")
        before, after = before + path.stat().st_size, after + len(data)
    print(f"all: {before} bytes before, {after} bytes after")


if __name__ == "__main__":
    main()
