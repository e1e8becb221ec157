"""TensorFlow and TFDS, imported late, without messages and without accelerators."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any


@functools.cache
def load_tensorflow() -> Any:
    """The ``tensorflow`` module, which leaves GPUs and TPUs to JAX."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet(), _silent_stderr():
        import tensorflow as tf

        # A runtime that is already up has its devices; it is not ours to change.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
            tf.config.set_visible_devices([], "TPU")
    return tf


@functools.cache
def load_tfds() -> Any:
    """The ``tensorflow_datasets`` module, without its progress bars."""
    load_tensorflow()
    with quiet():
        import tensorflow_datasets as tfds
    tfds.disable_progress_bar()
    return tfds


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the chatter and the deprecation warnings of TensorFlow from the user."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Sends file descriptor 2 to nowhere.

    TensorFlow's C++ writes there while it loads, before it looks at its log level.
    What goes wrong meanwhile still arrives as a Python exception.
    """
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
