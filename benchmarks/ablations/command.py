"""The command that runs experiments, one run after the other, and writes their tables."""

import json
from pathlib import Path
from types import ModuleType

import click
import torch
from tqdm import tqdm

from bsqcodec.errors import BsqError
from bsqcodec.network.weights import device_of
from bsqcodec.output import replacing

from . import (
    comparison_of_backbones,
    comparison_of_quantisers,
    data,
    groups,
    orders,
    prior_cost,
    recognition,
    shapes,
    temporal,
)
from .plots import draw

EXPERIMENTS: dict[str, ModuleType] = {
    "quantisers": comparison_of_quantisers,
    "backbones": comparison_of_backbones,
    "orders": orders,
    "groups": groups,
    "temporal": temporal,
    "prior-cost": prior_cost,
    "shapes": shapes,
    "recognition": recognition,
}
WITH_CLIPS = {"backbones", "temporal"}
WITHOUT_DATA = {"recognition"}


@click.command()
@click.argument("experiments", nargs=-1, type=click.Choice(tuple(EXPERIMENTS)))
@click.option("--photos", multiple=True, help="A tar shard or folder of photographs; may be repeated.")
@click.option("--clips", multiple=True, help="Likewise of strips of 7 or more square frames.")
@click.option("--out", default="runs/ablations", show_default=True, help="The folder of results.")
@click.option("--steps", default=600, show_default=True, type=click.IntRange(1), help="Training steps of a run.")
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(1), help="Number of seeds.")
@click.option("--variant", "only", multiple=True, help="Run no others; may be repeated.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--threads", type=click.IntRange(1), help="Of the CPU.")
def main(
    experiments: tuple[str, ...], photos: tuple[str, ...], clips: tuple[str, ...], out: str, steps: int, seeds: int,
    only: tuple[str, ...], device: str, threads: int | None,
) -> None:  # fmt: skip
    """Run EXPERIMENTS, or all of them, and print their tables.

    Tables go to OUT/EXPERIMENT.md, too, and curves to OUT/EXPERIMENT.png.

    A run that was broken off begins again; those that were finished, with as many steps, are read from OUT. Tables hold
    all of these.
    """
    names = experiments or tuple(EXPERIMENTS)
    if not photos and not WITHOUT_DATA.issuperset(names):
        raise click.UsageError("give --photos: pictures to train on, of which one in twenty measures")
    if not clips and not WITH_CLIPS.isdisjoint(names):
        raise click.UsageError(f"give --clips, too: {', '.join(sorted(WITH_CLIPS))} train on frames of videos")
    if unknown := set(only).difference(*(EXPERIMENTS[name].VARIANTS for name in names)):
        raise click.UsageError(f"no variant {', '.join(sorted(unknown))} in {', '.join(names)}")
    if threads:
        torch.set_num_threads(threads)
    try:
        settings = data.Settings(steps, device_of(device))
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        loaded: data.Data | None = None
        plan = [
            (e, v, s) for s in range(seeds) for e in names for v in EXPERIMENTS[e].VARIANTS if not only or v in only
        ]
        for name, variant, seed in tqdm(plan, disable=None, unit="run"):
            path = folder / f"{name}-{variant}-{seed}.json"
            if path.exists() and json.loads(path.read_text()).get("steps") == steps:
                continue
            if loaded is None and name not in WITHOUT_DATA:
                loaded = data.load(list(photos), list(clips), settings.device)
            row = EXPERIMENTS[name].run(variant, seed, loaded, settings)
            with replacing(path) as part:
                row |= {"variant": variant, "seed": seed, "steps": steps}
                Path(part).write_text(json.dumps(row, indent=1))
        for name in names:
            order = list(EXPERIMENTS[name].VARIANTS)
            rows = [json.loads(p.read_text()) for p in folder.glob(f"{name}-*.json")]
            rows = [row for row in rows if row["variant"] in order and row.get("steps") == steps]
            rows.sort(key=lambda row: (order.index(row["variant"]), row["seed"]))
            text = EXPERIMENTS[name].table(rows)
            (folder / f"{name}.md").write_text(text)
            if rows and "points" in rows[0]:
                draw(rows, folder / f"{name}.png")
            click.echo(f"## {name}\n\n{text}")
    except BsqError as e:
        raise click.ClickException(str(e)) from e
