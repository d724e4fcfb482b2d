"""The page of `compare --html`: it stands alone, shows what differs, and is bounded."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage")
pytest.importorskip("pytorch_msssim")

import skimage.data
from bench_helpers import noisy, run

import bsqcodec
from bsqcodec.bench import compare_page


def shown(path) -> list[tuple[str, list[np.ndarray]]]:
    """Title and both pictures of every slider of a page."""
    found = []
    for figure in re.findall(r"<figure.*?</figure>", path.read_text(), re.DOTALL):
        files = re.findall(r'src="data:image/png;base64,([^"]+)"', figure)
        pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(file)))) for file in files]
        found.append((re.search(r"<figcaption>(.*?)</figcaption>", figure)[1], pictures))
    return found


def table(path, head: str) -> list[list[str]]:
    """The rows of the table whose first column has this head."""
    rows = re.search(rf"<th>{head}</th>.*?</table>", path.read_text(), re.DOTALL)[0].split("<tr>")[1:]
    return [re.findall(r"<td>(.*?)</td>", row) for row in rows]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two folders of seven frames, which differ the most in number 5, and the frames of both."""
    folder = tmp_path_factory.mktemp("clips")
    pan = [skimage.data.astronaut()[100:148, 150 + 4 * i : 214 + 4 * i] for i in range(7)]
    worse = [noisy(frame, 30 if i == 5 else 5) for i, frame in enumerate(pan)]
    for name, frames in (("a", pan), ("b", worse)):
        (folder / name).mkdir()
        for i, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / name / f"{i}.png")
    return folder, pan, worse


def test_a_picture_and_its_stream(pictures, tmp_path):
    picture = np.asarray(Image.open(pictures / "one.png"))
    (tmp_path / "<one>.bsq").write_bytes(bsqcodec.encode_image(picture, quality=20))
    words = ("compare", pictures / "one.png", tmp_path / "<one>.bsq")
    status, output = run(*words, "--html", tmp_path / "out.html")
    assert status == 0 and output == run(*words)[1]  # the metrics are printed as ever
    page = tmp_path / "out.html"
    ((title, both),) = shown(page)
    assert title == ""
    decoded = bsqcodec.decode_image((tmp_path / "<one>.bsq").read_bytes())
    assert np.array_equal(both[0], picture) and np.array_equal(both[1], decoded)
    values = table(page, "B against A")
    assert [row[:2] for row in values] == [line.split()[:2] for line in output.splitlines()]
    sizes = [path.stat().st_size for path in words[1:]]
    rates = [f"{8 * size / picture[..., 0].size:.4f}" for size in sizes]
    names = ["one.png", "&lt;one&gt;.bsq"]
    assert [[row[0], *row[4:]] for row in table(page, "file")] == [
        [name, str(size), rate] for name, size, rate in zip(names, sizes, rates, strict=True)
    ]


def test_the_page_loads_nothing_and_tells_no_folders(clips, tmp_path):
    folder, _, _ = clips
    assert run("compare", folder / "a", folder / "b", "--metrics", "psnr", "--html", tmp_path / "out.html")[0] == 0
    page = (tmp_path / "out.html").read_text()
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)([^"'\s)>]+)""", page)
    assert not [link for link in links if not link.startswith("stored[")], links
    assert str(folder) not in page and str(tmp_path) not in page


@pytest.mark.parametrize(
    ("words", "numbers", "reasons"),
    [
        ((), [5, 0, 3], ["the worst by psnr-rgb", "the first", "in the middle"]),
        (("--frames", 2), [0], ["the worst by psnr-rgb and the first"]),
        (("--frames", 1), [0], None),
        (("--metrics", "ms-ssim"), [0, 3], ["the first", "in the middle"]),  # too small for it
    ],
    ids=str,
)
def test_frames_of_a_video_that_are_shown(clips, tmp_path, words, numbers, reasons):
    folder, pan, worse = clips
    page = tmp_path / "out.html"
    base = ("compare", folder / "a", folder / "b", "--html", page)
    assert run(*base, *(words if "--metrics" in words else (*words, "--metrics", "psnr")))[0] == 0
    found = shown(page)
    for number, (title, both) in zip(sorted(numbers), sorted(found, key=lambda f: f[0]), strict=True):
        assert title.startswith(f"Frame {number} of ") or reasons is None
        assert np.array_equal(both[0], pan[number]) and np.array_equal(both[1], worse[number])
    assert all(any(reason in title for title, _ in found) for reason in reasons or ())
    rates = [row[-1] for row in table(page, "file")]
    assert ("-" in rates) == ("--frames" in words)  # of a part of a file nobody knows the bytes


def test_the_middle_of_a_stream_is_found_in_its_groups(clips, tmp_path):
    folder, pan, _ = clips
    bsqcodec.encode_file(str(folder / "a"), str(tmp_path / "a.bsq"), gop=2, low_delay=True)
    page = tmp_path / "out.html"
    assert run("compare", folder / "a", tmp_path / "a.bsq", "--metrics", "psnr", "--html", page)[0] == 0
    with (tmp_path / "a.bsq").open("rb") as file:
        decoded = [frame.rgb for frame in bsqcodec.Decoder(file).frames()]
    ((_, both),) = [entry for entry in shown(page) if "in the middle" in entry[0]]
    assert np.array_equal(both[0], pan[3]) and np.array_equal(both[1], decoded[3])


def test_large_pictures_are_cut_to_where_they_differ(tmp_path, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
    other = picture.copy()
    other[60:90, 100:140] ^= 128
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(other).save(tmp_path / "b.png")
    monkeypatch.setattr(compare_page, "MAX_BYTES", 25_000)
    page = tmp_path / "out.html"
    assert run("compare", tmp_path / "a.png", tmp_path / "b.png", "--metrics", "psnr", "--html", page)[0] == 0
    ((title, both),) = shown(page)
    assert title == "40x40 pixels from (100, 40) on, where the difference is largest"
    assert np.array_equal(both[0], picture[40:80, 100:140]) and np.array_equal(both[1], other[40:80, 100:140])
    assert page.stat().st_size < 50_000


def test_a_page_is_replaced_only_by_force_and_nothing_is_left_of_one_that_failed(pictures, tmp_path):
    page = tmp_path / "out.html"
    page.write_text("mine")
    base = ("compare", pictures / "one.png", pictures / "one.png", "--metrics", "psnr", "--html", page)
    assert run(*base) == (1, f"{page} exists already; -f replaces it") and page.read_text() == "mine"
    assert run("compare", pictures / "one.png", pictures / "two.png", "--html", page, "-f")[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"] and page.read_text() == "mine"
    assert "folder" in run(*base[:-1], tmp_path / "nowhere/out.html")[1]
    assert run(*base, "-f")[0] == 0 and len(shown(page)) == 1


def test_transparent_pictures_are_compared_on_black(pictures, tmp_path):
    rgba = np.asarray(Image.open(pictures / "one.png").convert("RGBA")).copy()
    rgba[:, :90, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    bsqcodec.encode_file(str(tmp_path / "a.png"), str(tmp_path / "a.bsq"), quality=60)
    page = tmp_path / "out.html"
    assert run("compare", tmp_path / "a.png", tmp_path / "a.bsq", "--html", page)[0] == 0
    ((_, both),) = shown(page)
    assert all(picture.shape == (192, 208, 3) and picture[:, :80].max() < 20 for picture in both)
    assert np.array_equal(both[0][:, 90:], rgba[:, 90:, :3])
