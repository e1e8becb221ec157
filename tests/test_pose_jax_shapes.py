"""Poses under the teacher's shapes: closed forms, limits, and where they come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_student as tiny
from jax.scipy.special import logsumexp
from scipy.stats import multivariate_normal

from pose_jax import PoseEstimator, evaluate
from pose_jax.estimator import load_student, read_shapes
from pose_jax.shapes import FILE, Shapes, check_shapes, likeliest
from runtime import teacher_file
from runtime.files import write_arrays

P = tiny.P
SAME = np.kron(np.ones((P, P)), np.eye(3))


def made_up_shapes(components, views, seed=0):
    rng = np.random.default_rng(seed)
    A = 0.1 * rng.normal(size=(components, 3 * P, 3 * P))
    R = np.linalg.qr(rng.normal(size=(views, 3, 3)))[0]
    R *= np.sign(np.linalg.det(R))[:, None, None]
    weight = rng.dirichlet(np.ones(components)), rng.dirichlet(np.ones(views))
    mu = 0.3 * rng.normal(size=(components, 3 * P))
    found = Shapes(mu, A @ A.swapaxes(1, 2), np.log(weight[0]), R, np.log(weight[1]))
    return Shapes(*(np.asarray(x, np.float32) for x in found))


def measured(seed=1, size=0.1):
    rng = np.random.default_rng(seed)
    pose = 0.4 * rng.normal(size=(P, 3))
    spread = size * rng.uniform(0.5, 2, size=(P, 3))
    return pose.astype(np.float32), spread.astype(np.float32)


def run(shapes, pose, spread):
    made = jax.tree.map(jnp.asarray, (shapes, pose, spread))
    return np.asarray(jax.jit(likeliest)(*made))


def by_hand(shapes, pose, spread, shift=0.3):
    """All pairs, in the camera's frame and float64."""
    middle = pose.mean(axis=0)
    y = (pose - middle).ravel().astype(np.float64)
    noise = np.diag(np.square(spread.ravel() / 2.0))
    log_p, means = [], []
    for k, mu in enumerate(shapes.mu):
        for g, R in enumerate(shapes.views):
            turn = np.kron(np.eye(P), R.T)
            C = turn @ shapes.Sigma[k] @ turn.T + shift**2 * SAME
            m = turn @ mu
            prior = shapes.log_weight[k] + shapes.log_view_weight[g]
            log_p.append(prior + multivariate_normal.logpdf(y, m, C + noise))
            means.append(m + C @ np.linalg.solve(C + noise, y - m))
    weight = np.exp(np.array(log_p) - logsumexp(np.array(log_p)))
    return middle + (weight @ np.array(means)).reshape(P, 3)


@pytest.mark.parametrize(("components", "views"), [(1, 1), (2, 3)])
def test_it_is_the_posterior_mean_over_all_pairs(components, views):
    shapes, (pose, spread) = made_up_shapes(components, views), measured()
    wanted = by_hand(shapes, pose, spread)
    np.testing.assert_allclose(run(shapes, pose, spread), wanted, atol=2e-4)


def test_a_sure_network_is_believed_and_an_unsure_one_gets_a_shape():
    shapes, (pose, _) = made_up_shapes(1, 1), measured()
    sure = run(shapes, pose, np.full((P, 3), 1e-3, np.float32))
    np.testing.assert_allclose(sure, pose, atol=0.02)
    unsure = run(shapes, pose, np.full((P, 3), 1e3, np.float32))
    shape = shapes.mu[0].reshape(P, 3) @ shapes.views[0]
    np.testing.assert_allclose(
        unsure - unsure.mean(0), shape - shape.mean(0), atol=0.02
    )


