"""Pictures of any aspect ratio, coded by the product into real streams: what a shape costs beside others.

The pictures may be among those that the packaged model was trained on (see data.py), in every shape alike.
"""

from typing import Any

import numpy as np
import torch

from bsqcodec import decode_image, encode_image, load_model
from bsqcodec.bench.metrics import MS_SSIM_MINIMUM

from .data import Data, Settings
from .measures import curve, measured

SIZES = {  # width and height of about as many pixels each; few are multiples of a token's side
    "1to1": (256, 256), "3to2": (313, 209), "16to9": (341, 192), "9to16": (192, 341), "21to9": (391, 167),
    "8to1": (511, 128), "1to16": (65, 511),
}  # fmt: skip
VARIANTS = {ratio: f"{width}x{height}" for ratio, (width, height) in SIZES.items()}
QUALITIES = (10, 20, 30, 40, 60)
PICTURES = 12  # of each seed


def run(variant: str, seed: int, data: Data, settings: Settings) -> dict[str, Any]:
    """Code the middles of held-out photographs, which a seed picks, cut to the shape. Nothing is trained."""
    width, height = SIZES[variant]
    model = load_model(device=settings.device)
    structural = min(width, height) >= MS_SSIM_MINIMUM
    rows = []
    for photo in data.photos[seed * PICTURES : (seed + 1) * PICTURES]:
        top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
        picture = np.ascontiguousarray(photo[top : top + height, left : left + width])
        streams = [encode_image(picture, model=model, quality=quality) for quality in QUALITIES]
        decoded = [_frame(decode_image(stream, model=model), settings.device) for stream in streams]
        qualities = measured(_frame(picture, settings.device), decoded, structural)
        rows.append([[8 * len(s) / (width * height), *q] for s, q in zip(streams, qualities, strict=True)])
    return {"points": np.mean(rows, 0).tolist()}


def _frame(picture: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float()


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of all shapes, means of the seeds."""
    lines = [
        f"| shape | bits per pixel, PSNR, MS-SSIM (dB), ST-LPIPS at quality {', '.join(map(str, QUALITIES))} |",
        "|---|---|",
    ]
    for ratio, size in VARIANTS.items():
        runs = [row["points"] for row in rows if row["variant"] == ratio]
        if runs:
            lines.append(f"| {ratio.replace('to', ':')}, {size} | {curve(np.mean(runs, 0).tolist())} |")
    return "\n".join(lines) + "\n"
