"""What is done before a lease: the folders that are carried to the lent machine."""

import contextlib
import itertools
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import BsqError, first_line
from ...model_files import find_file, packaged_ids
from ...output import replacing
from ..config import read_toml
from .files import SHARDS, copy, digest, total_size, write_json

SPARE_BYTES = 50_000  # of a folder, for the manifest and the ends of its tars
TAR_BLOCK = 512  # bytes


class Item(NamedTuple):
    """A file in a shard: how the shard's name begins, the open tar, and the place in it."""

    shard: str
    tar: tarfile.TarFile
    info: tarfile.TarInfo

    @property
    def packed(self) -> int:
        """Bytes that it takes in a tar."""
        return TAR_BLOCK + -(-self.info.size // TAR_BLOCK) * TAR_BLOCK


def prepare(script: Path, config: Path, out: Path, data: Path | None, wheels: list[Path], most: float) -> None:
    """Make the folders to be carried: code, wheels and weights in the first, shares of the data in all.

    Args:
        script: lease.py, which is carried beside the package.
        config: the TOML file of the run.
        out: where the folders 0, 1, ... are made; replaced if `prepare` made it.
        data: the folder of the shards, if they lie elsewhere than the configuration says.
        wheels: packages that the lent machine lacks.
        most: size of a folder in millions of bytes.

    Raises BsqError for a configuration or data that cannot be carried, and if anything does not fit.
    """
    values = read_toml(config)
    if values.get("videos"):
        raise BsqError(f"{config}: videos cannot be carried, only tars of photos and of strips")
    if out.exists() and any(out.iterdir()) and not (out / "0/manifest.json").exists():
        raise BsqError(f"{out} is not empty and was not made by prepare")
    budget = int(most * 1e6) - SPARE_BYTES
    start = find_file(values["start"]).resolve() if values.get("start") else None
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as part:
        folders = Path(part)
        _first_folder(folders / "0", script, config, wheels, start)
        used = total_size(folders / "0")
        if used > budget:
            raise BsqError(f"code, wheels and weights have {used / 1e6:.1f} MB, a folder {most:g}")
        with _items(values, config.parent, data) as items:
            for k, share in enumerate(_shares(items, budget - used, budget)):
                _pack(folders / str(k), k, share)
        _add_models(folders, k, start, budget)
        for folder in sorted(folders.iterdir()):
            files = {str(p.relative_to(folder)): digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
            write_json(folder / "manifest.json", {"files": files})
        shutil.rmtree(out, ignore_errors=True)
    sizes = [f"{total_size(out / str(i)) / 1e6:.1f}" for i in range(len(list(out.iterdir())))]
    print(f"{out}: folders 0 to {len(sizes) - 1} of {', '.join(sizes)} MB")


def _first_folder(folder: Path, script: Path, config: Path, wheels: list[Path], start: Path | None) -> None:
    """Lay code, configuration, wheels and the weights to start from into a folder."""
    unwanted = shutil.ignore_patterns("*.safetensors", "__pycache__")
    shutil.copytree(Path(__file__).parents[2], folder / "code/bsqcodec", ignore=unwanted)
    copy(script, folder / "code/lease.py")
    copy(config, folder / "config.toml")
    for wheel in wheels:
        copy(wheel, folder / "wheels" / wheel.name)
    if start:
        copy(start, folder / "start.safetensors")


@contextlib.contextmanager
def _items(values: dict[str, Any], home: Path, data: Path | None) -> Iterator[list[tuple[float, Item]]]:
    """Every file in the shards of a configuration, and where it ends in all bytes of the shards like its own, 0..1.

    The tars are open until the end. home: the folder of the configuration; data: that of all shards, if it is another.
    """
    items: list[tuple[float, Item]] = []
    with contextlib.ExitStack() as tars:
        for key, shard in SHARDS.items():
            found: list[Item] = []
            for name in values.get(key, []):
                path = data / Path(name).name if data else home / name
                try:
                    tar = tars.enter_context(tarfile.open(path))
                    found += [Item(shard, tar, info) for info in tar if info.isfile()]
                except (tarfile.TarError, OSError, EOFError) as e:
                    raise BsqError(f"{path}: not a readable tar ({first_line(e)})") from e
            ends = list(itertools.accumulate(item.packed for item in found))
            items += [(end / ends[-1], item) for end, item in zip(ends, found, strict=True)]
        yield items


def _shares(items: list[tuple[float, Item]], first: int, rest: int) -> Iterator[list[Item]]:
    """The items of each folder, photographs and strips in the proportion of all.

    first, rest: bytes that the first folder has room for, and each other one.
    """
    chosen: list[Item] = []
    room = first
    for _, item in sorted(items, key=lambda pair: pair[0]):
        if item.packed > room and chosen:
            yield chosen
            room, chosen = rest, []
        if item.packed > room:
            raise BsqError(f"an image of {item.packed} bytes finds no room in a folder, beside code and weights")
        chosen.append(item)
        room -= item.packed
    if not chosen:
        raise BsqError("the configuration names no shards with images")
    yield chosen


def _pack(folder: Path, k: int, items: list[Item]) -> None:
    """Write the tars of folder number `k`; their members are numbered, for shards may use a name twice."""
    folder.mkdir(exist_ok=True)
    for shard in dict.fromkeys(item.shard for item in items):
        with tarfile.open(folder / f"{shard}-{k}.tar", "w", format=tarfile.USTAR_FORMAT) as out:
            for i, item in enumerate(item for item in items if item.shard == shard):
                file = item.tar.extractfile(item.info)
                assert file
                plain = tarfile.TarInfo(f"{i:06}{Path(item.info.name).suffix}")
                plain.size = item.info.size
                try:
                    out.addfile(plain, file)
                except (tarfile.TarError, OSError, EOFError) as e:
                    raise BsqError(f"{item.tar.name!r}: not a readable tar ({first_line(e)})") from e


def _add_models(folders: Path, last: int, start: Path | None, budget: int) -> None:
    """Lay the models of the conformance streams into the last folder, and into further ones.

    The run needs them only at its end; the one that it starts from is in the first folder already.
    """
    from ...selftest import conformance_streams  # which imports the range coder, and the lent machine may lack that

    names = {packaged_ids().get(bytes.fromhex(stream["model"]), "") for stream in conformance_streams()}
    k, room = last, budget - total_size(folders / str(last))
    for path in (path for path in map(find_file, sorted(names)) if path.resolve() != start):
        size = path.stat().st_size
        if size > budget:
            raise BsqError(f"{path.name} has {size / 1e6:.1f} MB, a folder {(budget + SPARE_BYTES) / 1e6:g}")
        if size > room:
            k, room = k + 1, budget
        copy(path, folders / str(k) / "models" / path.name)
        room -= size
