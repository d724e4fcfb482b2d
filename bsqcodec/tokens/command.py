"""`bsqcodec tokens`: a stream as NumPy arrays, and arrays as a stream."""

import click

from ..command_options import device_options, max_pixels_option
from ..report import say


@click.command()
@click.argument("source", metavar="INPUT")
@click.argument("target", metavar="OUTPUT")
@click.option("--to-bsq", is_flag=True, help="INPUT is an archive of arrays, OUTPUT becomes a .bsq file.")
@click.option("--model", help="A model file, if the stream needs one that is not packaged.")
@max_pixels_option
@device_options
@click.option("-f", "--force", is_flag=True, help="Replace OUTPUT if it exists.")
def tokens(
    source: str, target: str, to_bsq: bool, model: str | None, max_pixels: int, device: str, force: bool
) -> None:
    """Write all that a .bsq file codes as NumPy arrays, or code such arrays.

    INPUT is a .bsq file, OUTPUT an archive that numpy.load reads (.npz); with --to-bsq it is the other way round.
    Arrays that are as they were give the same file, byte for byte; others one that decodes.
    """
    from ..output import open_input, output_file
    from .code import arrays_to_stream
    from .save import stream_to_arrays

    with open_input(source) as file, output_file(target, force) as out:
        if not to_bsq:
            stream_to_arrays(file, out, model=model, device=device, max_pixels=max_pixels)
        elif changed := arrays_to_stream(file, out, model=model, device=device, max_pixels=max_pixels):
            text = "a coefficient is" if changed == 1 else f"{changed} coefficients are"
            say(f"warning: {text} not as asked for in {target}: the model leaves no bits for the value")
