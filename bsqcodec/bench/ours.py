"""Our codec as the benchmark runs it: through the public API, one .bsq file per item."""

import functools
import hashlib
import io
import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from ..api import Decoder, Encoder
from ..errors import BsqError
from ..model_files import find_file
from ..network.weights import Model, device_of, load_model
from ..settings import EncodeSettings
from ..stream import container
from ..types import MediaInfo
from .codec import Codec

_FIXED_OPTIONS = ("gop", "tune")  # options that a description has even at their defaults
_OTHER_OPTIONS = ("quality", "model")  # options that stand elsewhere in a description


@functools.lru_cache(1)
def _model(name: str, device: str) -> tuple[Model, float]:
    """Our model, loaded once per process, and the seconds that loading took."""
    start = time.perf_counter()
    model = load_model(name, device_of(device))
    return model, time.perf_counter() - start


@functools.lru_cache(1)
def _digest(name: str) -> str:
    """Hash of a model's file; the model's id leaves out the encoder and what a search aims at."""
    return hashlib.sha256(find_file(name).read_bytes()).hexdigest()[:12]


def _in_words(settings: EncodeSettings) -> str:
    """The encoder's options, those at their defaults left out, such as "gop 32, tune psnr, low delay"."""
    words = [f"{name} {getattr(settings, name)}" for name in _FIXED_OPTIONS]
    for option in fields(settings):
        value = getattr(settings, option.name)
        if option.name not in _FIXED_OPTIONS + _OTHER_OPTIONS and value != option.default:
            words.append(option.name.replace("_", " ") + ("" if value is True else f" {value}"))
    return ", ".join(words)


class Bsq(Codec):
    """Our codec with its default options."""

    name, label = "bsq", "bsqcodec"
    points = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
    changes: ClassVar[dict[str, Any]] = {}  # options other than the run's

    @property
    def model(self) -> Model:
        """The model of the run, loaded when it is first asked for."""
        return _model(self.settings.ours.model, self.settings.device)[0]

    def options(self) -> str:
        model = self.model
        weights = f"model {model.name} (id {model.id.hex()}, file {_digest(self.settings.ours.model)})"
        version = f".bsq file of stream version {container.VERSION}"
        return f"{version}, {weights}, {model.device}, {_in_words(replace(self.settings.ours, **self.changes))}"

    def load(self) -> float:
        return _model(self.settings.ours.model, self.settings.device)[1]

    def device(self) -> str:
        return str(self.model.device)

    def encode(self, frames: Iterable[np.ndarray], fps: float, point: float) -> list[bytes]:
        if point != int(point):
            raise BsqError(f"quality {point:g} is not a whole number")
        frames = iter(frames)
        first = next(frames)
        rate = Fraction(fps).limit_denominator(1001) if fps else None
        info = MediaInfo(first.shape[1], first.shape[0], 1 / rate if rate else Fraction(1, 25), rate)
        file = io.BytesIO()
        settings = replace(self.settings.ours, quality=int(point), **self.changes)
        with Encoder(file, info, settings, model=self.model) as encoder:
            for t, frame in enumerate(itertools.chain([first], frames)):
                encoder.write(frame, t)
        return [file.getvalue()]

    def decode(self, chunks: list[bytes], height: int, width: int) -> Iterator[np.ndarray]:
        for frame in Decoder(io.BytesIO(chunks[0]), model=self.model).frames():
            yield frame.rgb


class BsqLowDelay(Bsq):
    """Our codec without B frames."""

    name, label = "bsq-low-delay", "bsqcodec --low-delay"
    changes: ClassVar[dict[str, Any]] = {"low_delay": True}


class BsqSearch(Bsq):
    """Our codec with the encoder's search."""

    name, label = "bsq-search", "bsqcodec --effort 16"
    changes: ClassVar[dict[str, Any]] = {"effort": 16}
