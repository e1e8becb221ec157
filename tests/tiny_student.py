"""A network, pictures and a teacher small enough for the students' tests."""

import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from input_pipeline.landmarks import Landmarks
from input_pipeline.skeleton import Skeleton
from pose_jax.conv import BatchNorm, Conv
from pose_jax.hints import facing_pairs
from pose_jax.integral_head import Prediction
from pose_jax.loss import depth_loss, student_loss
from pose_jax.model import normalise
from pose_jax.state import CHECKPOINTS, StudentRecord, init_state, state_shapes
from pose_jax.targets import teacher_targets
from runtime import teacher_file
from runtime.checkpoints import Checkpoints
from runtime.teacher_file import TeacherFile

SKELETON = Skeleton(
    name="stick_5",
    joints=("Pelvis", "LHip", "RHip", "Neck", "Head"),
    edges=((0, 1), (0, 2), (0, 3), (3, 4)),
    left_right=((1, 2),),
)
P, K, SIZE = SKELETON.num_joints, 24, 32
NET = {
    "resnet_layers": 10,
    "width": 0.125,
    "stem": "small",
    "heatmap_size": 8,
    "depth_bins": 8,
    "deconv_channels": 16,
    "num_deconv": 2,
    "dtype": "float32",
    "network": "resnet",
    "yaw_classes": 0,
}


def unit_dictionary(rng, joints=P, atoms=K):
    """(3P, K) with columns of norm 1."""
    D = rng.normal(size=(3 * joints, atoms))
    return (D / np.linalg.norm(D, axis=0)).astype(np.float32)


def make_loss(mode, permutation=SKELETON.flip_permutation, depth_weight=1.0):
    """What training minimises on one sample."""
    return functools.partial(
        student_loss,
        depth_weights={mode: depth_weight},
        depth_loss=functools.partial(depth_loss, code_l1_weight=0.15),
        permutation=np.asarray(permutation),
        pairs=facing_pairs(SKELETON),
        xy_weight=1.0,
        heat_weight=0.0,
    )


def teacher_arrays(D, count, seed, ids=None):
    """What a teacher says of a split, for made-up landmarks."""
    rng = np.random.default_rng(seed)
    joints, atoms = D.shape[0] // 3, D.shape[1]
    code = np.maximum(rng.normal(size=(count, atoms)), 0).astype(np.float32) * 0.2
    camera = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0][:, :, :2]
    camera = np.ascontiguousarray(camera, np.float32)
    S = (code @ D.T).reshape(count, joints, 3)
    W = S @ camera
    noise = 0.05 * rng.normal(size=W.shape)
    return {
        "sample_ids": np.arange(count) if ids is None else np.asarray(ids, np.int64),
        "camera": camera,
        "code": code,
        "residual": np.linalg.norm(noise, axis=(1, 2)).astype(np.float32),
        "W": (W + noise).astype(np.float32),
        "labelled": np.ones((count, joints), bool),
    }


class MadeUpTeacher(TeacherFile):
    """A teacher without files: the same arrays for every split."""

    def __init__(self, dictionary, arrays):
        super().__init__(
            folder=Path("made_up"),
            skeleton=SKELETON.to_dict(),
            depth_sign=1,
            depth_sign_source="given",
            dictionary=dictionary,
            params={},
            config={},
            splits={},
            digests={},
        )
        object.__setattr__(self, "arrays", arrays)

    def split(self, name, sample_ids=None):
        return self.arrays


def marks(labelled, skeleton=SKELETON):
    """Landmarks of which a teacher's targets need the joints and the ids alone."""
    count = len(labelled)
    return Landmarks(
        skeleton=skeleton,
        sample_ids=np.arange(count),
        keypoints=np.zeros((*labelled.shape, 2), np.float32),
        labelled=labelled,
        centre=np.zeros((count, 2), np.float32),
        half_side=np.ones(count, np.float32),
        names=tuple(map(str, range(count))),
    )


@functools.cache
def made_up_targets(count=32, mode="distill", seed=0):
    """A table of targets and the landmarks it belongs to."""
    D = unit_dictionary(np.random.default_rng(seed))
    arrays = teacher_arrays(D, count, seed + 1)
    all_, none = marks(arrays["labelled"]), marks(np.ones((0, P), bool))
    targets = teacher_targets(
        mode,
        MadeUpTeacher(D, arrays),
        {"train": all_, "val": all_, "extra": none},
        softening=0.1,
    )
    return (targets["train"],), arrays["W"]


def picture_of(keypoints, rng):
    """(S, S, 3) uint8 with a bright square for each joint."""
    picture = rng.integers(60, 90, size=(SIZE, SIZE, 3), dtype=np.uint8)
    at = np.clip(((keypoints + 1) / 2 * SIZE).astype(int), 1, SIZE - 2)
    for p, (x, y) in enumerate(at):
        picture[y - 1 : y + 2, x - 1 : x + 2, p % 3] = 255 - 40 * p
    return picture


def batches(W, *, batch_size, start_step=0, flips=True):
    """An endless iterator that starts anew at any step, like the real one."""
    step = start_step
    while True:
        rng = np.random.default_rng([7, step])
        rows = rng.integers(0, len(W), batch_size)
        keypoints = W[rows]
        flip = rng.random(batch_size) < (0.5 if flips else 0.0)
        mirrored = keypoints[:, SKELETON.flip_permutation] * np.array(
            [-1, 1], np.float32
        )
        keypoints = np.where(flip[:, None, None], mirrored, keypoints)
        scale = rng.uniform(0.8, 1.2, batch_size).astype(np.float32)
        keypoints = (keypoints * scale[:, None, None]).astype(np.float32)
        yield {
            "image": np.stack([picture_of(k, rng) for k in keypoints]),
            "keypoints": keypoints,
            "labelled": np.ones((batch_size, P), bool),
            "row": rows.astype(np.int32),
            "flip": flip,
            "scale": scale,
            "weight": np.ones(batch_size, np.float32),
        }
        step += 1


