"""Decodes a group of pictures: section 2 of bitstream_spec.md, frame by frame."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..network.tokenizer import Condition
from ..network.weights import Model
from ..stream import contrast
from ..stream.group import Place, code_references, parse_group
from ..stream.modes import used
from ..stream.motion_fields import MotionField
from ..stream.range_coder import BitDecoder
from ..types import FrameStats
from .references import Motion, ReferenceBuffer, VectorContexts, frame_condition


class Symbols(NamedTuple):
    """The decoded symbols of one frame.

    Attributes:
        place: the frame's place in its group.
        condition: frame type, quality and tune.
        modes: which references predict each block, int64 (ceil(H / 16), ceil(W / 16)), of a frame with two.
        vectors: the motion into each reference, of ceil(H / 16) x ceil(W / 16) blocks, by its number; where the
            reference is not used, what the coder guessed.
        classes: classes of contrast, int64 (ceil(H / 16), ceil(W / 16)), of a frame that is not predicted.
        coefficients: int32 (1, ceil(H / 16), ceil(W / 16), n_coded).
        stats: the cost of all these.
        picture: the frame as it is shown, (H, W, 3).
        contrast: class of contrast of each token, coded or as the prediction has it, int64 (1, ceil(H / 16),
            ceil(W / 16)).
    """

    place: Place
    condition: Condition
    modes: np.ndarray | None
    vectors: dict[int, MotionField]
    classes: np.ndarray | None
    coefficients: Tensor
    stats: FrameStats
    picture: np.ndarray
    contrast: Tensor


@torch.inference_mode()
def decode_symbols(
    model: Model, payload: bytes, height: int, width: int, frames: int, depth: int = 8
) -> Iterator[Symbols]:
    """Every symbol of `frames` frames, and their pixels, in the order of coding.

    Takes and raises what `decode_gop` does.
    """
    group = parse_group(payload, frames)
    coder = BitDecoder(group.coded)
    buffer, network = ReferenceBuffer(model, height, width, depth), model.network
    contexts = VectorContexts(buffer.rows, buffer.columns)

    def decode(p: np.ndarray, _: np.ndarray | None) -> np.ndarray:
        return coder.decode(p).view(bool)

    for place, frame_type, quality in group.headers:
        before, count = coder.bits, coder.count
        references: list[int] = []
        if frame_type == "B":
            references = code_references(None, place, lambda _, p: int(coder.decode(np.array([p]))[0]))
        elif frame_type == "P" and place.before is not None:
            references = [place.before]
        condition = frame_condition(place, bool(references), quality, group.tune)
        modes = contexts.modes.decode(*contexts.size, coder) if len(references) == 2 else None
        vectors: dict[int, MotionField] = {}
        for i, number in enumerate(references):
            vectors[number] = contexts.coder(place, number, vectors).decode(*contexts.size, coder, used(modes, i))
        contexts.add(place, vectors)
        classes = None if vectors else contrast.decode_classes(*contexts.size, coder)
        on_device = None if classes is None else torch.from_numpy(classes)[None].to(model.device)
        prediction = buffer.predict(Motion(vectors, modes)) if vectors else None
        context = network.context(condition, prediction, on_device)
        middle = coder.bits
        coefficients = network.code(context, condition, decode)
        stats = FrameStats(frame_type, quality, coder.bits - middle, middle - before, coder.count - count)
        picture = buffer.reconstruct(place, coefficients, context, condition)
        yield Symbols(place, condition, modes, vectors, classes, coefficients, stats, picture, context.classes)


@torch.inference_mode()
def decode_gop(
    model: Model, payload: bytes, height: int, width: int, frames: int, depth: int = 8
) -> Iterator[np.ndarray]:
    """Decode `frames` frames, (H, W, 3) RGB each, uint8 of 8 bits, uint16 of 9..16.

    Raises FormatError if the payload cannot be theirs.
    """
    ready: dict[int, np.ndarray] = {}
    shown = 0
    for symbols in decode_symbols(model, payload, height, width, frames, depth):
        ready[symbols.place.number] = symbols.picture
        while shown in ready:
            yield ready.pop(shown)
            shown += 1
