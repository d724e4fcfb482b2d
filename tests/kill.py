"""Kill `bsqcodec encode` at random moments: what has the final name is whole.

    python tests/kill.py --times 200 [--seed 0]

SIGKILL leaves nobody to tidy up: a hidden file .NAME.PID.part may stay behind, and is counted here.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from conftest import random_network
from PIL import Image
from skimage import data

from bsqcodec.errors import FormatError
from bsqcodec.model import save_model
from bsqcodec.stream import StreamReader

FRAMES = 60


def state(path: Path) -> str:
    """ "absent", "whole" or "broken"."""
    if not path.exists():
        return "absent"
    try:
        with open(path, "rb") as file:
            reader = StreamReader(file)
            for _ in reader.chunks():
                pass
            return "whole" if reader.frames == FRAMES and not file.read() else "broken"
    except FormatError:
        return "broken"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    counts = {"absent": 0, "whole": 0, "broken": 0}
    parts = survived = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(random_network(), folder / "tiny.safetensors")
        (folder / "in").mkdir()
        for t in range(FRAMES):
            picture = np.ascontiguousarray(data.astronaut()[t : t + 64, 100:164])
            Image.fromarray(picture).save(folder / f"in/{t:03d}.png")
        target = folder / "out.bsq"
        words = ["encode", str(folder / "in"), str(target), "-f", "--quiet", "--gop", "4", "--threads", "1"]
        command = [sys.executable, "-m", "bsqcodec", *words, "--model", str(folder / "tiny.safetensors")]
        began = time.monotonic()
        subprocess.run(command, check=True)
        longest = 1.1 * (time.monotonic() - began)
        assert state(target) == "whole"
        before = target.read_bytes()
        for i in range(options.times):
            # every other time there is a whole file to be replaced
            if i % 2:
                target.write_bytes(before)
            else:
                target.unlink(missing_ok=True)
            process = subprocess.Popen(command)
            time.sleep(rng.uniform(0, longest))
            process.kill()
            survived += process.wait() == 0
            found = state(target)
            counts[found] += 1
            assert i % 2 == 0 or found == "whole", "the file that was to be replaced is gone"
            left = list(folder.glob(".out.bsq.*.part"))
            parts += len(left)
            for path in left:
                path.unlink()
    print(f"{options.times} kills within {longest:.1f} s, {survived} of them too late; {parts} hidden .part files left")
    print("under the final name: " + ", ".join(f"{n} times {what}" for what, n in counts.items()))
    sys.exit(bool(counts["broken"]))


if __name__ == "__main__":
    main()
