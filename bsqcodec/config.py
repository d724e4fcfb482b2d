"""The shape of a model: everything that is not a weight."""

from dataclasses import asdict, dataclass, fields
from typing import Any

DEFAULT = "small6"  # the packaged model that encodes unless another is asked for


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the networks and of the code. Lists are given coarse plane first.

    A token covers 16x16 pixels and carries trits (pairs of bits, "above" and "below") of `planes[j]` transform
    coefficients in plane j, whose steps are 3**(planes - 1 - j) quantiser steps. Each entry of `groups` is a run of
    trits in that order; its "above" bits make one bit group of the prior and its "below" bits the next.
    """

    name: str = "small"
    planes: tuple[int, ...] = (2, 10, 40, 144, 256, 320)
    groups: tuple[int, ...] = (52, 144, 64, 192, 32, 64, 96, 128)
    step_coarse: float = 2.0  # quantiser step at quality 1, in units of the orthonormal transform of [0, 1] pixels
    step_fine: float = 0.07  # at quality 100; geometric in between
    encoder_width: int = 192
    encoder_blocks: int = 2
    decoder_width: int = 192
    decoder_blocks: int = 3
    detail_width: int = 144  # the decoder's second half, on 8x8 pixels
    detail_blocks: int = 3
    prior_width: int = 192
    prior_blocks: int = 3
    prior_head: int = 256
    window: int = 8  # tokens; the prior's window is window / 2 cells of 2x2 tokens

    def __post_init__(self):
        if sum(self.groups) != sum(self.planes):
            raise ValueError(f"groups hold {sum(self.groups)} trits, planes hold {sum(self.planes)}")

    @property
    def bits(self) -> int:
        """L, bits a token."""
        return 2 * sum(self.planes)

    @property
    def coefficients(self) -> int:
        return self.planes[-1]

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown key in the model configuration: {', '.join(sorted(unknown))}")
        lists_as_tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**lists_as_tuples)

    def to_dict(self) -> dict:
        return asdict(self)