def val_batches(W, *, batch_size):
    """One pass in row order, the last batch filled up with weight 0."""
    rng = np.random.default_rng(3)
    for first in range(0, len(W), batch_size):
        rows = np.arange(first, first + batch_size)
        weight = (rows < len(W)).astype(np.float32)
        rows = np.minimum(rows, len(W) - 1)
        yield {
            "image": np.stack([picture_of(k, rng) for k in W[rows]]),
            "keypoints": W[rows],
            "labelled": np.ones((batch_size, P), bool),
            "row": rows.astype(np.int32),
            "flip": np.zeros(batch_size, bool),
            "scale": np.ones(batch_size, np.float32),
            "weight": weight,
        }


class TinyNet(nn.Module):
    """In place of a PoseNet where a test is about the loop: compiles in a second."""

    axis_name: str | None = None
    num_joints: int = P

    def __call__(self, images, train):
        return self.predict(images, train).pose

    def pose_and_spread(self, images, train):
        found = self.predict(images, train)
        return found.pose, found.spread[:, 0]

    @nn.compact
    def predict(self, images, train):
        x = normalise(images)
        x = Conv(16, 4, 4, name="conv1")(x)
        x = nn.relu(BatchNorm(train, self.axis_name, name="bn1")(x))
        x = x.reshape(len(x), -1)
        shape = (x.shape[1], 3 * self.num_joints)
        kernel = self.param("kernel", nn.initializers.normal(0.01), shape)
        pose = jnp.tanh(x @ kernel).reshape(-1, self.num_joints, 3)
        xy, z = pose[..., :2], pose[..., 2]
        spread = jnp.ones_like(pose)[:, None]
        return Prediction(xy, z[:, None], spread, jnp.ones_like(pose))


@functools.cache
def start(seed=0):
    """The state before training of the tiny network, in numpy."""
    key = jax.random.key(seed)
    state = init_state(TinyNet(), key, image_size=SIZE, learning_rate=1e-3)
    return jax.tree.map(np.asarray, state)


def new_state():
    """A fresh copy of :func:`start`."""
    return jax.tree.map(np.copy, start())


def labels(D, ids, seed):
    """Depth, covariance and code of lifted landmarks, made up."""
    joints = D.shape[0] // 3
    rng = np.random.default_rng(100 + seed)
    A = 0.1 * rng.normal(size=(len(ids), joints, joints))
    return {
        "depth": (0.2 * rng.normal(size=(len(ids), joints))).astype(np.float32),
        "covariance": (A @ A.swapaxes(1, 2)).astype(np.float32),
        "code_of_depth": teacher_arrays(D, len(ids), 200 + seed)["code"],
    }


def write_teacher(folder, skeleton, splits, *, source="given", sign=1):
    """A teacher's folder; ``splits`` maps names to sample ids and landmarks."""
    D = unit_dictionary(np.random.default_rng(0), skeleton.num_joints)
    said = {}
    for seed, (name, (ids, W, labelled)) in enumerate(splits.items()):
        said[name] = teacher_arrays(D, len(ids), seed, ids)
        said[name] |= {"W": W, "labelled": labelled}
        said[name] |= labels(D, ids, seed)
    teacher_file.save(
        folder,
        dictionary=D,
        params={},
        skeleton=skeleton.to_dict(),
        config={},
        splits=said,
        depth_sign=sign,
        depth_sign_source=source,
    )


def flat(tree):
    """All arrays of a tree as one vector."""
    return np.concatenate(
        [np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
    )


def made_up_state(net, seed=0):
    """A state with random weights in numpy: no program is compiled for it."""
    rng = np.random.default_rng(seed)

    def fill(path, like):
        name = jax.tree_util.keystr(path)
        if name.endswith("['kernel']") and not name.startswith(".opt_state"):
            scale = np.sqrt(2 / np.prod(like.shape[:-1]))
            return (scale * rng.normal(size=like.shape)).astype(like.dtype)
        ones = name.endswith(("['scale']", "['var']")) and "opt_state" not in name
        return np.full(like.shape, float(ones), like.dtype)

    return jax.tree_util.tree_map_with_path(fill, state_shapes(net, image_size=SIZE))


def record(mode="distill", *, depth_sign=1, box="landmarks"):
    """What is known of the tiny student."""
    return StudentRecord(
        mode=mode,
        skeleton=SKELETON,
        net=NET,
        image_size=SIZE,
        padding=1.25,
        depth_sign=depth_sign,
        depth_weight=1.0,
        matched_weight=1.0,
        modes=(mode,),
        optimizer="adam",
        box=box,
    )


def write_student(workdir, mode="distill", *, depth_sign=1, seed=0, box="landmarks"):
    """A student that was never trained, saved like a trained one; its folder."""
    made = record(mode, depth_sign=depth_sign, box=box)
    folder = workdir / f"student_{mode}"
    made.save(workdir)
    state = made_up_state(made.make_net(), seed)
    with Checkpoints(folder / CHECKPOINTS) as checkpoints:
        checkpoints.save(5, state)
    return folder


def noise(height, width, seed=0):
    """A picture with structure of some eight pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(height // 8 + 1, width // 8 + 1, 3))
    picture = Image.fromarray(coarse.astype(np.uint8))
    return picture.resize((width, height), Image.Resampling.BILINEAR)
