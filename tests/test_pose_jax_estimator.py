"""From pictures to poses in Python: kinds of pictures, units, batches, messages."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_student as tiny

import pose_jax
from pose_jax import PoseEstimator
from pose_jax.estimator import find_student, load_student
from pose_jax.weights import save_weights
from runtime.workdir import mark_finished

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny.write_student(tmp_path_factory.mktemp("run")).parent


@pytest.fixture(scope="module")
def estimator(workdir):
    return PoseEstimator.load(workdir, batch_size=4)


def pictures(count):
    return [np.asarray(tiny.noise(40, 40, seed)) for seed in range(count)]


# --- units -------------------------------------------------------------------------


def test_pixels_follow_from_the_box(estimator):
    picture = np.asarray(tiny.noise(64, 64))
    boxes = [None, [8.0, 8.0, 32.0, 16.0]]
    poses = estimator([picture, picture], boxes)
    np.testing.assert_allclose(poses.centre, [[32, 32], [24, 16]])
    np.testing.assert_allclose(poses.half_side, [32, 20])  # 1.25 * 32 / 2
    wanted = poses.pose[1, :, :2] * 20 + np.array([24, 16])
    np.testing.assert_allclose(poses.keypoints[1], wanted, rtol=1e-5)
    relative = (poses.pose[1] - poses.pose[1, 0]) * 20
    np.testing.assert_allclose(poses.keypoints_3d[1], relative, rtol=1e-4, atol=1e-4)
    assert ((poses.scores > 0) & (poses.scores <= 1)).all()


def test_the_spread_is_told_in_pixels(estimator):
    picture = np.asarray(tiny.noise(64, 64))
    poses = estimator([picture], [[8.0, 8.0, 32.0, 16.0]])
    np.testing.assert_allclose(poses.keypoints_3d_std, 20 * poses.spread, rtol=1e-6)
    np.testing.assert_array_equal(poses.keypoints_std, poses.keypoints_3d_std[..., :2])
    assert (poses.spread > 0).all()


def test_the_poses_are_those_of_the_network_that_was_trained(workdir, estimator):
    record, state = load_student(workdir / "student_distill")
    picture = tiny.noise(tiny.SIZE, tiny.SIZE)
    poses = estimator(picture)
    net, patches = record.make_net(), jnp.asarray(np.asarray(picture)[None])
    variables = jax.device_put(state.variables)
    wanted = net.apply(variables, patches, train=False, method="pose_and_spread")
    np.testing.assert_allclose(poses.pose, wanted[0], atol=1e-5)
    np.testing.assert_allclose(poses.spread, wanted[1], atol=1e-5)


# --- pictures and batches ----------------------------------------------------------


def test_every_kind_of_picture_gives_the_same_pose(estimator, tmp_path):
    picture = tiny.noise(48, 40)
    picture.save(tmp_path / "a.png")
    array = np.asarray(picture)
    wanted = estimator([array]).pose
    kinds = (
        *(str(tmp_path / "a.png"), tmp_path / "a.png", picture, array),
        *(
            [tmp_path / "a.png"],
            array[None],
            jnp.asarray(array),
            picture.convert("RGBA"),
        ),
    )
    for kind in kinds:
        np.testing.assert_allclose(estimator(kind).pose, wanted, atol=1e-6)
    grey = picture.convert("L")
    flat = estimator([np.asarray(grey), np.asarray(grey)[..., None], grey]).pose
    np.testing.assert_allclose(flat[0], flat[1], atol=1e-6)
    np.testing.assert_allclose(flat[0], flat[2], atol=1e-6)


def test_batches_do_not_change_the_poses(estimator):
    many = pictures(6)
    together = estimator(np.stack(many))
    assert len(together) == 6
    alone = estimator(many[5:])
    np.testing.assert_allclose(together.pose[5:], alone.pose, atol=1e-5)


def test_the_network_is_traced_once_for_all_sizes(workdir, monkeypatch):
    traced = []
    network = PoseEstimator.network

    def counted(self):
        apply = network(self)

        def wrapped(variables, patches):
            traced.append(patches.shape)
            return apply(variables, patches)

        return wrapped

    monkeypatch.setattr(PoseEstimator, "network", counted)
    estimator = PoseEstimator.load(workdir, batch_size=4)
    for count in (1, 3, 4, 9):
        assert len(estimator(pictures(count))) == count
    estimator([np.asarray(tiny.noise(90, 30))])
    assert traced == [(4, tiny.SIZE, tiny.SIZE, 3)]


def test_with_its_mirror_image_a_pose_is_symmetric(workdir, estimator):
    mirrored = PoseEstimator.load(workdir, batch_size=4, mirror=True)
    picture = pictures(1)[0]
    here, there = mirrored([picture, picture[:, ::-1]]).pose
    swap = tiny.SKELETON.flip_permutation
    np.testing.assert_allclose(there[swap] * [-1, 1, 1], here, atol=1e-6)
    found = estimator([picture, picture[:, ::-1]])
    (first, second), (one, other) = found.pose, found.spread
    second = second[swap] * [-1, 1, 1]
    np.testing.assert_allclose(here, (first + second) / 2, atol=1e-6)
    # The mixture of both, whose mean depths say nothing.
    first, second = (x - x.mean(axis=0) * [0, 0, 1] for x in (first, second))
    variance = np.var([first, second], axis=0) + (one**2 + other[swap] ** 2) / 2
    spread = mirrored([picture]).spread[0]
    np.testing.assert_allclose(spread, np.sqrt(variance), rtol=1e-5)


# --- loading -----------------------------------------------------------------------


def test_a_workdir_a_student_and_its_file_are_the_same(workdir, estimator, tmp_path):
    record, state = load_student(workdir / "student_distill")
    file = save_weights(tmp_path / "file", record, state.variables)
    wanted = estimator(pictures(2)).pose
    for path in (workdir / "student_distill", file, file.parent):
        poses = PoseEstimator.load(path, batch_size=4)(pictures(2))
        np.testing.assert_allclose(poses.pose, wanted, atol=1e-6)
        assert poses.skeleton == tiny.SKELETON


def test_one_of_several_students_is_chosen(tmp_path):
    for mode in ("supervised", "weaksup_bs"):
        tiny.write_student(tmp_path, mode)
    with pytest.raises(ValueError, match=r"several students \(supervised, weaksup_bs"):
        PoseEstimator.load(tmp_path)
    chosen = PoseEstimator.load(tmp_path, mode="weaksup_bs")
    assert chosen.record.mode == "weaksup_bs"
    with pytest.raises(
        ValueError, match=r"no student 'distill', but 'supervised'.*--con"
    ):
        PoseEstimator.load(tmp_path, mode="distill")
    tiny.write_student(tmp_path, "distill")
    assert PoseEstimator.load(tmp_path).record.mode == "distill"
    # While that one is still trained, the finished ones are offered.
    mark_finished(tmp_path, "student_weaksup_bs")
    assert find_student(tmp_path).name == "student_weaksup_bs"
    assert find_student(tmp_path, "distill").name == "student_distill"
    with pytest.raises(ValueError, match="no student 'x', but 'weaksup_bs'; choose"):
        find_student(tmp_path, "x")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((), r"is not the workdir of a run \(no student_<mode> in it\)"),
        (("config.json",), r"has no trained student; run --stage=student first"),
    ],
)
def test_a_folder_without_a_student_says_what_it_is(tmp_path, files, words):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=words):
        PoseEstimator.load(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none does not exist; give the workdir"):
        PoseEstimator.load(tmp_path / "none")
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a safetensors"):
        PoseEstimator.load(tmp_path / "weights.safetensors")
    folder = tiny.write_student(tmp_path)
    (folder / "checkpoints" / "5").rename(tmp_path / "away")
    with pytest.raises(
        ValueError, match=r"student_distill has no checkpoint; run --st"
    ):
        PoseEstimator.load(tmp_path)


# --- mistakes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "boxes", "words"),
    [
        ([np.zeros((9, 9), np.float32)], None, r"images\[0\].*float32, \(9, 9\)"),
        ([np.zeros((9, 9, 4), np.uint8)], None, r"images\[0\].*uint8, \(9, 9, 4\)"),
        ([np.zeros((0, 9, 3), np.uint8)], None, r"images\[0\].*\(0, 9, 3\)"),
        ([], None, "no pictures given"),
        (["nowhere.jpg"], None, r"nowhere\.jpg does not exist"),
        ([np.zeros((9, 9, 3), np.uint8)], [], "0 boxes for 1 pictures"),
        (
            [np.zeros((9, 9, 3), np.uint8)],
            [[1, 2, 0, 5]],
            r"boxes\[0\] = \[1, 2, 0, 5\]",
        ),
        (
            [np.zeros((9, 9, 3), np.uint8)],
            [[1, 2, 3]],
            r"boxes\[0\] = \[1, 2, 3\] is no",
        ),
    ],
)
def test_mistakes_are_named(estimator, images, boxes, words):
    with pytest.raises(ValueError, match=words):
        estimator(images, boxes)


def test_a_device_without_room_suggests_a_smaller_batch(workdir):
    estimator = PoseEstimator.load(workdir, batch_size=8)

    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")

    estimator._apply = full
    with pytest.raises(ValueError, match=r"no room for 8 pictures.*batch_size=2"):
        estimator(pictures(1))


# --- the package -------------------------------------------------------------------


def test_the_package_stays_light_until_an_estimator_is_asked_for():
    assert pose_jax.__all__ == ["PoseEstimator", "Poses"]
    with pytest.raises(AttributeError, match="'pose_jax' has no attribute 'Pose'"):
        pose_jax.Pose  # noqa: B018
    code = (
        "import sys, pose_jax\n"
        "heavy = {'jax', 'flax', 'orbax', 'PIL', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from pose_jax import PoseEstimator, Poses\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
