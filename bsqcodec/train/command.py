"""`bsqcodec train`, apart from trainer.py, which needs nothing beyond torch, numpy, pillow and safetensors."""

import click


@click.command()
@click.option("--config", "path", metavar="FILE.toml", help="The run: see bsqcodec/train/config.py for every key.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Length of the run, in place of the file's.")
@click.option("--plot", metavar="LOG", help="Draw LOG, a run's log.jsonl, into LOG.png; trains nothing.")
def train(path: str | None, minutes: float | None, plot: str | None) -> None:
    """Train a model, or go on with a run that was stopped."""
    if bool(path) == bool(plot):
        raise click.UsageError("give --config FILE.toml, or --plot LOG")
    if plot:
        from .plot import draw

        click.echo(draw(plot))
    else:
        from .trainer import train as run

        assert path
        click.echo(run(path, minutes))
