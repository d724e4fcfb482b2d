"""The data of all experiments: what they train on, and what is held out to measure them.

An image that is held out is not trained on, but the loader does not know what images were cut from. In the shards that
the packaged model was trained on (models/README.md) several crops come from one photograph or clip. Of all held-out
photographs 62 in 75, and all 21 strips, have others of their source among what is trained on; at least 4 % of the
pixels that photographs are measured on, and 42 % of those of strips, within six frames, are in these. All variants have
that advantage. The packaged model itself was trained on all of the shards.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bsqcodec.train.data import load_images, whole_strips
from bsqcodec.train.sampler import Sampler, SequenceFrame, frames_of

HELD_OUT_EVERY = 20  # one in so many photographs, and strips, is held out, the first of each
SIDE = 256  # pixels: of held-out pictures, and the least of all others
STRIP_FRAMES = 7  # least number of frames of strips
GROUP_FRAMES = 4  # frames of a group that a video tokenizer codes


class Settings(NamedTuple):
    """The conditions that all runs share.

    Attributes:
        steps: training steps.
        device: where everything is computed.
        crop: side of the crops that are trained on, in pixels, a multiple of 128.
    """

    steps: int
    device: torch.device
    crop: int = 128


class Data(NamedTuple):
    """Photographs and strips of frames.

    Attributes:
        train: draws what is trained on.
        photos: held-out photographs, uint8 (H, W, 3) each.
        strips: held-out strips of square frames, as `frames_of` takes them.
    """

    train: Sampler
    photos: list[np.ndarray]
    strips: list[np.ndarray]


def load(photos: list[str], clips: list[str], device: torch.device) -> Data:
    """Load tar shards or folders of images; every 20th is held out. Raises BsqError where there are none."""
    pictures = load_images(photos, SIDE)
    strips = whole_strips(load_images(clips, SIDE), STRIP_FRAMES) if clips else []

    def trained(images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [image for i, image in enumerate(images) if i % HELD_OUT_EVERY]

    return Data(
        Sampler(trained(pictures), trained(strips), device), pictures[::HELD_OUT_EVERY], strips[::HELD_OUT_EVERY]
    )


def held_out_pictures(data: Data, n: int, device: torch.device) -> Tensor:
    """The middles of the first n held-out photographs, float32 (n, 1, 3, 256, 256): groups of one frame."""
    crops = []
    for photo in data.photos[:n]:
        top, left = ((side - SIDE) // 2 for side in photo.shape[:2])
        crops.append(photo[top : top + SIDE, left : left + SIDE])
    return _pictures(crops, device)[:, None]


def held_out_groups(data: Data, n: int, device: torch.device) -> Tensor:
    """The first frames of the first n held-out strips, float32 (n, 4, 3, 256, 256)."""
    groups = [_pictures([*frames_of(strip)[:GROUP_FRAMES, :SIDE, :SIDE]], device) for strip in data.strips[:n]]
    return torch.stack(groups)


def training_groups(data: Data, rng: np.random.Generator, n: int, size: int) -> Tensor:
    """Crops of consecutive frames to train on, float32 (n, 4, 3, size, size)."""
    order = [SequenceFrame(t, ()) for t in range(GROUP_FRAMES)]
    return data.train.sequences(rng, n, size, order)[0].float()


def _pictures(images: list[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).float().contiguous()
