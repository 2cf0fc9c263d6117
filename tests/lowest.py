"""Prints the lowest version that setup.cfg allows of each package, as constraints for pip; PyTorch may be any."""

import configparser
import re
from pathlib import Path

_ANY = ("torch", "torchvision")  # another version would download gigabytes for a build of the same code


def lowest(setup: str) -> list[str]:
    """'numpy==1.26' for 'numpy >= 1.26', and so on, of all that the text of a setup.cfg requires."""
    config = configparser.ConfigParser()
    config.read_string(setup)
    required = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    found = dict(re.findall(r"^([\w.-]+) *>= *([\w.]+)", "\n".join(required), re.MULTILINE))
    return [f"{name}=={version}" for name, version in found.items() if name not in _ANY]


if __name__ == "__main__":
    print("\n".join(lowest((Path(__file__).parents[1] / "setup.cfg").read_text(encoding="utf-8"))))
