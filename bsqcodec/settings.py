"""What encoder and decoder can be asked for: names, limits, defaults.

Imports neither torch nor numpy, so that the command line can list them at once.
"""

import operator
from dataclasses import dataclass
from fractions import Fraction

MIN_QUALITY, MAX_QUALITY = 1, 100
MAX_GOP = 65535
MAX_EFFORT = 1000
TUNES = ("perceptual", "psnr")  # the index of a name is its number in a stream
TUNES_HELP = "perceptual: texture and sharpness as people see them (MS-SSIM); psnr: the smallest squared error."
DEFAULT_MODEL = "bsq1"  # the packaged model that encodes unless another is asked for
SCALES = tuple(Fraction(1, 2**k) for k in range(5))  # of what decoded frames are written in
MAX_SIDE = 65535  # of a frame, in pixels
MAX_PIXELS = 1 << 26  # of a frame; a reader refuses larger ones before it allocates anything


@dataclass(frozen=True)
class EncodeSettings:
    """How to encode. Raises ValueError for a number out of range or an unknown tune, TypeError for what is no integer.

    >>> EncodeSettings(quality=40, low_delay=True).gop
    32

    Attributes:
        quality: 1..100, of I frames; most P and all B frames get less.
        gop: frames from one I frame to the next, 1..65535; each such group decodes without the others.
        effort: search steps for better bits, for each frame; 0..1000. Each takes about twice as long as encoding
            without any. Most is gained by the first 16.
        low_delay: no B frames, so that every frame is encoded when it comes.
        tune: "perceptual" for texture and sharpness as people see them (MS-SSIM), or "psnr" for the smallest squared
            error.
        model: name of a packaged model, or path of a model file.
        alpha_quality: 1..100, of transparency, 100 without loss; None: that of the pictures, but no less than 20.
    """

    quality: int = 50
    gop: int = 32
    effort: int = 0
    low_delay: bool = False
    tune: str = TUNES[0]
    model: str = DEFAULT_MODEL
    alpha_quality: int | None = None

    def __post_init__(self) -> None:
        for name in ("quality", "gop", "effort"):  # those of NumPy may overflow in what is computed from them
            object.__setattr__(self, name, operator.index(getattr(self, name)))
        check_quality(self.quality)
        if self.alpha_quality is not None:
            object.__setattr__(self, "alpha_quality", operator.index(self.alpha_quality))
            check_quality(self.alpha_quality)
        if not 1 <= self.gop <= MAX_GOP:
            raise ValueError(f"gop {self.gop} is not in 1..{MAX_GOP}")
        if not 0 <= self.effort <= MAX_EFFORT:
            raise ValueError(f"effort {self.effort} is not in 0..{MAX_EFFORT}")
        tune_number(self.tune)


@dataclass(frozen=True)
class SourceOptions:
    """What is wanted of an input.

    Attributes:
        start: seconds from the first frame to the first that is wanted.
        duration: seconds wanted; None is all that is left.
        audio, subtitles: keep these.
        alpha: keep transparency; else it is dropped, and what is transparent shows the colour that it has.
        background: composite on this colour instead, as Pillow names it: "white", "#rrggbb".
        strip: leave out EXIF, XMP, chapters, tags and titles, but not what decides how it looks, or is played.
    """

    start: float = 0.0
    duration: float | None = None
    audio: bool = True
    subtitles: bool = True
    alpha: bool = True
    background: str | None = None
    strip: bool = False


@dataclass(frozen=True)
class SinkOptions:
    """How to write decoded frames.

    Attributes:
        crf: quality of H.264 output, x264's constant rate factor, 0..51; 14 looks lossless.
        image_quality: of JPEG, WebP and AVIF output, 1..100.
        background: colour as Pillow names it, behind frames with alpha where the output holds none; None is black.
        scale: of what is written, one of SCALES, as a number or text; sides are rounded up.
    """

    crf: int = 14
    image_quality: int = 95
    background: str | None = None
    scale: Fraction | float | str = 1


def check_quality(quality: int) -> None:
    """Raises ValueError for a quality that is not in 1..100."""
    if not MIN_QUALITY <= quality <= MAX_QUALITY:
        raise ValueError(f"quality {quality} is not in {MIN_QUALITY}..{MAX_QUALITY}")


def tune_number(tune: str) -> int:
    """The number of a tune in a stream. Raises ValueError for a name that is not one of `TUNES`."""
    if tune not in TUNES:
        raise ValueError(f"tune {tune!r} is not one of {', '.join(TUNES)}")
    return TUNES.index(tune)
