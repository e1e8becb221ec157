"""The first guess of every pose, by the EM: what guides the teacher, and fills gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nrsfm_jax import teacher as teacher_files
from nrsfm_jax.gaussian_mixture import GaussianMixture, expected_pose, fit_shapes
from nrsfm_jax.views import rotation_views


def kept_shapes(
    path: Path,
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    *,
    key: Key[Array, ""],
    **options: Any,
) -> GaussianMixture:
    """`fit_shapes`, kept on disk so that a resumed run need not fit again."""
    if path.exists():
        arrays = teacher_files.load_arrays(path)
        return GaussianMixture(**{k: jnp.asarray(v) for k, v in arrays.items()})
    shape = fit_shapes(W, labelled, key=key, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    teacher_files.save_arrays(path, shape._asdict())
    return shape


def em_options(settings: Any) -> dict[str, Any]:
    """What `fit_shapes` takes, from ``config.teacher.em``.

    Raises:
        ValueError: views of an unknown kind.
    """
    if settings.views not in ("upright", "free"):
        raise ValueError(
            f"config.teacher.em.views = {settings.views!r}; it must be 'upright' "
            "(elevations_deg with num_yaws each) or 'free' (num_rotations)"
        )
    options: dict[str, Any] = {
        "components": settings.components,
        "num_samples": settings.num_samples,
        "last_sigma": settings.noise,
    }
    if settings.views == "free":
        return options | {"views": rotation_views(settings.num_rotations)}
    return options | {
        "elevations_deg": tuple(settings.elevations_deg),
        "num_yaws": settings.num_yaws,
    }


def mirror_of(skeleton: Any) -> Int[np.ndarray, " p"] | None:
    """Joint p of a mirrored picture was joint ``mirror_of(skeleton)[p]``.

    None where the skeleton names no left and right: nothing then says that the mirror
    image of a pose is a pose.
    """
    return skeleton.flip_permutation if skeleton.left_right else None


def first_pose(
    shape: GaussianMixture | None,
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
) -> Float[np.ndarray, "n p 3"]:
    """Landmarks, missing ones as the EM expects them, and its depth; 0 without it."""
    if shape is None or not len(W):
        return np.concatenate([W, np.zeros_like(W[..., :1])], axis=-1)
    return expected_pose(shape, W, labelled)[0]
