"""Run `bsqcodec selftest` under every setting that changes how floats are summed, and count bits and mismatches.

    python tests/exactness.py [--device cuda]

Each setting is a process of its own, for the libraries read theirs once.
"""

import argparse
import os
import re
import subprocess
import sys

CODE = """
import sys, torch
torch.set_float32_matmul_precision(sys.argv.pop(1))
from bsqcodec.__main__ import main
main()
"""
SETTINGS: list[dict[str, str]] = [
    {},
    *({"threads": n} for n in ("1", "2", "3")),
    *({"OMP_NUM_THREADS": n} for n in ("1", "2", "5")),
    *({"precision": name} for name in ("high", "medium")),
    *({"MKL_ENABLE_INSTRUCTIONS": name} for name in ("SSE4_2", "AVX2", "AVX512")),
    *({"MKL_CBWR": name} for name in ("COMPATIBLE", "AVX2", "AUTO,STRICT")),
    *({"ONEDNN_MAX_CPU_ISA": name} for name in ("SSE41", "AVX2", "AVX512_CORE")),
    *({"ATEN_CPU_CAPABILITY": name} for name in ("default", "avx2", "avx512")),
    {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
    {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "threads": "2"},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    bits = wrong = 0
    for setting in SETTINGS:
        variables = {k: v for k, v in setting.items() if k.isupper()}
        words = ["selftest", "--device", options.device]
        words += ["--threads", setting["threads"]] if "threads" in setting else []
        command = [sys.executable, "-c", CODE, setting.get("precision", "highest"), *words]
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
        counted = re.search(r"([0-9]+) bits", done.stdout)
        bits += int(counted[1]) if counted else 0
        wrong += done.returncode != 0
        name = ", ".join(f"{k}={v}" for k, v in setting.items()) or "default"
        print(f"{name}: {(done.stdout + done.stderr).strip()}", flush=True)
    print(f"{len(SETTINGS)} settings, {bits} bits decoded, {wrong} settings with a mismatch")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
