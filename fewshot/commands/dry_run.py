"""What `fewshot bench --dry-run` prints: the models of a run, their steps and images, and how long they would take."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from episodes.errors import counted
from fewshot.forecast import Forecast
from fewshot.records import duration


def show_forecast(models: Sequence[Forecast], console: Console) -> None:
    """Print a line for each model, and one about the run."""
    table = Table()
    for heading in ("model", "training", "steps", "images", "time"):
        table.add_column(heading, justify="left" if heading in ("model", "training") else "right", overflow="fold")
    for one in models:
        time = "" if one.finished else duration(one.seconds)
        table.add_row(one.name, _training(one), f"{one.steps:,}", f"{one.images:,}", time)
    console.print(table)
    print(_whole([one for one in models if not one.finished], len(models)))


def _training(one: Forecast) -> str:
    if one.finished:
        return "finished earlier"
    if not one.steps:
        return "none"
    return f"shared with {one.follows}" if one.follows else "its own"


def _whole(left: Sequence[Forecast], models: int) -> str:
    """How many models of the run are left, and how much work they are."""
    images = sum(one.images for one in left if not one.follows)
    known = [one.seconds for one in left if one.seconds is not None]
    unknown = counted(len(left) - len(known), "model")
    about = f"by earlier runs about {duration(sum(known))} of work" if known else "no earlier run tells how long"
    about += f" without the {unknown} that none of them has" if 0 < len(known) < len(left) else ""
    would = f"{len(left)} of {counted(models, 'model')} would run and train on {images:,} images"
    return f"{would}; {about}. Nothing was run"
