"""What the documents show is so: examples run, paths and commands exist, figures are those of the results."""

import doctest
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from PIL import Image
from skimage import data as skdata

import bsqcodec
from bsqcodec.__main__ import cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "bitstream_spec.md",
    "benchmarks/README.md",
    "benchmarks/papers.md",
    "benchmarks/video.md",
    "models/README.md",
    "tests/README.md",
    "tests/data/README.md",
]
VIDEO = "BasketballPass_416x240_50fps"
FOLDERS = ".ci", "benchmarks", "bsqcodec", "examples", "models", "tests"
FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|md|toml|json|png|mp4|bsq|safetensors)|/run)")
NOT_HERE = {"NAME-bd.json", "NAME-CODEC.json", "NAME-METRIC.png", "realshort.mp4"}  # made by programs, or a source
OTHERS = {"--index-url", "--no-deps", "--durations", "--check"}


def text(document: str) -> str:
    return (ROOT / document).read_text()


def fenced(document: str) -> list[str]:
    """The blocks of Python, in order."""
    return re.findall(r"^```python\n(.*?)^```", text(document), re.MULTILINE | re.DOTALL)


def spans(document: str) -> list[str]:
    """What stands between backticks in sentences and tables."""
    plain = re.sub(r"^```.*?^```|^    .*?$", "", text(document), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", plain)]


def shown(document: str) -> Iterator[list[str]]:
    """The words of every command in indented blocks and between backticks."""
    blocks = re.sub(r"\\\n +", "", text(document))
    lines = [line.strip() for line in re.findall(r"^    .*$", blocks, re.MULTILINE)]
    for line in [*lines, *spans(document)]:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a sentence
        while "&&" in words or "|" in words:
            end = min(words.index(word) for word in ("&&", "|") if word in words)
            yield words[:end]
            words = words[end + 1 :]
        yield words


def exists(path: str, document: str) -> bool:
    """From the root, the document's folder, or the package."""
    return any((start / path).exists() for start in (ROOT, (ROOT / document).parent, ROOT / "bsqcodec"))


def slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def options(command: click.Command) -> set[str]:
    found = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found |= options(command.get_command(context, name) or click.Command(name))
    return found


def test_examples_of_the_library():
    attempted = 0
    for path in sorted((ROOT / "bsqcodec").rglob("*.py")):
        if ">>>" in path.read_text():
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            result = doctest.testmod(module)
            assert not result.failed
            attempted += result.attempted
    assert attempted > 8


def test_python_in_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(skdata.astronaut()[60:108, 180:244]).save("photo.png")
    namespace: dict[str, object] = {}
    for block in fenced("README.md"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert capsys.readouterr().out.splitlines() == [f"{t} (48, 64, 3)" for t in range(10, 14)]
    assert (tmp_path / "pan.bsq").stat().st_size < 20_000
    first = namespace["first"]
    assert isinstance(first, bsqcodec.Frame) and first.pts == 0


@pytest.mark.parametrize("document", DOCUMENTS)
def test_lines_fit(document):
    wide = [line for line in text(document).splitlines() if len(line) > 120]
    assert all(line.startswith("|") or "](" in line for line in wide), wide


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_exist(document):
    named = [span for span in spans(document) if FILE.fullmatch(span)]
    named += [word for words in shown(document) for word in words if word.split("/")[0] in FOLDERS and "/" in word]
    missing = {path for path in named if not exists(path.rstrip(","), document)} - NOT_HERE
    assert not missing


def test_the_readme_tells_what_every_part_of_the_package_is_for():
    parts = {path.name for path in (ROOT / "bsqcodec").iterdir() if path.suffix == ".py" and path.name != "__init__.py"}
    parts |= {f"{path.parent.name}/" for path in (ROOT / "bsqcodec").glob("*/__init__.py")}
    assert not parts - set(spans("README.md"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)]+)\)", text(document)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in map(slug, headings), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_options_exist(document):
    context = click.Context(cli)
    for words in shown(document):
        if words[:1] != ["bsqcodec"] or len(words) < 2 or words[1] == "COMMAND":
            continue
        if words[1].startswith("-"):
            assert set(words[1:]) <= options(cli), words
            continue
        command = cli.get_command(context, words[1])
        assert command, words
        if len(words) > 2:
            command.make_context(words[1], words[2:])  # raises for what it does not know, or cannot read


def with_commands(path: Path) -> str:
    """A script, and the modules of commands that it hands its options to."""
    script = path.read_text()
    commands = re.findall(r"^from ([\w.]+\.command) import", script, re.MULTILINE)
    places = [f"{name.replace('.', '/')}.py" for name in commands]  # of the package, or beside the script
    return script + "".join(next(p for p in (ROOT / x, path.parent / x) if p.exists()).read_text() for x in places)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_scripts_and_single_options_exist(document):
    scripts = {path: with_commands(path) for path in [*ROOT.glob("tests/*.py"), *ROOT.glob("benchmarks/*.py")]}
    known = options(cli) | OTHERS
    for words in shown(document):
        asked = {word.split("=")[0] for word in words if word.startswith("--")}
        if words[:1] == ["python"] and words[1].endswith(".py"):
            own = scripts.get(ROOT / words[1], "")
            assert all(f'"{option}"' in own for option in asked), words
        elif words and words[0].startswith("--"):
            assert all(option in known or any(f'"{option}"' in own for own in scripts.values()) for option in asked)


@pytest.mark.parametrize("document", ["tests/README.md", "CONTRIBUTING.md"])
def test_chosen_tests_exist(document):
    for words in shown(document):
        if "pytest" not in words or "-k" not in words:
            continue
        path, wanted = ROOT / words[words.index("pytest") + 1], words[words.index("-k") + 1]
        files = [path] if path.is_file() else sorted(path.rglob("test_*.py"))
        assert any(re.search(rf"def test_\w*{wanted}", file.read_text()) for file in files), words


def test_figures_are_those_of_the_results():
    folder = ROOT / "benchmarks/results"
    reports = iter(["kodak-bd.json", "tune-psnr/kodak-bd.json", f"{VIDEO}-bd.json", f"{VIDEO}-random-access-bd.json"])
    anchors = {"JPEG 2000": "jpeg2000", "WebP": "webp", "AVIF": "avif", "H.264": "h264", "HEVC": "hevc", "AV1": "av1"}
    table = text("benchmarks/README.md").partition("| BD-rate of bsqcodec |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:5]] for line in table.splitlines()[2:]]
    assert len(rows) == 11
    rates: dict[str, dict[str, dict[str, float]]] = {}
    for what, against, *figures in rows:
        if what:
            found = json.loads((folder / next(reports)).read_text())["rows against columns"]
            rates = {metric: next(iter(found[metric]["bd-rate-percent"].values())) for metric in found}
        anchor = next(name for title, name in anchors.items() if against.startswith(title))
        assert figures == [f"{rates[m][anchor]['value']:+.1f} %" for m in ("ms-ssim-rgb", "psnr-rgb")], against
