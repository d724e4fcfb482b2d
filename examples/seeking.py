"""Look into a .bsq file: its index, some frames from the middle, and back to the beginning.

python examples/seeking.py talk.bsq --start 250 --stop 260 --out frames/
"""

import argparse
from pathlib import Path

from PIL import Image

from bsqcodec import Decoder, FormatError


def main() -> None:
    parser = argparse.ArgumentParser(description="Seek in a .bsq file.")
    parser.add_argument("file", type=Path, help="the .bsq file")
    parser.add_argument("--start", type=int, default=0, help="first frame to decode, counted from 0")
    parser.add_argument("--stop", type=int, help="frame to stop before; default: 5 after the first")
    parser.add_argument("--out", type=Path, help="folder for the frames, as PNG files; made if it is not there")
    options = parser.parse_args()
    stop = options.start + 5 if options.stop is None else options.stop

    with options.file.open("rb") as file, Decoder(file, depth=8) as decoder:
        info = decoder.info
        rate = f"{float(info.frame_rate):.2f} frames per second" if info.frame_rate else "a still image"
        print(f"{info.width}x{info.height}, {rate}")
        try:
            for entry in decoder.index() or []:  # empty in a file of one group of pictures
                print(f"a group of pictures begins with frame {entry.first}, at byte {entry.offset}")
        except FormatError as error:
            print(f"no index: {error}")

        # only the groups that hold these frames are read and decoded
        for number, frame in enumerate(decoder.frames(options.start, stop), options.start):
            seconds = float(frame.pts * info.time_base)
            print(f"frame {number}: at {seconds:.3f} s, mean {frame.rgb.mean():.1f}")
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                Image.fromarray(frame.rgb).save(options.out / f"{number:06}.png")

        # a decoder reads as often as wanted, backwards too
        for frame in decoder.frames(0, 1):
            print(f"back at frame 0: mean {frame.rgb.mean():.1f}")


if __name__ == "__main__":
    main()
