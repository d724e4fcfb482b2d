"""The sizes of a model's networks, which its file holds beside the weights."""

from dataclasses import asdict, dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the networks. The decoder and the prior of a stream depend on all of them but `name`.

    Attributes:
        name: what the model is called.
        fine_width, fine_blocks: channels and blocks of encoder and decoder on patches of 8x8 pixels.
        width, blocks: channels and blocks of encoder and decoder on tokens of 16x16 pixels.
        prior_width, prior_blocks: channels and blocks of the prior.
        prior_head: channels of the prior's last layer.
    """

    name: str = "bsq1"
    fine_width: int = 192
    fine_blocks: int = 2
    width: int = 384
    blocks: int = 3
    prior_width: int = 320
    prior_blocks: int = 3
    prior_head: int = 384

    def __post_init__(self) -> None:
        sizes = {k: v for k, v in asdict(self).items() if k != "name"}
        for key, value in sizes.items():
            # the L1 norm of more channels than 511 could pass what float32 holds exactly
            if type(value) is not int or not 1 <= value <= 511:
                raise ValueError(f"{key} is {value!r}, not an integer of 1..511")
        if self.prior_width % 32:
            raise ValueError(f"prior_width is {self.prior_width}, no multiple of the 32 channels of a head")

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        """A configuration from what `to_dict` gives. Raises ValueError for unknown keys and sizes out of range."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown key in the model configuration: {', '.join(sorted(unknown))}")
        return cls(**values)

    def to_dict(self) -> dict:
        """The attributes by name, as a model file holds them."""
        return asdict(self)


def decoder_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model that a decoder needs: all but the encoder's."""
    return {name: t for name, t in tensors.items() if not name.startswith("e")}
