"""The report in a browser: it loads without an error, shows its curves, and its slider moves."""

import json
import re
import shutil
import subprocess

import pytest

pytest.importorskip("skimage")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

import skimage.data
from click.testing import CliRunner
from PIL import Image

from bsqcodec.bench.command import bench

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PROBE = """<script>
const found = {errors: window.errors}, crop = document.querySelector('.crop'), input = crop.querySelector('input');
const look = () => [crop.querySelector('.left').style.clipPath, crop.querySelector('.line').style.left];
found.before = look();
input.value = 20; input.dispatchEvent(new Event('input'));
found.after = look();
const left = crop.querySelector('.left'), pick = crop.querySelector('.pick-left'), first = left.src;
pick.selectedIndex = 0; pick.dispatchEvent(new Event('input'));
found.switched = left.src !== first && left.src.startsWith('data:image/png');
found.curves = [...document.querySelectorAll('[id^=curve-] path')].map(p => p.closest('[id^=curve-]').id);
found.size = [left.naturalWidth, left.naturalHeight];
crop.querySelector('.difference').click();
found.blend = getComputedStyle(left).mixBlendMode;
document.body.setAttribute('data-found', JSON.stringify(found));
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("set")
    Image.fromarray(skimage.data.astronaut()[:192, 100:308]).save(folder / "one.png")
    arguments = ["--dataset", folder, "--codecs", "webp,jpeg", "--metrics", "psnr", "--out", folder / "out"]
    points = ["--points", "webp=10,40,70,90", "--points", "jpeg=10,30,60,90"]
    result = CliRunner().invoke(bench, [str(a) for a in arguments + points], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return (folder / "out" / f"{folder.stem}.html").read_text()


def test_page_stands_alone(page):
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)([^"'\s)>]+)""", page)
    assert not [link for link in links if not link.startswith(("stored[", "url(#"))], links
    assert "side by side" in page.lower() and "BD-rate" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_page_in_chromium(page, tmp_path):
    watch = "<script>window.errors = []; addEventListener('error', e => errors.push(e.message), true);</script>"
    probed = page.replace("<head>", "<head>" + watch).replace("</body>", PROBE + "</body>")
    (tmp_path / "page.html").write_text(probed)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=3000", "--dump-dom", (tmp_path / "page.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    found = json.loads(re.search(r'data-found="([^"]*)"', dom)[1].replace("&quot;", '"'))
    assert found["errors"] == []
    assert "50%" in found["before"][0] and "80%" in found["after"][0] and found["before"][1] != found["after"][1]
    assert found["switched"] and found["blend"] == "difference"
    assert {"curve-psnr-rgb-webp", "curve-psnr-rgb-jpeg"} <= set(found["curves"])
