"""Data sets by name, files on disk, and the frames in them."""

import fnmatch
import hashlib
import os
import re
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ..api import Decoder
from ..errors import BsqError, first_line
from ..media import colour
from ..output import replacing
from ..suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES

SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES | {".yuv"}  # of files that a data set may hold


class MissingDataSet(BsqError):
    """A known data set that is not on this disk; the command exits with status 2."""


@dataclass(frozen=True)
class Sequence:
    """One item of a registered set. `name` is the stem of its file, or how the stem starts; `fps` is 0 for images."""

    name: str
    width: int
    height: int
    frames: int = 1
    fps: float = 0


@dataclass(frozen=True)
class DataSet:
    """A registered set: where it comes from and what is in it.

    Attributes:
        kind: "image" or "video".
        source: the page that has it.
        note: sizes, format and licence in a few words.
        count: number of items.
        items: known items, or () where the names are not fixed: then every file of the folder counts.
        url: address of each item for `--download`, with {name} in it, or "".
        sha256: first 16 hex digits of SHA-256 of each item's file, in the order of `items`.
    """

    name: str
    kind: str
    source: str
    note: str
    count: int
    items: tuple[Sequence, ...] = ()
    url: str = ""
    sha256: tuple[str, ...] = ()


def _videos(width: int, height: int, items: str) -> tuple[Sequence, ...]:
    """Items written "Name frames fps, ..."."""
    rows = (row.split() for row in items.split(","))
    return tuple(Sequence(name, width, height, int(frames), float(fps)) for name, frames, fps in rows)


_KODAK_TALL = {4, 9, 10, 17, 18, 19}
_KODAK_SHA = """
a56e27cbf5f843c0 4f4b74a79237e311 e25ca1ff2f0c0cb5 e3b946107c5d3441 10349e963c5c813d 363510303b715d4c
b77d3f006f42414b ba23983c76b4832e 6a4361c2fc194feb 9dfb70f5867c29ff 7936814b58b5387f d78c37c2f04f2376
bc34a3ce58dea09d 55a94550ff18f324 7538cbb80cb91036 a89c7268ccd4718b 37afcc89fbdcb76d 1a9258c365988961
b7450b264b1b0a41 3b46c71e3b92a563 ac958597c82073f6 1cee58eb1f2d9c7e e3111a2fd4da24af 1071c68372cc5a01
"""
_MCL_FPS = {**dict.fromkeys((5, 6, 7, 8, 9, 18, 20), 25), **dict.fromkeys((17, 21, 22, 23, 24, 25, 29), 24)}
_MCL_FRAMES = {24: 120, 25: 125, 30: 150}
_HEVC_PAGE = "https://www.itu.int/wftp3/av-arch/jctvc-site/ (JCT-VC common test conditions; research use)"

