"""The data sets that are known by name: where each comes from, and what is in it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RegisteredItem:
    """One item of a registered set.

    Attributes:
        name: the stem of its file, or how the stem starts.
        width, height: pixels.
        frames: number of frames.
        fps: frames per second; 0 for images.
    """

    name: str
    width: int
    height: int
    frames: int = 1
    fps: float = 0


@dataclass(frozen=True)
class DataSet:
    """A registered set.

    Attributes:
        name: as on the command line, and of the folder that holds it.
        kind: "image" or "video".
        source: address of the page that offers it.
        note: sizes, format and licence in a few words.
        count: number of items.
        items: the items, or () where their names are not fixed: then every file of the folder counts.
        url: address of each item for `--download`, with {name} in it, or "".
        sha256: first 16 hex digits of SHA-256 of each item's file, in the order of `items`.
    """

    name: str
    kind: str
    source: str
    note: str
    count: int
    items: tuple[RegisteredItem, ...] = ()
    url: str = ""
    sha256: tuple[str, ...] = ()


def _videos(width: int, height: int, items: str) -> tuple[RegisteredItem, ...]:
    """Videos of one size, from text such as "Beauty 600 120, ShakeNDry 300 120": name, frames, frames per second."""
    rows = (row.split() for row in items.split(","))
    return tuple(RegisteredItem(name, width, height, int(frames), float(fps)) for name, frames, fps in rows)


_KODAK_TALL = {4, 9, 10, 17, 18, 19}  # numbers of the upright pictures
_KODAK_SHA = """
a56e27cbf5f843c0 4f4b74a79237e311 e25ca1ff2f0c0cb5 e3b946107c5d3441 10349e963c5c813d 363510303b715d4c
b77d3f006f42414b ba23983c76b4832e 6a4361c2fc194feb 9dfb70f5867c29ff 7936814b58b5387f d78c37c2f04f2376
bc34a3ce58dea09d 55a94550ff18f324 7538cbb80cb91036 a89c7268ccd4718b 37afcc89fbdcb76d 1a9258c365988961
b7450b264b1b0a41 3b46c71e3b92a563 ac958597c82073f6 1cee58eb1f2d9c7e e3111a2fd4da24af 1071c68372cc5a01
"""
# rate by number, 30 where none is given; frames by rate
_MCL_FPS = {**dict.fromkeys((5, 6, 7, 8, 9, 18, 20), 25), **dict.fromkeys((17, 21, 22, 23, 24, 25, 29), 24)}
_MCL_FRAMES = {24: 120, 25: 125, 30: 150}
_HEVC_PAGE = "https://www.itu.int/wftp3/av-arch/jctvc-site/ (JCT-VC common test conditions; research use)"

REGISTRY: dict[str, DataSet] = {
    d.name: d
    for d in (
        DataSet(
            "kodak",
            "image",
            "https://r0k.us/graphics/kodak/",
            "24 photographs, 768x512 or 512x768, PNG; released by Kodak for unrestricted use",
            24,
            tuple(
                RegisteredItem(f"kodim{i:02d}", *((512, 768) if i in _KODAK_TALL else (768, 512))) for i in range(1, 25)
            ),
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
                RegisteredItem(f"videoSRC{i:02d}", 1920, 1080, _MCL_FRAMES[_MCL_FPS.get(i, 30)], _MCL_FPS.get(i, 30))
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
