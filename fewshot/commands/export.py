"""fewshot export: write the embedding network of a checkpoint to a file that other programs read."""

import argparse

from rich.console import Console

from fewshot.commands import arguments, outputs
from fewshot.export import KINDS, export
from fewshot.loading import open_checkpoint


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot export`."""
    parser = commands.add_parser(
        "export",
        help="write the embedding network of a checkpoint for other programs",
        description="Write the embedding network of a checkpoint to a file that other programs read.",
        epilog="Example: fewshot export MODEL/best.pt --to onnx --output model.onnx",
    )
    parser.add_argument("checkpoint", type=arguments.path, metavar="CHECKPOINT", help="best.pt of a learner")
    parser.add_argument(
        "--to", required=True, choices=KINDS, help="safetensors: the weights alone; onnx: the network with its weights"
    )
    parser.add_argument("--output", required=True, type=arguments.path, metavar="FILE", help="the file to write")
    parser.add_argument("--learner", metavar="FILE.py:CLASS", help="the class of a learner that is not installed")
    outputs.add_overwrite(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Rebuild the learner of a checkpoint and write its embedding network."""
    outputs.check_new(options.output, options.overwrite)
    spec, learner = open_checkpoint(options.checkpoint, options.learner or "")
    export(learner, spec, options.to, options.output)
    shape = f"B x {spec.channels} x {spec.size} x {spec.size}"
    print(f"{spec.label}: images {shape} in [0, 1] to embeddings, written to {options.output}")
