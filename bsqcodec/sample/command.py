"""`bsqcodec sample`: pictures and videos that a model makes up."""

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..command_options import device_options, encoder_model_option, quality_option
from ..errors import BsqError
from ..report import bar
from ..settings import TUNES, TUNES_HELP, EncodeSettings
from ..suffixes import VIDEO_SUFFIXES
from ..types import MediaInfo

_DEFAULTS = EncodeSettings()
VIDEO_FRAMES = 24  # that follow the first one, unless another number is asked for


@click.command()
@click.argument("target", metavar="OUTPUT")
@click.option(
    "--size", metavar="WxH", help="Width and height in pixels, such as 256x256; scales what is given with --from."
)
@quality_option("Quality of the frames: how fine the detail is that is drawn.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="Another one draws something else.")
@click.option(
    "--temperature", type=float, default=1.0, help="1 draws as the model has it; less draws what is likely more often."
)
@click.option("--from", "source", metavar="PICTURE", help="Picture, or video of whose first frame, to start from.")
@click.option(
    "--mask", metavar="PICTURE", help="White where the picture of --from is to be drawn anew, by 16x16 pixels."
)
@click.option(
    "--candidates",
    type=click.IntRange(1),
    default=8,
    help="With --mask: draw so often, and take what goes best with the rest.",
)
@click.option(
    "--frames",
    type=click.IntRange(0),
    show_default=f"{VIDEO_FRAMES} of a video, else 0",
    help="Frames to draw after the first one.",
)
@click.option("--fps", type=click.FloatRange(0.1, 1000), default=25.0, help="Frames per second.")
@click.option("--tune", type=click.Choice(TUNES), default=_DEFAULTS.tune, help=f"What was coded for. {TUNES_HELP}")
@encoder_model_option
@device_options
@click.option("-f", "--force", is_flag=True, help="Replace OUTPUT if it exists.")
@click.option("--quiet", is_flag=True, help="No progress.")
def sample(
    target: str, size: str | None, source: str | None, mask: str | None, frames: int | None, fps: float, force: bool,
    quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Draw a picture or a video from the model, bit by bit, as if a decoder read them from a stream.

    OUTPUT is what decode takes: .png, .jpg, .mp4, frames/ ... The same seed draws the same on every machine. With
    --from the first frame is a picture as it is coded at the quality, with --mask a part of it is drawn anew.
    """
    from .. import media
    from ..output import check_free
    from .frames import check_size, sample_frames

    if not 0 < options["temperature"] < math.inf:
        raise BsqError("a temperature is a number above 0")
    if size is None and source is None:
        raise BsqError("give --size, or --from")
    if mask and not source:
        raise BsqError("--mask needs a picture: give --from")
    if frames is None:
        frames = VIDEO_FRAMES if Path(target).suffix.lower() in VIDEO_SUFFIXES else 0
    check_free(target, force)
    wanted = _size(size) if size else None
    try:
        if wanted:
            check_size(*wanted)
        picture = _first_frame(source, wanted) if source else None
        chosen = _first_frame(mask, wanted).max(2) >= 128 if mask else None
        shown = sample_frames(None if source else wanted, picture=picture, mask=chosen, frames=frames, **options)
    except ValueError as e:
        raise BsqError(str(e)) from e
    width, height = picture.shape[1::-1] if picture is not None else wanted or (0, 0)
    rate = Fraction(fps).limit_denominator(1001)
    info = MediaInfo(width, height, 1 / rate, rate if frames else None)
    progress_bar = bar(quiet, desc="sample", unit="frame", total=1 + frames)
    with media.open_sink(target, info) as sink, progress_bar as progress:
        for t, frame in enumerate(shown):
            sink.write(frame, t)
            if progress:
                progress.update()
        sink.duration = 1 if frames else 0


def _size(text: str) -> tuple[int, int]:
    """Width and height that a text such as 256x256 stands for. Raises BsqError for another."""
    found = re.fullmatch(r"([0-9]{1,5})[xX]([0-9]{1,5})", text)
    if not found:
        raise BsqError(f"{text!r} is not a size such as 256x256")
    return int(found[1]), int(found[2])


def _first_frame(path: str, size: tuple[int, int] | None) -> np.ndarray:
    """The first frame of a picture or video as it is to be shown, scaled to `size` if that is given, uint8 (H, W, 3).

    Raises BsqError if there is none.
    """
    from PIL import Image

    from .. import media
    from ..media.sinks import upright
    from ..types import Frame

    with media.open_source(path, alpha=False, audio=False, subtitles=False) as source:
        for item in source:
            if isinstance(item, Frame):
                frame = np.ascontiguousarray(upright(item.rgb, source.info.rotation))
                return np.array(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) if size else frame
    raise BsqError(f"{path}: there are no frames")
