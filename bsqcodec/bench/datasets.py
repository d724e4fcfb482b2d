"""Data sets by registered name or path, and the images and videos in them that are on this disk."""

import fnmatch
import hashlib
import os
import re
import urllib.request
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BsqError
from ..output import replacing
from ..suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from .frames import RAW_SUFFIX, frame_rate, frames_of
from .registry import REGISTRY, DataSet

SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES | {RAW_SUFFIX}  # of files that a data set may hold


class MissingDataSet(BsqError):
    """A registered data set that is not on this disk; the command exits with status 2."""


@dataclass(frozen=True)
class Item:
    """One image or one video on disk.

    Attributes:
        name: unique in its set.
        path: a file, or a folder of equally large images that make a video in the order of their names.
        kind: "image" or "video".
        width, height: pixels.
        fps: frames per second; 0 for images.
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
    """The items of a data set that were found.

    Attributes:
        name: the set's registered name, or the stem of its path.
        kind: "image" or "video", of all items.
        items: those that can be read.
        problems: one line for each that is broken or missing.
    """

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
    """The item with the registered frame rate, which not every file tells. Raises BsqError if its size differs."""
    for s in known.items:
        if _is_called(item.name, s.name):
            if (item.width, item.height) != (s.width, s.height):
                raise BsqError(f"{item.name} is {item.width}x{item.height}; in {known.name} it is {s.width}x{s.height}")
            return replace(item, fps=s.fps)
    return item


def _is_called(stem: str, name: str) -> bool:
    """Whether a file's stem is a registered name, alone or before something like "_1920x1080"."""
    return re.match(rf"{re.escape(name)}(?![A-Za-z0-9])", stem, re.IGNORECASE) is not None


def _registered(known: DataSet, folder: Path) -> tuple[list[Path], list[str]]:
    """Files of a registered set in its folder, and a line if some are missing. Raises MissingDataSet if all are."""
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
    """The path itself if it is a file; else the images and videos in it, or its subfolders of images."""
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


def probe(path: Path) -> Item:
    """Look at an image or the first frame of a video. Raises BsqError if it cannot be read."""
    first = next(frames_of(path), None)
    if first is None:
        raise BsqError(f"{path.name} holds no frame")
    height, width = first.shape[:2]
    fps = frame_rate(path)
    size = sum(p.stat().st_size for p in (_images(path) if path.is_dir() else [path]))
    kind = "video" if fps else "image"
    # absolute: workers of a cluster need not be in the same folder
    return Item(path.stem, str(path.absolute()), kind, width, height, fps, size, zlib.crc32(first.tobytes()))
