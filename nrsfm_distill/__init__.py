"""3D poses from pictures or 2D landmarks, without 3D labels: the installed package.

``pip install`` puts the folders of this repository into this package, so that they have
one name in site-packages::

    from nrsfm_distill import PoseEstimator, PoseLifter, losses

In the repository itself they are imported as they lie: ``import losses``.
"""

import importlib
import sys
from typing import Any

__version__ = "0.1.0"
_WHERE = {"PoseLifter": "nrsfm_jax", "PoseEstimator": "pose_jax"}


def __getattr__(name: str) -> Any:
    # Neither is read before it is asked for: `losses` needs JAX alone.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _with_extras(_WHERE[name], name)


def command() -> None:
    """The command ``nrsfm-distill``."""
    try:
        start = _with_extras("main", "start")
    except ImportError as error:
        sys.exit(f"error: {error}")
    start()


def _with_extras(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        text = f"{error}; it comes with: pip install 'nrsfm-distill[train]'"
        if error.name == f"{__name__}.{module}":
            text = f"{error}: not installed; in the repository: import {module}"
        raise ImportError(text, name=error.name) from error
