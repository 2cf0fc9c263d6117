"""The program that `svg.py` runs to render drawings, alone in a process, since a strange drawing can crash resvg.

It reads JSON from its standard input, {"size": pixels, "drawings": [texts of SVG]}, and writes size * size bytes for
each drawing to its standard output: grey, ink bright, paper 0. A drawing that resvg refuses stays paper.
"""

import io
import json
import sys

import numpy as np
import resvg_py
from PIL import Image


def grey(drawing: str, size: int) -> bytes:
    """The pixels of one drawing, black ink on white paper, inverted."""
    try:
        png = resvg_py.svg_to_bytes(svg_string=drawing, background="#ffffff", skip_system_fonts=True)
    except ValueError:
        return bytes(size * size)
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return (255 - np.asarray(image.convert("L"))).tobytes()


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    for drawing in asked["drawings"]:
        sys.stdout.buffer.write(grey(drawing, asked["size"]))
        sys.stdout.buffer.flush()
