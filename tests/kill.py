"""Kill `bsqcodec encode` at random moments: what has the final name is whole, and --resume makes it as if nobody had.

    python tests/kill.py --times 200 --resumed 200 [--seed 0]

`--times`: kills of encodes that nobody resumes. SIGKILL leaves nobody to tidy up: a hidden file .NAME.PID.part may stay
behind, and is counted here. `--resumed`: kills of encodes with --resume, again and again until one comes to its end;
its file must be that of an encode that was not killed, byte for byte, and nothing else may be left.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from tqdm import tqdm

from bsqcodec.errors import FormatError
from bsqcodec.network.saving import save_model
from bsqcodec.stream.container import Gop
from bsqcodec.stream.reader import StreamReader
from helpers import random_network, write_video

FRAMES = 120


def groups(path: Path) -> int:
    """Number of whole groups of pictures at the start of a file; -1 for a whole stream."""
    found = 0
    try:
        with open(path, "rb") as file:
            reader = StreamReader(file)
            for chunk in reader.chunks():
                found += isinstance(chunk, Gop)
            return -1 if reader.frames == FRAMES and not file.read() else found
    except FormatError:
        return found


def state(path: Path) -> str:
    """State of the file under the final name: "absent", "whole" or "broken"."""
    return "absent" if not path.exists() else "whole" if groups(path) == -1 else "broken"


def kill(command: list[str], seconds: float) -> bool:
    """Start a process and kill it; returns whether it ended before. Raises CalledProcessError if it failed."""
    process = subprocess.Popen(command)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    if status not in (0, -signal.SIGKILL):
        raise subprocess.CalledProcessError(status, command)
    return status == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--resumed", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(random_network(), folder / "tiny.safetensors")
        frames = [np.ascontiguousarray(data.astronaut()[t : t + 64, 100:164]) for t in range(FRAMES)]
        (folder / "in").mkdir()
        for t, picture in enumerate(frames):
            Image.fromarray(picture).save(folder / f"in/{t:03d}.png")
        write_video(folder / "in.mp4", np.stack(frames), audio=True)
        target = folder / "out.bsq"
        words = [
            "--quiet",
            "--gop",
            "4",
            "--threads",
            "1",
            "--device",
            "cpu",
            "--model",
            str(folder / "tiny.safetensors"),
        ]

        def command(source: str, *more: str) -> list[str]:
            return [sys.executable, "-m", "bsqcodec", "encode", str(folder / source), str(target), *words, *more]

        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "bsqcodec", "encode", "--help"], check=True, stdout=subprocess.DEVNULL)
        shortest = time.monotonic() - began
        wanted = {}
        for source, more in (("in", ()), ("in.mp4", ()), ("in.mp4", ("--bpp", "0.5"))):
            began = time.monotonic()
            subprocess.run(command(source, *more), check=True)
            longest = 1.1 * (time.monotonic() - began)
            assert state(target) == "whole"
            wanted[source, more] = target.read_bytes(), longest
            target.unlink()
        broken = killed(options.times, rng, target, command("in", "-f"), *wanted["in", ()])
        for source, more in wanted:
            times = options.resumed // len(wanted)
            span = shortest, wanted[source, more][1]
            broken += resumed(times, rng, target, command(source, *more, "--resume"), wanted[source, more][0], span)
    sys.exit(bool(broken))


def killed(times: int, rng: random.Random, target: Path, command: list[str], whole: bytes, longest: float) -> int:
    """Kill encodes that nobody resumes; returns how often something broken had the final name."""
    counts: Counter[str] = Counter()
    survived = parts = 0
    for i in tqdm(range(times), "kills"):
        # every other time there is a whole file to be replaced
        if i % 2:
            target.write_bytes(whole)
        else:
            target.unlink(missing_ok=True)
        survived += kill(command, rng.uniform(0, longest))
        found = state(target)
        counts[found] += 1
        assert i % 2 == 0 or found == "whole", "the file that was to be replaced is gone"
        for path in target.parent.glob(".out.bsq.*.part"):
            parts += 1
            path.unlink()
    print(f"{times} kills within {longest:.1f} s, {survived} of them too late; {parts} hidden .part files left")
    print("under the final name: " + ", ".join(f"{n} times {what}" for what, n in counts.items()))
    target.unlink(missing_ok=True)
    return counts["broken"]


def resumed(
    times: int, rng: random.Random, target: Path, command: list[str], whole: bytes, span: tuple[float, float]
) -> int:
    """Kill encodes with --resume until one ends; returns how many files came out wrong."""
    kills = files = wrong = 0
    at: Counter[int] = Counter()
    with tqdm(total=times, desc="resumes") as bar:
        ended = False
        while kills < times or not ended:
            ended = kill(command, rng.uniform(*span) if kills < times else 600)
            left = list(target.parent.glob(".out.bsq.*.part"))
            if target.exists():
                files += 1
                wrong += target.read_bytes() != whole or (ended and len(left) > 0)
                target.unlink()
            if not ended:
                kills += 1
                bar.update()
                at[max((groups(path) for path in left), default=0)] += 1
    described = ", ".join(command[command.index("encode") + 1 :][-3:])
    print(f"{kills} kills at {len(at)} different groups of pictures, {files} files resumed to their end ({described}): "
          f"{wrong} differ from one that was not killed")  # fmt: skip
    return wrong


if __name__ == "__main__":
    main()
