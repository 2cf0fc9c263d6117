"""The lowest versions of setup.cfg: one of each package, each known to work with the others."""

from pathlib import Path

import pytest
from lowest import lowest

SETUP = (Path(__file__).parents[1] / "setup.cfg").read_text(encoding="utf-8")


def bounds() -> dict[str, tuple[int, ...]]:
    named = dict(line.split("==") for line in lowest(SETUP))
    return {name: tuple(map(int, version.split("."))) for name, version in named.items()}


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("jinja2", (3, 1, 2)),  # pandas 2.2 refuses to write tables with an older one
        ("pillow", (10, 3)),  # older ones read 16-bit grey as 32-bit grey
        ("timm", (1, 0, 17)),  # open_clip_torch 3.0 asks for it, in the same extra
    ],
)
def test_bounds_that_were_too_low_are_not_again(package, version):
    assert bounds()[package] >= version


def test_every_package_with_a_bound_is_tried_at_it_but_pytorch():
    text = "[options]\ninstall_requires =\n    torch >= 2\n    a-b >= 1.2\n    # x >= 4\n    c\n    d == 1.*\n"
    assert lowest(text + "[options.extras_require]\nmore =\n    e_f >= 3\n    a-b >= 1.2\n") == ["a-b==1.2", "e_f==3"]


def test_a_package_has_the_same_bound_wherever_it_is_required():
    required = {line.strip() for line in SETUP.splitlines() if ">=" in line and not line.startswith(("python", "#"))}
    required = {line for line in required if not line.startswith("#")}
    names = [line.partition(" >=")[0] for line in required]
    assert len(names) == len(set(names))
