"""The configuration of a training run, and the TOML files that hold one."""

import copy
import json
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import BsqError
from ..network.config import ModelConfig
from ..network.objective import Objective
from ..output import replacing

# Bands of quality: log2 of the quantiser step from and to, and the active coefficients of a token. A step of training
# takes one of them, so that most steps work on few coefficients.
BANDS = ((6.0, 9.0, 192), (4.3, 6.0, 416), (1.0, 4.3, 768))
# P frames one after the other, there and back again: what a network does wrong in one adds up in those that follow
CHAIN = [[0], *([i, i - 1] for i in range(1, 7)), *([6 - i, 5 + i] for i in range(1, 5))]
# Sequences, each a list of frames in the order of coding: distance from the first frame, then the places in this list
# of its references
ORDERS = [
    [[0], [1, 0], [2, 1]],
    [[0], [2, 0], [1, 0, 1]],
    [[0], [4, 0], [2, 0, 1]],
    *([CHAIN] * 4),
]


@dataclass
class TrainConfig:
    """One training run. `photos` and `strips` are tar shards or folders of images, `videos` are folders of videos.

    In a TOML file, their paths are relative to its folder; `incoming` and `out` are relative to the working directory.
    Raises ValueError for values of the wrong type or out of range.
    """

    photos: list[str] = field(default_factory=list)
    strips: list[str] = field(default_factory=list)  # images of square frames, one above the other or side by side
    videos: list[str] = field(default_factory=list)
    incoming: str = ""  # a folder whose shards, photos*.tar and clips*.tar, are taken up as they appear during the run
    out: str = "runs/bsq1"
    start: str = ""  # a packaged model or a model file to start from; otherwise weights are made anew
    minutes: float = 60.0
    steps: int = 0  # if not 0, the schedule runs over so many steps and `minutes` only bounds the run
    seed: int = 0
    crop: int = 256  # pixels, a multiple of 32
    images: int = 12  # I frames of every other step; 0: all steps take sequences
    sequences: int = 3  # of each of the steps between; 0: all steps take images
    orders: list[list[list[int]]] = field(default_factory=lambda: copy.deepcopy(ORDERS))  # a step draws one of them
    share: list[float] = field(default_factory=lambda: [0.6, 0.27, 0.13])  # of the steps that each of BANDS gets
    psnr: float = 0.3  # share of the samples with the tune psnr
    muon_lr: float = 0.02
    adam_lr: float = 1e-3
    warmup: int = 30  # training steps over which the learning rate rises
    decay: float = 0.6  # share of the run, at its end, over which the learning rate falls linearly
    ema: float = 0.998  # what the average of the weights keeps of itself in a step
    clip: float = 50.0  # bound of the norm of all gradients together; a small batch of low quality has 30 to 80
    checkpoint_minutes: float = 3.0
    threads: int = 0  # of torch on the CPU; 0: torch's own choice
    device: str = "auto"  # "auto" is the GPU if there is one; under torchrun each process takes one of its own
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        for f in fields(self):
            expected = type(f.default_factory() if callable(f.default_factory) else f.default)
            value = getattr(self, f.name)
            allowed = int | float if expected is float else expected
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise ValueError(f"{f.name} is {value!r}, not of the type {expected.__name__}")
        if self.crop < 32 or self.crop % 32:
            raise ValueError(f"crop is {self.crop}, no multiple of 32")
        if min(self.images, self.sequences) < 0 or not self.images + self.sequences:
            raise ValueError("a step needs images or sequences")
        if len(self.share) != len(BANDS) or min(self.share) < 0 or not sum(self.share):
            raise ValueError(f"share is {self.share}, not {len(BANDS)} shares of the steps")
        if not 0 <= self.psnr <= 1:
            raise ValueError(f"psnr is {self.psnr}, not a share of the samples")
        if not self.orders or not all(_is_order(order) for order in self.orders):
            raise ValueError("orders holds what is no order of coding: lists of a distance and places of references")

    @property
    def frames(self) -> int:
        """Number of frames that a strip needs for the longest of `orders`."""
        return 1 + max(place[0] for order in self.orders for place in order)

    @classmethod
    def from_toml(cls, path: str | Path) -> "TrainConfig":
        """Read a configuration. Raises BsqError for an unreadable file, unknown keys and impossible values."""
        path = Path(path)
        values = read_toml(path)
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise BsqError(f"{path}: unknown key: {', '.join(sorted(unknown))}")
        try:
            values["model"] = ModelConfig.from_dict(values.get("model", {}))
            values["objective"] = Objective.from_dict(values.get("objective", {}))
            for key in {"photos", "strips", "videos"} & set(values):
                values[key] = [str(path.parent / item) for item in values[key]]
            return cls(**values)
        except (TypeError, ValueError) as e:
            raise BsqError(f"{path}: {e}") from e


def read_toml(path: Path) -> dict[str, Any]:
    """The contents of a TOML file. Raises BsqError if it cannot be read or is no TOML."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise BsqError(f"{path}: not a readable TOML file ({e})") from e


def write_toml(path: Path, values: dict[str, Any]) -> None:
    """Write a TOML file; values that are dicts become its tables.

    JSON's numbers, strings, lists and truth values are also TOML's. Raises BsqError as `replacing`, and OSError.
    """
    tables = {k: v for k, v in values.items() if isinstance(v, dict)}
    lines = [f"{k} = {json.dumps(v)}" for k, v in values.items() if k not in tables]
    for name, table in tables.items():  # what follows a table's name would belong to it, so they come last
        lines += ["", f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    with replacing(path) as part:
        Path(part).write_text("\n".join([*lines, ""]))


def _is_order(order: Any) -> bool:
    """Whether a list starts with a frame without reference, and others have one or two of the frames before them."""
    return (
        isinstance(order, list)
        and all(isinstance(p, list) and p and all(type(x) is int and x >= 0 for x in p) for p in order)
        and order[:1] == [[0]]
        and all(2 <= len(p) <= 3 and max(p[1:]) < a for a, p in enumerate(order) if a)
        and all(order[b][0] != p[0] for p in order for b in p[1:])
    )
