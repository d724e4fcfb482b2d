"""Pictures and videos drawn from a model: its decoder at work on bits that nobody wrote."""

from collections.abc import Iterator
from decimal import Decimal

import numpy as np
import torch
from torch import Tensor

from ..network.patches import TOKEN
from ..network.tokenizer import Condition, Context
from ..network.unrounded import DEAD_ZONE, quantise
from ..network.weights import Model, device_of, load_model
from ..settings import DEFAULT_MODEL, MAX_PIXELS, MAX_SIDE, EncodeSettings, tune_number
from ..stream.contrast import complete_classes
from .bits import BitSampler

I_FRAME, P_FRAME = 0, 1  # frame types of conditions


def sample_frames(
    size: tuple[int, int] | None = None,
    *,
    picture: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    frames: int = 0,
    seed: int = 0,
    temperature: Decimal | float = 1,
    candidates: int = 8,
    quality: int = EncodeSettings.quality,
    tune: str = EncodeSettings.tune,
    model: Model | str = DEFAULT_MODEL,
    device: str = "auto",
) -> Iterator[np.ndarray]:
    """Draw a picture, and frames that follow it, from the prior of a model: the same ones on every machine.

    Of a `picture` that is given this holds, too, but for accidents: its encoder computes in float64.

    All that a decoder would read of an I frame is drawn with the probabilities that it would use: the classes of
    contrast, with contexts that begin as those of a stream and learn from what is drawn, and every bit of the
    coefficients. Only a class beyond -3..3, which a decoder refuses, becomes the nearest of these. Frames that follow
    are P frames of the same quality whose vectors are all 0. Vectors are not drawn, for their contexts tell of
    differences that add up: of 100 fields of 16x16 blocks that are drawn, 49 leave the range that a stream can hold.

    A mask has tokens of a picture drawn anew. The prior of a token only knows of tokens that come before it in the
    order of coding, so what is drawn need not fit those that come after. So there are several `candidates`, and the
    one is taken after which the coefficients and classes that are kept are likeliest.

    Args:
        size: width and height in pixels.
        picture: the first frame, which is coded and not drawn, uint8 RGB (H, W, 3), in place of `size`.
        mask: of the picture, bool (H, W): tokens, 16x16 pixels, in which any is set are drawn. All other pixels are
            those of the coded picture.
        frames: how many to draw after the first one.
        seed: 0..2**64 - 1.
        temperature: above 0; 1 is the model's own distribution, less has likely bits be likelier (`bits.tempered`).
        candidates: of a picture with a mask, 1 or more; 1 draws without looking at what comes after.
        quality, tune, model, device: as `Encoder` takes them.

    Returns the frames one by one, uint8 (H, W, 3). Raises ValueError for arguments that are out of range or do not go
    together, ModelError as `load_model`.
    """
    if (size is None) == (picture is None):
        raise ValueError("give either the size or a picture")
    if mask is not None and (picture is None or mask.shape != picture.shape[:2]):
        raise ValueError("a mask needs a picture of the same size")
    if frames < 0 or candidates < 1:
        raise ValueError(f"{frames} frames, {candidates} candidates")
    height, width = picture.shape[:2] if picture is not None else (size or (0, 0))[::-1]
    check_size(width, height)
    settings = EncodeSettings(quality=quality, tune=tune)
    sampler = BitSampler(seed, Decimal(str(temperature)))
    loaded = model if isinstance(model, Model) else load_model(model, device_of(device))
    drawing = _Drawing(loaded, height, width, settings, sampler)
    return drawing.frames(picture, mask, candidates, frames)


