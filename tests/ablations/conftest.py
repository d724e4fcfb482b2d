"""Without what the ablations measure with, their tests are left out."""

import importlib.util

NEEDED = ("matplotlib", "scipy", "pytorch_msssim", "stlpips_pytorch")
collect_ignore_glob = [] if all(importlib.util.find_spec(name) for name in NEEDED) else ["test_*.py"]
