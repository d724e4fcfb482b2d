"""What integer arithmetic costs the prior: the rate of the same tokens with float and with integer probabilities.

    python benchmarks/integer_prior.py runs/small/checkpoint.pt PICTURES... [--qualities 20,50,80]

The float rate takes the averaged weights of a training checkpoint as they are and rounds nothing; the integer rate is
that of the coder, probabilities in 1/65536 included. Prints one line a quality: bits a pixel of both, and the excess.
"""

import argparse
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from bsqcodec.config import ModelConfig
from bsqcodec.exact import freeze, set_arithmetic
from bsqcodec.network import GRAY, Network
from bsqcodec.tokenizer import TOKEN


def load(path: str) -> Network:
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = Network(ModelConfig.from_dict(state["model"]))
    network.load_state_dict(state["network"] | state["average"])
    return network.eval().requires_grad_(False)


def picture(path: str) -> torch.Tensor:
    """(1, 3, H, W), cut to whole cells of 2x2 tokens."""
    x = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)[None].float()
    side = 2 * TOKEN
    return x[..., : x.shape[2] // side * side, : x.shape[3] // side * side]


def rates(real: Network, whole: Network, frame: torch.Tensor, quality: int) -> tuple[float, float]:
    """Bits of the frame's tokens: float, integer."""
    condition = (torch.zeros(1, dtype=torch.int64), torch.full((1,), quality))
    bits = real.bits(frame, torch.full_like(frame, GRAY), condition)
    previous = torch.zeros_like(bits)
    logits = real.prior(bits, previous, condition)
    mask = real.prior.active_mask(condition[1])[:, None, None]
    in_float = ((F.softplus(logits) - bits * logits) * mask).sum().item() / math.log(2)
    total = [0.0]

    def count(p: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
        assert known is not None
        p = p.double() / 65536
        total[0] -= torch.where(known > 0, p, 1 - p).log2().sum().item()
        return known

    whole.prior.run(previous, 0, quality, count, bits)
    return in_float, total[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--qualities", default="20,50,80")
    options = parser.parse_args()
    real, whole = load(options.checkpoint), load(options.checkpoint)
    set_arithmetic(real, False)
    freeze(whole.prior)
    frames = [picture(path) for path in options.pictures]
    pixels = sum(frame.shape[2] * frame.shape[3] for frame in frames)
    for quality in map(int, options.qualities.split(",")):
        in_float, in_integers = np.sum([rates(real, whole, frame, quality) for frame in frames], axis=0)
        print(
            f"quality {quality}: float {in_float / pixels:.4f} bpp, integer {in_integers / pixels:.4f} bpp, "
            f"{100 * (in_integers / in_float - 1):+.2f} %"
        )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