REGISTRY = {
    d.name: d
    for d in (
        DataSet(
            "kodak",
            "image",
            "https://r0k.us/graphics/kodak/",
            "24 photographs, 768x512 or 512x768, PNG; released by Kodak for unrestricted use",
            24,
            tuple(Sequence(f"kodim{i:02d}", *((512, 768) if i in _KODAK_TALL else (768, 512))) for i in range(1, 25)),
            "https://r0k.us/graphics/kodak/kodak/{name}.png",
            tuple(_KODAK_SHA.split()),
        ),
        DataSet(
            "clic2020",
            "image",
            "https://compression.cc/",
            "CLIC 2020 test set, 428 photographs (250 professional, 178 mobile), up to 2048 a side, PNG",
            428,
        ),
        DataSet(
            "tecnick",
            "image",
            "https://testimages.org/",
            "TESTIMAGES, SAMPLING, 100 images, 1200x1200, RGB 8 bits, PNG; research use",
            100,
        ),
        DataSet(
            "uvg",
            "video",
            "https://ultravideo.fi/dataset.html",
            "7 sequences, 1920x1080, 120 fps, 4:2:0 8 bits, raw .yuv; CC BY-NC 3.0",
            7,
            _videos(
                1920,
                1080,
                "Beauty 600 120, Bosphorus 600 120, HoneyBee 600 120, Jockey 600 120, ReadySteadyGo 600 120, "
                "ShakeNDry 300 120, YachtRide 600 120",
            ),
        ),
        DataSet(
            "mcl-jcv",
            "video",
            "https://mcl.usc.edu/mcl-jcv-dataset/",
            "30 sequences, 1920x1080, 24 to 30 fps, 4:2:0 8 bits, .yuv or .mp4; research use",
            30,
            tuple(
                Sequence(f"videoSRC{i:02d}", 1920, 1080, _MCL_FRAMES[_MCL_FPS.get(i, 30)], _MCL_FPS.get(i, 30))
                for i in range(1, 31)
            ),
        ),
        DataSet(
            "hevc-b",
            "video",
            _HEVC_PAGE,
            "5 sequences, 1920x1080, 4:2:0 8 bits, raw .yuv",
            5,
            _videos(
                1920,
                1080,
                "BasketballDrive 500 50, BQTerrace 600 60, Cactus 500 50, Kimono1 240 24, ParkScene 240 24",
            ),
        ),
        DataSet(
            "hevc-c",
            "video",
            _HEVC_PAGE,
            "4 sequences, 832x480, 4:2:0 8 bits, raw .yuv",
            4,
            _videos(832, 480, "BasketballDrill 500 50, BQMall 600 60, PartyScene 500 50, RaceHorses 300 30"),
        ),
        DataSet(
            "hevc-d",
            "video",
            _HEVC_PAGE,
            "4 sequences, 416x240, 4:2:0 8 bits, raw .yuv",
            4,
            _videos(416, 240, "BasketballPass 500 50, BlowingBubbles 500 50, BQSquare 600 60, RaceHorses 300 30"),
        ),
        DataSet(
            "hevc-e",
            "video",
            _HEVC_PAGE,
            "3 sequences, 1280x720, 60 fps, 4:2:0 8 bits, raw .yuv",
            3,
            _videos(1280, 720, "FourPeople 600 60, Johnny 600 60, KristenAndSara 600 60"),
        ),
    )
}


@dataclass(frozen=True)
class Item:
    """One image or one video on disk.

    Attributes:
        name: unique in its set.
        path: a file, or a folder of equally large images in the order of their names (a video).
        kind: "image" or "video".
        width, height: pixels.
        fps: frames a second; 0 for images.
        size: bytes on disk; it and `crc` tell a file that changed from one that did not.
        crc: CRC-32 of the first frame.
    """

    name: str
    path: str
    kind: str
    width: int
    height: int
    fps: float
    size: int
    crc: int


@dataclass(frozen=True)
class Listing:
    """Items found, and one line for each that is broken or missing."""

    name: str
    kind: str
    items: tuple[Item, ...]
    problems: tuple[str, ...]


def load(dataset: str, root: str | None = None, download: bool = False, names: tuple[str, ...] = ()) -> Listing:
    """Find a data set by registered name or by path.

    Args:
        dataset: a name in REGISTRY, or the path of an image, a video, or a folder of either.
        root: the folder that holds the sets' folders; default: environment variable BSQCODEC_DATA, else "data".
        download: fetch what is missing where the set has an address.
        names: patterns (as in a shell) of the items wanted; () is all.

    Raises:
        MissingDataSet: a registered set is not there.
        BsqError: unknown name, nothing usable found, images and videos mixed, or a download that failed.
    """
    known = REGISTRY.get(dataset)
    if known:
        folder = Path(root or os.environ.get("BSQCODEC_DATA", "data")) / dataset
        if download:
            _download(known, folder)
        paths, problems = _registered(known, folder)
    else:
        paths, problems = _files(Path(dataset)), []
    if names:
        paths = [p for p in paths if any(fnmatch.fnmatch(p.stem, pattern) for pattern in names)]
        problems = []
        if not paths:
            raise BsqError(f"no item of {dataset} is called {' or '.join(names)}")
    items = []
    for path in paths:
        try:
            items.append(_as_registered(probe(path), known) if known else probe(path))
        except BsqError as error:
            problems.append(str(error))
    kinds = {item.kind for item in items}
    if len(kinds) > 1:
        raise BsqError(f"{dataset} holds both images and videos; give a folder of one kind")
    if not items:
        raise BsqError(problems[0] if problems else f"no image or video in {dataset}")
    if len({item.name for item in items}) < len(items):
        raise BsqError(f"two items of {dataset} have the same name without suffix")
    return Listing(dataset if known else Path(dataset).stem, kinds.pop(), tuple(items), tuple(problems))


