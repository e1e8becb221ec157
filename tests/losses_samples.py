"""Random samples for the tests of the losses: a dictionary, a camera, a code."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import losses


class Sample(NamedTuple):
    """One sample in the paper's letters; ``z_hyp`` is off the teacher's depth."""

    z_hyp: jax.Array
    phi: jax.Array
    B_xy: jax.Array
    B_z: jax.Array
    w: jax.Array


def random_camera(rng: np.random.Generator) -> jax.Array:
    return jnp.asarray(np.linalg.qr(rng.normal(size=(3, 3)))[0][:, :2], jnp.float32)


def unit_dictionary(rng: np.random.Generator, joints: int, atoms: int) -> jax.Array:
    D = rng.normal(size=(3 * joints, atoms))
    return jnp.asarray(D / np.linalg.norm(D, axis=0), jnp.float32)


def random_sample(seed: int = 0, joints: int = 17, atoms: int = 256) -> Sample:
    """A sparse non-negative code, landmarks and depth a little off its shape."""
    rng = np.random.default_rng(seed)
    D = unit_dictionary(rng, joints, atoms)
    B_xy, B_z = losses.split_dictionary(D, random_camera(rng))
    code = rng.uniform(0.2, 1.0, atoms) * (rng.random(atoms) < 12 / atoms)
    phi = jnp.asarray(code, jnp.float32)
    noise = jnp.asarray(rng.normal(size=3 * joints), jnp.float32)
    w = B_xy @ phi + 0.05 * noise[joints:]
    return Sample(B_z @ phi + 0.2 * noise[:joints], phi, B_xy, B_z, w)


def random_mask(seed: int, joints: int, missing: int) -> np.ndarray:
    mask = np.ones(joints, bool)
    mask[np.random.default_rng(seed).permutation(joints)[:missing]] = False
    return mask


def drop_joints(sample: Sample, mask: np.ndarray) -> Sample:
    """The same sample with a skeleton that never had the masked joints."""
    pairs = np.repeat(mask, 2)
    return Sample(
        sample.z_hyp[mask],
        sample.phi,
        sample.B_xy[pairs],
        sample.B_z[mask],
        sample.w[pairs],
    )


def spoil(sample: Sample, mask: np.ndarray, value: float) -> Sample:
    """The sample with nonsense in the landmarks and depths of the masked joints."""
    return sample._replace(
        z_hyp=jnp.where(jnp.asarray(mask), sample.z_hyp, value),
        w=jnp.where(jnp.asarray(np.repeat(mask, 2)), sample.w, value),
    )


def degenerate_samples() -> dict[str, Sample]:
    """Dictionaries whose B_z B_z^T is singular, as missing landmarks make them."""
    plain = random_sample(3)
    # Joint 5 is joint 4 again, in the dictionary but not in the hypothesis.
    equal = plain._replace(
        B_z=plain.B_z.at[5].set(plain.B_z[4]),
        B_xy=plain.B_xy.at[10:12].set(plain.B_xy[8:10]),
    )
    zero_row = plain._replace(
        B_z=plain.B_z.at[2].set(0.0), B_xy=plain.B_xy.at[4:6].set(0.0)
    )
    centred = plain._replace(B_z=plain.B_z - plain.B_z.mean(0, keepdims=True))
    return {
        "equal joints": equal,
        "zero row": zero_row,
        "centred": centred,
        "zero dictionary": plain._replace(B_z=0.0 * plain.B_z),
        "zero code": plain._replace(phi=0.0 * plain.phi),
        "perfect fit": plain._replace(
            z_hyp=plain.B_z @ plain.phi, w=plain.B_xy @ plain.phi
        ),
    }


def on_jax_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """``check_grads`` calls with numpy arrays, which the signatures do not admit."""
    return lambda *args: function(*map(jnp.asarray, args))
