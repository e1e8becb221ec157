"""A student as a file for other programs: ``--stage=export``.

StableHLO (read by ``jax.export`` alone, on CPUs, GPUs and TPUs) and TensorFlow's
SavedModel. Both take (N, S, S, 3) uint8 patches, N free, and give ``pose`` and
``spread``, (N, P, 3) in patch units; ``export.json`` says how to cut the patches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from input_pipeline.augment import FILL
from pose_jax.estimator import PoseEstimator
from pose_jax.model import IMAGENET_MEAN, IMAGENET_STD
from runtime.files import own_outputs, write_json

PLATFORMS = ("cpu", "cuda", "tpu")
FORMATS = ("stablehlo", "saved_model")
STABLEHLO, SAVED_MODEL, ABOUT = "student.stablehlo", "saved_model", "export.json"
OUTPUTS = ("pose", "spread")


def export(config: Any, workdir: str | Path) -> Path:
    """Writes the formats of ``config.predict.formats`` to ``workdir/export``.

    Args:
        config: its ``predict``: ``mode`` (which student), ``formats``, ``out``.
        workdir: folder of the run.

    Returns:
        The folder.

    Raises:
        ValueError: no student, an unknown format, or a folder with files that are no
            earlier run's.
    """
    options = config.predict
    unknown = [name for name in options.formats if name not in FORMATS]
    if unknown or not options.formats:
        raise ValueError(
            f"config.predict.formats = {tuple(options.formats)}: choose from "
            f"{', '.join(FORMATS)}"
        )
    estimator = PoseEstimator.load(workdir, mode=options.mode)
    folder = Path(options.out) if options.out else Path(workdir) / "export"
    with own_outputs(folder, (STABLEHLO, SAVED_MODEL), about=ABOUT) as temporary:
        if "stablehlo" in options.formats:
            (temporary / STABLEHLO).write_bytes(stablehlo(estimator))
        if "saved_model" in options.formats:
            write_saved_model(estimator, temporary / SAVED_MODEL)
        write_json(temporary / ABOUT, about(estimator))
    return folder


def about(estimator: PoseEstimator) -> dict[str, Any]:
    """What a program needs besides the file."""
    record = estimator.record
    return {
        "format": 1,
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": ["N", record.image_size, record.image_size, 3],
            "colours": "RGB; the network scales them itself, by "
            f"mean {list(IMAGENET_MEAN)} and std {list(IMAGENET_STD)}",
            "crop": f"a square around the body, {record.padding:g} times the longer "
            f"side of its box; grey ({FILL:g}) outside the picture",
        },
        "outputs": {
            "pose": "(N, P, 3): x right, y down, z away from the camera; [-1, 1] "
            "across the crop in x and y, depth in the same unit",
            "spread": "(N, P, 3): standard deviation of the error, same unit",
        },
        "skeleton": record.skeleton.to_dict(),
        "mode": record.mode,
        "network": record.net,
        "versions": {"jax": jax.__version__},
    }


# --- StableHLO ---------------------------------------------------------------------


def stablehlo(estimator: PoseEstimator) -> bytearray:
    """The network with its weights inside, for any number of pictures.

    Read back by ``jax.jit(jax.export.deserialize(bytearray(data)).call)``.
    """
    apply, size = estimator.network(), estimator.record.image_size
    (count,) = jax_export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((count, size, size, 3), np.uint8)
    whole = jax.jit(lambda images: _named(apply(estimator.variables, images)))
    return jax_export.export(whole, platforms=PLATFORMS)(images).serialize()


def _named(outputs: tuple[Any, Any]) -> dict[str, Any]:
    return dict(zip(OUTPUTS, outputs, strict=True))


# --- TensorFlow --------------------------------------------------------------------


def write_saved_model(estimator: PoseEstimator, folder: Path) -> None:
    """Writes a SavedModel; its signature ``serving_default`` takes ``images``.

    The weights are TensorFlow variables, the computation is the same StableHLO.
    """
    import tensorflow as tf
    from jax.experimental import jax2tf

    apply, size = estimator.network(), estimator.record.image_size
    weights = jax.tree.map(
        lambda x: tf.Variable(tf.convert_to_tensor(np.asarray(x))), estimator.variables
    )
    network = jax2tf.convert(
        lambda variables, images: _named(apply(variables, images)),
        polymorphic_shapes=[None, "(n, _, _, _)"],
        native_serialization_platforms=PLATFORMS,
        with_gradient=False,
    )
    images = tf.TensorSpec((None, size, size, 3), tf.uint8, name="images")
    module = tf.Module()
    module.weights = jax.tree.leaves(weights)  # type: ignore  # found by the saver
    module.predict = tf.function(  # type: ignore
        lambda images: network(weights, images),
        autograph=False,
        input_signature=[images],
    )
    signatures = {"serving_default": module.predict}  # type: ignore
    try:
        tf.saved_model.save(module, str(folder), signatures=signatures)
    except tf.errors.OpError as error:  # TensorFlow's for a full disk, too
        raise ValueError(f"{folder} cannot be written: {error}") from error