def _as_registered(item: Item, known: DataSet) -> Item:
    """The item with the registered frame rate, which not every file tells. Raises BsqError if its size is another."""
    for s in known.items:
        if _is_called(item.name, s.name):
            if (item.width, item.height) != (s.width, s.height):
                raise BsqError(f"{item.name} is {item.width}x{item.height}; in {known.name} it is {s.width}x{s.height}")
            return replace(item, fps=s.fps)
    return item


def _is_called(stem: str, name: str) -> bool:
    return re.match(rf"{re.escape(name)}(?![A-Za-z0-9])", stem, re.IGNORECASE) is not None


def _registered(known: DataSet, folder: Path) -> tuple[list[Path], list[str]]:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    wanted = [s.name for s in known.items]
    found: dict[str, Path] = {}
    for name in wanted:
        matches = [p for p in files if _is_called(p.stem, name)]
        if matches:
            found[name] = matches[0]
    paths = [found[n] for n in wanted if n in found] if wanted else files
    if not paths:
        names = f" as {wanted[0]}*, {wanted[1]}*, ..." if wanted else ""
        fetch = "; --download fetches it" if known.url else ""
        raise MissingDataSet(
            f"data set {known.name} is not there: put its {known.count} files into {folder}{names} "
            f"({known.note}) from {known.source}{fetch}"
        )
    missing = [n for n in wanted if n not in found]
    if not wanted and len(files) < known.count:
        return paths, [f"{known.name} has {known.count} files, {folder} holds {len(files)}"]
    return paths, [f"{known.name} lacks {', '.join(missing)}"] if missing else []


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BsqError(f"no data set and no file called {path}; known data sets: {', '.join(REGISTRY)}")
    inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    files = [p for p in inside if p.suffix.lower() in SUFFIXES]
    return files or [p for p in inside if p.is_dir() and _images(p)]


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def _download(known: DataSet, folder: Path) -> None:
    """Fetch the files of a set that are missing, with a progress bar, and check all against their SHA-256."""
    from tqdm import tqdm

    if not known.url:
        raise BsqError(f"{known.name} cannot be fetched automatically; get it from {known.source}")
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(known.url.format(name=s.name), digest) for s, digest in zip(known.items, known.sha256, strict=True)]
    for url, digest in tqdm(rows, desc=f"fetching {known.name}", unit="file", disable=None):
        path = folder / url.rpartition("/")[2]
        if path.exists():
            if not _has_digest(path.read_bytes(), digest):
                raise BsqError(f"{path} is not the file that it should be (SHA-256 differs); delete it to fetch it")
            continue
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                data = response.read()
        except OSError as error:
            raise BsqError(f"cannot fetch {url}: {error}") from None
        if not _has_digest(data, digest):
            raise BsqError(f"{url} is not the file that it should be (SHA-256 differs); nothing was kept of it")
        with replacing(str(path)) as part:
            Path(part).write_bytes(data)


def _has_digest(data: bytes, digest: str) -> bool:
    return hashlib.sha256(data).hexdigest().startswith(digest)


