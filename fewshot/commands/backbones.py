"""fewshot backbones: list the backbones, or measure them on this machine."""

import argparse

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from fewshot.backbones import BACKBONES, backbone_listing
from fewshot.commands import arguments, outputs
from fewshot.files import replace_text, writing


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot backbones`."""
    parser = commands.add_parser(
        "backbones",
        help="list the backbones, or measure their speed on this machine",
        description="List the backbones with their parameters and the size of their embeddings.",
        epilog="Example: fewshot backbones --size 84",
    )
    parser.add_argument(
        "--size",
        type=arguments.positive,
        default=84,
        metavar="PIXELS",
        help="height and width of the RGB images (default: 84)",
    )
    parser.add_argument(
        "--measure", action="store_true", help="also measure how many images per second they train on and embed"
    )
    parser.add_argument(
        "--batch", type=arguments.positive, default=64, metavar="B", help="images per batch (default: 64)"
    )
    arguments.add_device(parser)
    parser.add_argument(
        "--backbone", type=arguments.names_of("backbone"), metavar="NAME[,NAME]", help="list only these backbones"
    )
    parser.add_argument("--output", type=arguments.path, metavar="FILE.csv", help="write the table to a file, too")
    outputs.add_overwrite(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Print a table of the backbones, and write it to a file if that was asked for."""
    if options.output:
        outputs.check_new(options.output, options.overwrite)
    from fewshot.performance.backbones import measure_backbones  # other commands need not wait for its libraries

    about = {name: (text, paper) for name, text, paper in backbone_listing()}
    names = options.backbone or list(BACKBONES)
    rates = ["train img/s", "embed img/s"] if options.measure else []
    right = [Column(name, justify="right") for name in ("parameters", "embedding", *rates)]
    table = Table("backbone", *right, "what it is", box=box.SIMPLE_HEAD, pad_edge=False)
    measured = measure_backbones(names, options.size, options.batch, options.device, timed=options.measure)
    for row in measured.to_dict("records"):
        numbers = [f"{row['parameters']:,}", f"{row['embedding']:,}"]
        numbers += [f"{row[rate]:,.0f}" for rate in ("train_rate", "embed_rate")] if options.measure else []
        text, paper = about.get(row["backbone"], ("", ""))
        table.add_row(row["backbone"], *numbers, Text(f"{text} ({paper})" if paper else text))
    for name in [] if options.backbone else [name for name in about if name not in names]:
        table.add_row(name, *[""] * (2 + len(rates)), about[name][0])
    size = f"{options.size}x{options.size}"
    console.print(
        f"\nRGB images of {size}" + (f", {measured['device'][0]}" if options.measure else ""), highlight=False
    )
    console.print(table)
    if options.output:
        with writing(options.output.parent):
            replace_text(options.output, measured.round(1).to_csv(index=False))
        print(f"Written to {options.output}")
