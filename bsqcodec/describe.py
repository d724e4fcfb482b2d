"""What `bsqcodec info` tells."""

from fractions import Fraction
from typing import Any

from .errors import FormatError
from .model_files import packaged_ids
from .settings import MAX_PIXELS, TUNES
from .stream.container import VERSION, Gop
from .stream.group import frame_headers, group_tune


def describe(path: str, device: str | None = None, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Everything about a .bsq file, as JSON has it. Reads all of it, and decodes its symbols only if given a device.

    A stream that is cut short or damaged is described up to there, with "error" saying where it ends.
    """
    from .api import Decoder
    from .output import open_input

    with open_input(path) as file:
        decoder = Decoder(file, device or "cpu", max_pixels=max_pixels)
        i, identity = decoder.info, decoder.reader.model
        kinds = {"I": 0, "P": 0, "B": 0}
        tunes = dict.fromkeys(TUNES, 0)
        qualities: set[int] = set()
        gops = audio = 0
        first = last = step = None
        error = None
        try:
            for chunk in decoder.reader.chunks():
                if isinstance(chunk, Gop):
                    gops += 1
                    tunes[group_tune(chunk.payload, len(chunk.pts))] += len(chunk.pts)
                    for header in frame_headers(chunk.payload, len(chunk.pts)):
                        kinds[header.kind] += 1
                        qualities.add(header.quality)
                    step = chunk.pts[-1] - last if last is not None and len(chunk.pts) == 1 else step
                    if len(chunk.pts) > 1:
                        step = chunk.pts[-1] - chunk.pts[-2]
                    first, last = chunk.pts[0] if first is None else first, chunk.pts[-1]
                elif isinstance(chunk, list):
                    audio += sum(len(p.data) for p in chunk)
        except FormatError as e:
            error = str(e)
        size = decoder.reader.size
    frames = sum(kinds.values())
    found: dict[str, Any] = {
        "version": VERSION,  # a reader refuses every other one
        "model": packaged_ids().get(identity),
        "model_id": identity.hex(),
        "width": i.width,
        "height": i.height,
        "bit_depth": i.bit_depth,
        "alpha": i.alpha,
        "frames": frames,
        "i_frames": kinds["I"],
        "p_frames": kinds["P"],
        "b_frames": kinds["B"],
        "gops": gops,
        "quality": [min(qualities), max(qualities)] if qualities else None,
        "tune": {name: n for name, n in tunes.items() if n},  # frames of each
        "bytes": size,
        "bits_per_pixel": round(8 * (size - audio) / (frames * i.width * i.height), 5) if frames else None,
        "duration": None,
        "frame_rate": str(i.frame_rate) if i.frame_rate else None,
        "kbit_per_second": None,
        "time_base": str(i.time_base),
        "sample_aspect_ratio": "{}:{}".format(*i.sample_aspect_ratio),
        "rotation": i.rotation,
        "primaries": i.primaries,
        "transfer": i.transfer,
        "matrix": i.matrix,
        "color_range": i.color_range,
        "audio": None,
    }
    if i.frame_rate and first is not None and last is not None:
        end = Fraction(step) if step else 1 / (i.frame_rate * i.time_base)
        seconds = float((last - first + end) * i.time_base)
        found["duration"] = round(seconds, 6)
        found["kbit_per_second"] = round(8 * size / seconds / 1000, 3)
    if i.audio:
        a = i.audio
        found["audio"] = {"codec": a.codec, "sample_rate": a.sample_rate, "layout": a.layout, "bytes": audio}
    if error:
        found["error"] = error
    if device and not error:
        found["bits"] = _bits(path, device)
    return found


def _bits(path: str, device: str) -> dict[str, float]:
    """Ideal code length in bits a frame: of the coefficients of I, P and B frames ("I", "P", "B"), of the classes of
    contrast of I frames ("classes"), and of what tells how P and B frames are predicted ("vectors").
    """
    from .transcode import check_stream

    names = ("I", "P", "B", "classes", "vectors")
    totals, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for s in check_stream(path, device):
        for name, bits in ((s.kind, s.bits), ("classes" if s.kind == "I" else "vectors", s.side_bits)):
            totals[name] += bits
            counts[name] += 1
    return {k: round(totals[k] / counts[k], 1) for k in totals if counts[k]}


def lines(found: dict[str, Any]) -> list[str]:
    """`describe` for people."""
    name = found["model"] or "not packaged"
    alpha = "alpha" if found["alpha"] else "no alpha"
    rows = [
        ("format", f".bsq version {found['version']}, model {name} ({found['model_id']})"),
        ("picture", "{width}x{height}, {bit_depth} bits a sample, {alpha}".format(**found | {"alpha": alpha})),
        ("frames", "{frames} ({i_frames} I, {p_frames} P, {b_frames} B) in {gops} GOPs".format(**found)),
    ]
    if found["rotation"]:
        rows[1] = ("picture", rows[1][1] + f", to be turned by {found['rotation']} degrees")
    if found["sample_aspect_ratio"] not in ("0:1", "1:1"):
        rows.append(("aspect", f"pixels of {found['sample_aspect_ratio']}"))
    if found["frame_rate"]:
        rows.append(("time", f"{found['duration']} s at {float(Fraction(found['frame_rate'])):.3f} frames a second"))
    if found["quality"]:
        low, high = found["quality"]
        rows.append(("quality", f"{low}" if low == high else f"{low} to {high}"))
    if found["tune"]:
        many = len(found["tune"]) > 1
        rows.append(("tune", ", ".join(f"{name} ({n} frames)" if many else name for name, n in found["tune"].items())))
    rate = f"{found['bytes']} bytes, {found['bits_per_pixel']} bits a pixel"
    rows.append(("size", rate + (f", {found['kbit_per_second']} kbit/s" if found["kbit_per_second"] else "")))
    colour = (found["primaries"], found["transfer"], found["matrix"], found["color_range"])
    if colour != (2, 2, 2, 0):
        rows.append(("colour", "primaries {}, transfer {}, matrix {} (H.273), range {}".format(*colour)))
    if found["audio"]:
        rows.append(("audio", "{codec}, {sample_rate} Hz, {layout}, {bytes} bytes".format(**found["audio"])))
    for kind, bits in found.get("bits", {}).items():
        rows.append((f"bits, {kind}", f"{bits} a frame"))
    if "error" in found:
        rows.append(("broken", found["error"]))
    return [f"{name:10} {text}" for name, text in rows]