def raw_format(path: Path) -> dict[str, str]:
    """Size, rate and pixel format of a raw .yuv from its name, as options of FFmpeg's rawvideo reader.

    Understood: NAME_WxH_FPS.yuv, NAME_WxH_FPSfps_420_8bit_YUV.yuv and the like; without a rate 25, without a format
    4:2:0, 8 bits. Raises BsqError if no size is in the name.
    """
    name = path.stem
    size = re.search(r"(?<!\d)(\d{2,5})x(\d{2,5})(?!\d)", name)
    if not size:
        raise BsqError(f"{path}: a raw video needs its size in the name, for example NAME_1920x1080_50.yuv")
    rest = name[size.end() :]
    rate = re.search(r"_(\d+(?:\.\d+)?)(?:fps|hz)?(?=_|$)", rest, re.IGNORECASE)
    chroma = re.search(r"4(?:44|22|20)", rest)
    bits = re.search(r"(8|10)[ _-]?bit", rest, re.IGNORECASE)
    fps = rate[1] if rate and not (chroma and rate[1] == chroma[0]) else "25"
    deep = bits is not None and bits[1] == "10"
    pixel_format = f"yuv{chroma[0] if chroma else '420'}p{'10le' if deep else ''}"
    return {"video_size": f"{size[1]}x{size[2]}", "framerate": fps, "pixel_format": pixel_format}


def probe(path: Path) -> Item:
    """Look at one image (decoded as a whole) or video (its first frame). Raises BsqError if it cannot be read."""
    is_image = path.suffix.lower() in IMAGE_SUFFIXES
    first = next(frames_of(path), None)
    if first is None:
        raise BsqError(f"{path.name} holds no frame")
    height, width = first.shape[:2]
    fps = 0.0
    if path.is_dir():
        fps = 25.0
        size = sum(p.stat().st_size for p in _images(path))
    else:
        size = path.stat().st_size
        if not is_image:
            fps = _frame_rate(path)
    kind = "image" if is_image else "video"
    # absolute: workers of a cluster need not be in the same folder
    return Item(path.stem, str(path.absolute()), kind, width, height, fps, size, zlib.crc32(first.tobytes()))


def frames_of(path: Path, limit: int | None = None) -> Iterator[np.ndarray]:
    """Frames of an image, a video, a folder of images, or a .bsq file, each uint8 (H, W, 3) RGB.

    Args:
        limit: at most that many frames.

    Raises:
        BsqError: the file cannot be read, or the images of a folder differ in size.
    """
    if not path.exists():
        raise BsqError(f"no such file: {path}")
    if path.is_dir():
        reader: Callable[[Path], Iterator[np.ndarray]] = _folder_frames
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        reader = _image_frames
    elif path.suffix.lower() == ".bsq":
        reader = _bsq_frames
    else:
        reader = _video_frames
    return islice(reader(path), limit)


def _image_frames(path: Path) -> Iterator[np.ndarray]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield np.array(image.convert("RGB"))
    except Exception as error:
        raise BsqError(f"{path.name} is broken or not an image ({first_line(error)})") from None


def _folder_frames(path: Path) -> Iterator[np.ndarray]:
    shape = None
    for file in _images(path):
        for frame in _image_frames(file):
            if shape not in (None, frame.shape):
                raise BsqError(f"{path.name}: {file.name} differs in size from the images before it")
            shape = frame.shape
            yield frame


def _bsq_frames(path: Path) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        for frame in Decoder(file).frames():
            yield frame.rgb


def _open_video(path: Path):
    import av

    if path.suffix.lower() == ".yuv":
        options = raw_format(path)
        width, height = map(int, options["video_size"].split("x"))
        samples = {"20": 1.5, "22": 2, "44": 3}[options["pixel_format"][4:6]]
        frame = int(width * height * samples) * (2 if "10le" in options["pixel_format"] else 1)
        if path.stat().st_size % frame:
            raise BsqError(f"{path.name} is not a whole number of {options['video_size']} frames")
        return av.open(str(path), format="rawvideo", options=options)
    return av.open(str(path))


def _frame_rate(path: Path) -> float:
    with _open_video(path) as container:
        stream = container.streams.video[0]
        return float(stream.average_rate or stream.guessed_rate or 25)


def _video_frames(path: Path) -> Iterator[np.ndarray]:
    import av

    try:
        with _open_video(path) as container:
            if not container.streams.video:
                raise BsqError(f"{path.name} has no video stream")
            for frame in container.decode(video=0):
                stated = int(frame.colorspace)
                yield colour.to_rgb(frame, stated if stated in colour.MATRICES else colour.BT709)
    except (av.FFmpegError, OSError) as error:
        raise BsqError(f"{path.name} is broken or not a video ({first_line(error)})") from None
