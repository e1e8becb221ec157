"""Builds the installed package: the folders of the repository inside nrsfm_distill.

Here they import each other as ``losses``, ``runtime`` and so on, names that many have
for modules of their own. In the wheel they are ``nrsfm_distill.losses`` and so on, and
their imports are written accordingly; nothing else is changed.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

NAME = "nrsfm_distill"
FOLDERS = (
    *("configs", "input_pipeline", "losses", "nrsfm_jax", "pose_jax", "runtime"),
    *("stages", "view"),
)
# What losses, nrsfm_jax and lifting import; with the bounds of requirements.txt.
CORE = ("jax", "jaxlib", "jaxtyping", "numpy", "optax", "safetensors")
EXTRAS = {
    "readers": ["sleap-io>=0.6,<0.10"],  # SLEAP's .slp
    "video": ["av>=14,<19"],  # videos
    "gpu": ["jax[cuda13]"],
}
_OURS = "|".join(FOLDERS)
_FROM = re.compile(rf"^(\s*)from ({_OURS})\b", re.MULTILINE)
_AS = re.compile(rf"^(\s*)import ((?:{_OURS})[\w.]* as \w+)$", re.MULTILINE)
_IMPORT = re.compile(rf"^(\s*)import (({_OURS})[\w.]*)$", re.MULTILINE)


def namespaced(text: str) -> str:
    """A source whose imports of the folders are those of the installed package."""
    text = _FROM.sub(rf"\1from {NAME}.\2", text)
    text = _AS.sub(rf"\1import {NAME}.\2", text)
    return _IMPORT.sub(rf"\1import {NAME}.\2\n\1from {NAME} import \3", text)


class Build(build_py):
    """Copies the sources with their imports changed, and main.py beside them."""

    def build_module(self, module, module_file, package):
        """Copies one of them."""
        done = super().build_module(module, module_file, package)
        target = Path(done[0])
        target.write_text(namespaced(target.read_text("utf-8")), "utf-8")
        return done

    def run(self):
        """Builds all."""
        super().run()
        text = namespaced(Path("main.py").read_text("utf-8"))
        Path(self.build_lib, NAME, "main.py").write_text(text, "utf-8")


if __name__ == "__main__":
    found = [p for p in find_packages(".") if p.partition(".")[0] in FOLDERS]
    lines = Path("requirements.txt").read_text("utf-8").splitlines()
    needed = [line for line in lines if line and not line.startswith("#")]
    setup(
        packages=[NAME, *(f"{NAME}.{p}" for p in found)],
        package_dir={f"{NAME}.{p}": p.replace(".", "/") for p in found},
        cmdclass={"build_py": Build},
        install_requires=[x for x in needed if re.split("[<>=]", x)[0] in CORE],
        extras_require={"train": needed} | EXTRAS,
    )
