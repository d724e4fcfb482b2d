"""Parts of pages that load nothing else: tables, lists, pictures on top of each other."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

WIDTH = 512  # of pictures on a page, in its pixels, where they are not larger themselves

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem} h2{font-size:1.25rem;margin-top:2.5rem}
pre{background:#8882;padding:.8rem;overflow-x:auto;border-radius:6px}
.wide{overflow-x:auto} table{border-collapse:collapse;font-size:.85rem;margin:.6rem 0}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
.facts td:last-child{text-align:left;white-space:normal}
.plot{background:#fff;border-radius:6px;margin:1rem 0;overflow-x:auto} .plot svg{max-width:100%;height:auto}
.note{font-size:.85rem;opacity:.8} .crop{margin:1.5rem 0;max-width:100%}
.pair{position:relative;margin:.4rem 0}
.pair img{width:100%;display:block;image-rendering:pixelated} .pair .left{position:absolute;inset:0}
.pair .line{position:absolute;top:0;bottom:0;width:2px;background:#fff;box-shadow:0 0 3px #000}
.crop [type=range]{width:100%;margin:0;position:sticky;bottom:.5rem} .choice label{margin-right:1rem;font-size:.85rem}
.broad{max-width:none} .large .pair img{image-rendering:auto}
.crop:has(.whole:checked){max-width:none} .crop:has(.whole:checked) .pair img{image-rendering:pixelated}
.crop:has(.difference:checked) .pair{filter:brightness(8)}
.crop:has(.difference:checked) .left{mix-blend-mode:difference;clip-path:none!important}
.crop:has(.difference:checked) .line{display:none}
"""

_SCRIPT = """
for (const crop of document.querySelectorAll('.crop')) {
  const get = s => crop.querySelector(s), stored = crop.querySelectorAll('.stored img');
  const draw = () => {
    const x = get('input').value;
    get('.left').src = stored[get('.pick-left').selectedIndex].src;
    get('.right').src = stored[get('.pick-right').selectedIndex].src;
    get('.left').style.clipPath = `inset(0 ${100 - x}% 0 0)`;
    get('.line').style.left = `calc(${x}% - 1px)`;
  };
  for (const e of crop.querySelectorAll('input, select')) e.addEventListener('input', draw);
  draw();
}
"""


@dataclass(frozen=True)
class Slider:
    """Pictures of one size on top of each other, two at a time, with a slider between them.

    Attributes:
        title: what they show.
        images: (label, caption, PNG file).
        left, right: which of them are shown first.
        width: of the pictures on the page, in its pixels; as wide as the page if that is less.
    """

    title: str
    images: list[tuple[str, str, bytes]]
    left: int
    right: int
    width: int = WIDTH


def document(title: str, parts: Iterable[str], broad: bool = False) -> str:
    """A page of a title and HTML elements; `broad` if it may be as broad as the window."""
    body = '<body class="broad">' if broad else "<body>"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head>{body}{''.join(parts)}<script>{_SCRIPT}</script></body></html>\n"
    )


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 (H, W, 3)."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG")
    return out.getvalue()


def largest_window(energy: np.ndarray, side: int) -> tuple[slice, slice]:
    """The side x side window of a picture, on a grid of half its side, with the largest sum of `energy` (H, W)."""
    h, w = min(side, energy.shape[0]), min(side, energy.shape[1])
    rows, columns = (range(0, n - m + 1, side // 2) for n, m in zip(energy.shape, (h, w), strict=True))
    corners = [(y, x) for y in rows for x in columns]
    y, x = max(corners, key=lambda c: float(energy[c[0] : c[0] + h, c[1] : c[1] + w].sum()))
    return slice(y, y + h), slice(x, x + w)


def bullets(lines: Iterable[str], attributes: str = "") -> str:
    """A list of lines of HTML; attributes: of its element, with a space before them."""
    return f"<ul{attributes}>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def table(rows: list[list[str]]) -> str:
    """A table of rows of text, a header first."""
    head = "".join(f"<th>{escape(c)}</th>" for c in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows[1:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def slider(shown: Slider, number: int) -> str:
    """The pictures, a slider, and menus and boxes that choose what is shown."""
    names = [escape(f"{label}: {caption}" if caption else label) for label, caption, _ in shown.images]
    urls = ["data:image/png;base64," + base64.b64encode(data).decode() for *_, data in shown.images]
    stored = "".join(f'<img alt="{name}" src="{url}">' for name, url in zip(names, urls, strict=True))
    large = shown.width > WIDTH
    whole = '<label><input type="checkbox" class="whole"> full size</label>' if large else ""
    return (
        f'<figure class="crop{" large" if large else ""}" id="crop-{number}" style="width:{shown.width}px">'
        f"<figcaption>{escape(shown.title)}</figcaption>"
        '<div class="pair"><img class="right" alt=""><img class="left" alt=""><div class="line"></div></div>'
        '<input type="range" min="0" max="100" value="50" aria-label="divide between left and right">'
        f'<div class="choice"><label>left <select class="pick-left">{_menu(names, shown.left)}</select></label> '
        f'<label>right <select class="pick-right">{_menu(names, shown.right)}</select></label> '
        f'<label><input type="checkbox" class="difference"> difference, 8-fold</label> {whole}</div>'
        f'<div class="stored" hidden>{stored}</div></figure>'
    )


def _menu(names: list[str], chosen: int) -> str:
    return "".join(f"<option{' selected' if i == chosen else ''}>{name}</option>" for i, name in enumerate(names))
