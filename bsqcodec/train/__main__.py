"""`python -m bsqcodec.train FILE.toml`, for torchrun and for machines without click: the same as `bsqcodec train`."""

import logging
import sys

from ..errors import BsqError
from .trainer import train

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        print(train(sys.argv[1]))
    except BsqError as e:
        sys.exit(f"bsqcodec: {e}")