def check_size(width: int, height: int) -> None:
    """Raises ValueError for frames of a size that cannot be drawn."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise ValueError(f"frames of {width}x{height} pixels are not supported")


class _Drawing:
    """The frames of one picture or video, while they are drawn. Tensors of pixels are uint8 (1, 3, H, W), padded."""

    def __init__(self, model: Model, height: int, width: int, settings: EncodeSettings, sampler: BitSampler):
        self._model, self._network, self._settings, self._sampler = model, model.network, settings, sampler
        self._height, self._width = height, width
        self._conditions = [
            Condition(kind, settings.quality, tune_number(settings.tune)) for kind in (I_FRAME, P_FRAME)
        ]

    @torch.inference_mode()
    def frames(
        self, picture: np.ndarray | None, mask: np.ndarray | None, candidates: int, following: int
    ) -> Iterator[np.ndarray]:
        """The first frame, then `following` ones."""
        pixels = self._draw(None) if picture is None else self._complete(picture, mask, candidates)
        yield self._cropped(pixels)
        for _ in range(following):
            pixels = self._draw(pixels)
            yield self._cropped(pixels)

    def _draw(self, before: Tensor | None) -> Tensor:
        """An I frame, or a P frame after the frame `before`."""
        prediction = classes = None
        if before is None:
            grid = -(-self._height // TOKEN), -(-self._width // TOKEN)
            classes = self._on_device(complete_classes(np.ma.masked_all(grid, np.int64), self._sampler.complete))
        else:
            prediction = before.float()  # all vectors are 0
        condition = self._conditions[before is not None]
        context = self._network.context(condition, prediction, classes)
        coefficients = self._network.code(context, condition, self._sampler.draw)
        return self._network.decode(coefficients, context, condition)[0]

    def _complete(self, picture: np.ndarray, mask: np.ndarray | None, candidates: int) -> Tensor:
        """A picture as it is coded, with the best of several candidates where there is a mask."""
        network, sampler, condition = self._network, self._sampler, self._conditions[0]
        coefficients, context = self._coded(picture)
        coded = network.decode(coefficients, context, condition)[0]
        if mask is None or not mask.any():
            return coded
        drawn = _tokens_of(mask)
        missing, classes = torch.from_numpy(drawn)[None], context.classes[0].cpu().numpy()
        best = None
        for _ in range(candidates):
            sampler.weighed = 0
            some = complete_classes(np.ma.masked_array(classes, drawn), sampler.complete)
            context = network.context(condition, None, self._on_device(some))
            values = network.code(context, condition, sampler.draw, coefficients, only=missing)
            if candidates > 1:
                network.code(context, condition, sampler.weigh, values, only=~missing)
            if best is None or sampler.weighed < best[0]:
                best = sampler.weighed, values, context
        assert best is not None
        pixels = torch.from_numpy(drawn.repeat(TOKEN, 0).repeat(TOKEN, 1)).to(self._model.device)
        return torch.where(pixels, network.decode(*best[1:], condition)[0], coded)

    def _coded(self, picture: np.ndarray) -> tuple[Tensor, Context]:
        """The coefficients of a picture, as an encoder that does not weigh rates has them, and their context."""
        network, condition = self._network, self._conditions[0]
        pad = (0, 0), (0, -self._height % TOKEN), (0, -self._width % TOKEN)
        padded = np.pad(picture.transpose(2, 0, 1), pad, mode="edge")
        pixels = torch.from_numpy(padded)[None].to(self._model.device).float()
        context = network.context(condition, None, network.classes(pixels))
        y = network.encode(pixels, context, condition, double=True)  # all machines draw from the same tokens
        return quantise(y, DEAD_ZONE[I_FRAME]).to(torch.int32), context

    def _on_device(self, classes: np.ndarray) -> Tensor:
        return torch.from_numpy(classes)[None].to(self._model.device)

    def _cropped(self, pixels: Tensor) -> np.ndarray:
        return pixels[0, :, : self._height, : self._width].permute(1, 2, 0).contiguous().cpu().numpy()


def _tokens_of(mask: np.ndarray) -> np.ndarray:
    """The tokens that a mask touches, bool (ceil(H / 16), ceil(W / 16))."""
    height, width = mask.shape
    padded = np.pad(mask.astype(bool), ((0, -height % TOKEN), (0, -width % TOKEN)))
    return np.asarray(padded.reshape(-1, TOKEN, padded.shape[1] // TOKEN, TOKEN).any((1, 3)))