def test_a_joint_that_is_unsure_follows_the_others():
    """Of shapes whose last two joints move as one; the measurement has them apart."""
    A = np.eye(3 * P, 3 * P - 3)
    A[-3:] = A[-6:-3]
    Sigma = (A @ A.T)[None] + 1e-6 * np.eye(3 * P)
    one = np.zeros(1, np.float32)
    shapes = Shapes(np.zeros((1, 3 * P)), Sigma, one, np.eye(3)[None], one)
    pose, spread = np.zeros((P, 3), np.float32), np.full((P, 3), 0.02, np.float32)
    pose[-1], spread[-1] = 0.5, 1.0
    pose[:, 0] -= pose[:, 0].mean()
    found = run(Shapes(*(np.asarray(x, np.float32) for x in shapes)), pose, spread)
    np.testing.assert_allclose(found[:-1], pose[:-1], atol=0.02)
    np.testing.assert_allclose(found[-1], pose[-2], atol=0.02)


def test_the_camera_frame_of_the_pose_is_kept():
    """A picture turned by a view of the shapes' own has its pose turned."""
    shapes, (pose, spread) = made_up_shapes(2, 1), measured()
    spread[:] = spread[:, :1]  # as large along each axis
    R = made_up_shapes(1, 1, seed=5).views[0]
    turned = shapes._replace(views=shapes.views @ R)
    wanted = run(shapes, pose, spread) @ R
    np.testing.assert_allclose(run(turned, pose @ R, spread), wanted, atol=2e-4)


# --- of a student --------------------------------------------------------------------


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tiny.write_student(tmp_path_factory.mktemp("run")).parent
    tiny.write_teacher(folder / "teacher", tiny.SKELETON, {})
    more = {"sigma": np.zeros(()), "log_likelihood": np.zeros(())}
    write_arrays(folder / "teacher" / FILE, made_up_shapes(2, 3)._asdict() | more)
    return folder


def test_a_student_and_its_file_predict_with_the_shapes(workdir, tmp_path):
    """Also where the teacher's sign of depth was turned after the training."""
    picture, depth = np.asarray(tiny.noise(40, 40)), [1, 1, -1]
    plain = PoseEstimator.load(workdir, batch_size=1)(picture)
    likely = PoseEstimator.load(workdir, batch_size=1, shapes=True)(picture)
    wanted = by_hand(made_up_shapes(2, 3), plain.pose[0], plain.spread[0])
    np.testing.assert_allclose(likely.pose[0], wanted, atol=1e-3)
    np.testing.assert_array_equal(likely.spread, plain.spread)
    for sign in (-1, 1):
        teacher_file.set_depth_sign(workdir / "teacher", sign, "cue", {})
        record, state = load_student(workdir / "student_distill")
        shapes = read_shapes(record, workdir / "student_distill")
        place = tmp_path / f"away{sign}"
        evaluate.save_weights(place, record, state.variables | shapes)
        for path in (workdir, place):
            found = PoseEstimator.load(path, batch_size=1, shapes=True)(picture)
            turned = wanted * (depth if sign < 0 else 1)
            np.testing.assert_allclose(found.pose[0], turned, atol=1e-3)


def test_without_shapes_the_message_says_what_to_do(workdir, tmp_path):
    tiny.write_student(tmp_path)
    with pytest.raises(ValueError, match=r"config\.predict\.shapes=False"):
        PoseEstimator.load(tmp_path, shapes=True)
    # A student of 3D labels need not have the teacher's sign.
    tiny.write_student(workdir, "supervised")
    with pytest.raises(ValueError, match="one of 3D labels has not"):
        PoseEstimator.load(workdir, mode="supervised", shapes=True)


@pytest.mark.parametrize("name", Shapes._fields)
def test_arrays_that_are_no_shapes_are_refused(name):
    arrays = made_up_shapes(2, 3)._asdict()
    for value in (None, np.zeros((2, 2)), np.zeros(()), arrays[name] + np.nan):
        changed = {**arrays, name: value}
        if value is None:
            del changed[name]
        with pytest.raises(ValueError, match="em"):
            check_shapes("em.safetensors", changed)
