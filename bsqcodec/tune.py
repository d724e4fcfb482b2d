"""What an encoder aims at. Imports nothing, so that the command line can list the names."""

TUNES = ("perceptual", "psnr")  # the place of a name is its number in a stream
DEFAULT_TUNE = "perceptual"
HELP = "perceptual: texture and sharpness as people see them (MS-SSIM); psnr: the smallest squared error."


def tune_number(tune: str) -> int:
    """The number of a tune in a stream. Raises ValueError for a name that is not one of `TUNES`."""
    if tune not in TUNES:
        raise ValueError(f"tune {tune!r} is not one of {', '.join(TUNES)}")
    return TUNES.index(tune)
