"""Train on a large GPU that is lent for some minutes and reached only by calls: each carries a folder along, runs one
command for some minutes, and brings a few files back.

    here:   python benchmarks/lease.py prepare --config models/bsq1.toml --data shards/ --out lease [--wheels *.whl]
    there:  python lease/0/code/lease.py start --from lease/0 --work work --minutes 25
            python work/code/lease.py feed --from lease/1 --work work           # and lease/2, ...
            python work/code/lease.py finish --work work --out out              # says which calls bring the rest
            python work/code/lease.py bench --work work --out out
    here:   python benchmarks/lease.py join --from out-0 out-1 --out run
    before: python benchmarks/lease.py --dry-run --config models/bsq1.toml --data shards/ --out dry    # all of it, here

The trainer goes on between calls, and ends by itself when the time is over. Every call may be repeated: it does what is
still to do. The machine needs torch, numpy, pillow, safetensors and scikit-image; what else is missing comes as wheels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bsqcodec.train.lease.command import main


def checks(*arguments: Any, **options: Any) -> dict[str, Callable[[], Any]]:
    """The checks of bsqcodec/bench/machine_check.py, which need what may have come as wheels."""
    from bsqcodec.bench import machine_check

    return machine_check.checks(*arguments, **options)


if __name__ == "__main__":
    main(Path(__file__).resolve(), __doc__, checks)
