"""The training loop: equality over devices, places of the data and interruptions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from losses.camera_frame import rotation_from_camera
from nrsfm_jax import loop, model, teacher
from nrsfm_jax.loss import Objective
from runtime import devices

SIZES = (24, 8)
LONG = Objective(
    sparsity_weight=0.005,
    guide_fraction=0.4,
    guide_floor=0.5,
    learning_rate=1e-2,
    steps=1500,
    batch_size=64,
    ista_steps=1,
)
SHORT = dataclasses.replace(LONG, steps=12, batch_size=16, learning_rate=3e-3)


class Descent(Objective):
    """Plain descent at rate 1: what a step adds to the parameters is -gradient."""

    optimizer = optax.sgd(1.0)


def articulated(count, *, seed=0, noise=0.0):
    """A low-rank upright body from cameras all around: W, z in the camera frame."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(8, 3)) * np.array([0.3, 0.6, 0.25])
    basis = rng.normal(size=(3, 8, 3)) * 0.08
    S = mean + np.einsum("nk,kpa->npa", rng.normal(size=(count, 3)), basis)
    yaw, tilt = rng.uniform(0, 2 * np.pi, count), np.deg2rad(rng.uniform(0, 20, count))
    c, s = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x, towards = c * S[..., 0] + s * S[..., 2], -s * S[..., 0] + c * S[..., 2]
    ct, st = np.cos(tilt)[:, None], np.sin(tilt)[:, None]
    up, towards = ct * S[..., 1] - st * towards, st * S[..., 1] + ct * towards
    camera = np.stack([x, -up, -towards], -1)
    camera -= camera.mean(1, keepdims=True)
    W = camera[..., :2] + noise * rng.normal(size=(count, 8, 2))
    return W.astype(np.float32), camera[..., 2].astype(np.float32)


@pytest.fixture(scope="module")
def data():
    W, z = articulated(100)
    return W, np.ones(W.shape[:2], bool), z


def _start(objective=SHORT):
    key = jax.random.key(0)
    return loop.init_state(
        key, num_landmarks=8, dictionary_sizes=SIZES, objective=objective
    )


def _fit(data, *, objective=SHORT, state=None, chunk=5, **options):
    W, labelled, z = data
    return loop.fit(
        state or _start(objective),
        W,
        labelled,
        key=jax.random.key(1),
        em_depth=z,
        objective=objective,
        chunk=chunk,
        **options,
    )


def _mapped(data, folder):
    """The same arrays, mapped into memory."""
    for i, values in enumerate(data):
        np.save(folder / f"{i}.npy", values)
    return [np.load(folder / f"{i}.npy", mmap_mode="r") for i in range(len(data))]


def _assert_same(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


@pytest.fixture(scope="module")
def reference(data):
    losses = []
    state = _fit(data, after_chunk=lambda state, m: losses.append(m["loss"]))
    return state, losses


def _step(data, count, **changes):
    """One step on some samples: the metrics, -gradient and the parameters before."""
    objective = Descent(**vars(dataclasses.replace(SHORT, **changes)))
    state = _start(objective)
    names = ("W", "labelled", "em_depth")
    batch = {n: jnp.asarray(x[:count]) for n, x in zip(names, data, strict=True)}
    step = functools.partial(loop.train_step, objective=objective)
    on_one = jax.vmap(step, None, None, axis_name="data", axis_size=1)
    after, metrics = jax.jit(on_one)(state, batch)
    down = jax.tree.map(jnp.subtract, after.params, state.params)
    return metrics, down, state.params


def _by_hand(params, data, count, *, weight, ista_steps=1):
    """Eq. 4 and the difference to the EM depth, sample by sample."""
    W, labelled, z = (x[:count] for x in data)
    reconstruct = functools.partial(model.reconstruct, params, ista_steps=ista_steps)
    code_norms = np.linalg.norm(params["dictionaries"][0], axis=0)
    found = jax.jit(jax.vmap(reconstruct))(W)
    terms = []
    for i, (phi, M, S) in enumerate(zip(*map(np.asarray, found), strict=True)):
        error = np.linalg.norm((S @ M - W[i])[labelled[i]])
        depth = S @ np.cross(M[:, 0], M[:, 1]) - z[i]
        eq_4 = error + weight * np.abs(phi * code_norms).sum()
        terms.append((eq_4, np.linalg.norm(depth - depth.mean())))
    return np.mean(terms, axis=0)


@pytest.mark.parametrize("ista_steps", [1, 2])
def test_loss_is_equation_4_beside_the_guide(data, ista_steps):
    metrics, _, params = _step(data, 4, sparsity_weight=0.03, ista_steps=ista_steps)
    expected = _by_hand(params, data, 4, weight=0.03, ista_steps=ista_steps)
    found = metrics["loss"], metrics["em_difference"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_falls_is_equation_4_plus_the_guide(data):
    """Along the step: the slope of the sum, taken from its two terms by hand."""
    _, down, params = _step(data, 4, sparsity_weight=0.03)
    square = sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(down))
    by = 1e-3 / square**0.5
    ends = []
    for side in (-by, by):
        moved = jax.tree.map(lambda x, d, side=side: x + side * d, params, down)
        ends.append(_by_hand(moved, data, 4, weight=0.03) @ [1, 1])  # the guide's is 1
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * by), square, rtol=2e-3)


def test_the_reprojection_of_a_missing_landmark_does_not_count(data):
    W, labelled, z = data
    hidden = labelled.copy()
    hidden[:, 3] = False
    metrics, _, params = _step((W, hidden, z), 1, sparsity_weight=0.0)
    shown = _by_hand(params, (W, hidden, z), 1, weight=0)[0]
    np.testing.assert_allclose(metrics["loss"], shown, rtol=1e-5)
    assert shown < 0.99 * _by_hand(params, data, 1, weight=0)[0]


def test_pieces_of_a_batch_give_the_step_of_the_whole(data, monkeypatch):
    metrics, down, _ = _step(data, 96)
    monkeypatch.setattr(loop, "PIECE_SIZES", range(32, 31, -1))
    pieces = _step(data, 96)
    np.testing.assert_allclose(pieces[0]["loss"], metrics["loss"], rtol=1e-5)
    _assert_same(pieces[1], down, rtol=1e-3, atol=1e-6)


def test_repeats_itself_to_the_last_bit(data, reference):
    _assert_same(_fit(data).params, reference[0].params, rtol=0, atol=0)


def test_chunks_do_not_change_the_result(data, reference):
    _assert_same(_fit(data, chunk=4).params, reference[0].params, rtol=0, atol=0)


def test_resuming_from_any_chunk_gives_the_same_bits(data, reference):
    kept = {}

    def keep(state, metrics):
        kept[int(state.step)] = jax.tree.map(np.array, state)

    _fit(data, after_chunk=keep)
    assert sorted(kept) == [5, 10, 12]
    resumed = _fit(data, state=jax.tree.map(jnp.asarray, kept[5]))
    _assert_same(resumed.params, reference[0].params, rtol=0, atol=0)


@pytest.mark.parametrize("num_devices", [2, 4])
def test_devices_share_the_batch_without_changing_it(data, reference, num_devices):
    losses = []
    fitted = _fit(
        data,
        num_devices=num_devices,
        after_chunk=lambda state, m: losses.append(m["loss"]),
    )
    np.testing.assert_allclose(losses, reference[1], rtol=1e-4)
    # Adam divides by the size of the gradient: rounding grows where it is tiny.
    first = fitted.params["dictionaries"][0], reference[0].params["dictionaries"][0]
    assert np.mean(np.abs(first[0] - first[1])) < 1e-4


def test_a_batch_that_the_devices_cannot_share_is_refused(data):
    objective = dataclasses.replace(SHORT, batch_size=18)
    with pytest.raises(ValueError, match="18"):
        _fit(data, objective=objective, num_devices=4)


@pytest.mark.parametrize("num_devices", [1, 2])
def test_arrays_on_disk_give_the_same_bits_as_arrays_in_memory(
    data, reference, tmp_path, num_devices
):
    fitted = _fit(_mapped(data, tmp_path), num_devices=num_devices)
    expected = reference[0]
    if num_devices > 1:
        expected = _fit(data, num_devices=num_devices)
    _assert_same(fitted, expected, rtol=0, atol=0)


def test_of_arrays_on_disk_only_the_rows_of_a_chunk_reach_the_device(
    data, tmp_path, monkeypatch
):
    placed, real = [], devices.DataParallel.replicate

    def replicate(self, tree):
        placed.extend(x.shape[0] for x in jax.tree.leaves(tree) if np.ndim(x) > 1)
        return real(self, tree)

    start = _start()
    weights = {x.shape[0] for x in jax.tree.leaves(start.params) if x.ndim > 1}
    monkeypatch.setattr(devices.DataParallel, "replicate", replicate)
    _fit(_mapped(data, tmp_path), state=start)
    rows = [count for count in placed if count not in weights]
    assert rows == [5 * SHORT.batch_size] * 9  # three arrays in three chunks


def test_large_arrays_are_treated_as_those_on_disk(data, reference, monkeypatch):
    monkeypatch.setattr(loop, "RESIDENT_BYTES", 1000)
    _assert_same(_fit(data), reference[0], rtol=0, atol=0)


def test_the_rows_of_a_step_depend_on_the_key_and_the_step_alone():
    key = jax.random.key(5)
    rows = np.asarray(loop.draw_rows(key, 0, 70, steps=6, batch_size=16))
    later = loop.draw_rows(key, 4, 70, steps=2, batch_size=16)
    np.testing.assert_array_equal(rows[4:], later)
    of_step = jax.random.randint(jax.random.fold_in(key, 3), (16,), 0, 70)
    np.testing.assert_array_equal(rows[3], of_step)


def test_guide_falls_to_its_floor_and_stays():
    objective = dataclasses.replace(LONG, steps=100, guide_floor=0.25)
    weights = [float(objective.guide_at(step)) for step in (0, 20, 40, 99)]
    np.testing.assert_allclose(weights, [1, 0.5, 0.25, 0.25], atol=1e-6)
    unguided = dataclasses.replace(objective, guide_fraction=0.0)
    assert float(unguided.guide_at(0)) == 0


def test_recovers_depth_of_a_low_rank_body():
    W, z = articulated(600, seed=3)
    labelled = np.ones(W.shape[:2], bool)
    rng = np.random.default_rng(0)
    rough = z + 0.15 * rng.normal(size=z.shape).astype(np.float32)
    fitted = _fit((W, labelled, rough), objective=LONG, chunk=LONG.steps)
    run = jax.jit(jax.vmap(functools.partial(model.reconstruct, fitted.params)))
    _, M, S = run(jnp.asarray(W))
    R = np.asarray(jax.vmap(rotation_from_camera)(M))
    depth = np.einsum("npa,na->np", S, R[:, :, 2])
    depth -= depth.mean(1, keepdims=True)
    error = np.abs(depth - z).mean() / np.abs(z).mean()
    assert np.mean(np.sum(depth * z, axis=1) < 0) < 0.02
    assert error < 0.25
    # Better than what guided it: the guide's noise is not reproduced.
    assert np.abs(depth - z).mean() < 0.6 * np.abs(rough - z).mean()


def test_a_loss_that_is_not_finite_stops_with_its_steps(data):
    objective = dataclasses.replace(SHORT, learning_rate=float("nan"))
    with pytest.raises(ValueError, match=r"steps 1\.\.5"):
        _fit(data, objective=objective)


def test_landmarks_that_are_not_finite_are_refused(data):
    W, labelled, z = data
    broken = W.copy()
    broken[7, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"W\[7\]"):
        _fit((broken, labelled, z))


def _with_gaps(count, *, seed=0):
    """:func:`articulated` where every sample misses one to three of the 8 joints."""
    W, z = articulated(count, seed=seed)
    order = np.argsort(np.random.default_rng(seed).random((count, 8)), axis=1)
    labelled = order >= 1 + np.arange(count)[:, None] % 3
    mean = np.sum(W * labelled[..., None], 1) / labelled.sum(1)[:, None]
    W = np.where(labelled[..., None], W - mean[:, None], np.float32(0))
    return W.astype(np.float32), labelled, z


def test_depth_where_every_sample_misses_joints():
    """Of labelled and of missing joints, from no complete sample at all."""
    W, labelled, z = _with_gaps(600)
    rng = np.random.default_rng(2)
    whole, _ = articulated(600)  # what an EM expects at missing joints, nearly
    whole = whole - np.mean(whole, axis=1, keepdims=True, where=labelled[..., None])
    filled = np.where(labelled[..., None], W, whole + 0.05 * rng.normal(size=W.shape))
    filled = filled.astype(np.float32)
    rough = (z + 0.15 * rng.normal(size=z.shape)).astype(np.float32)
    objective = dataclasses.replace(LONG, steps=600)
    state = _fit((filled, labelled, rough), objective=objective, chunk=600)
    record = teacher.Teacher(state.params, skeleton={})
    split = record.reconstruct(filled, labelled, np.arange(len(W)))
    assert not split.W[~labelled].any()
    depth = split.poses(record.dictionary)[..., 2]
    depth = depth - depth.mean(1, keepdims=True)
    assert np.mean(np.sum(depth * z, axis=1) < 0) < 0.05
    for joints in (labelled, ~labelled):
        assert np.abs(depth - z)[joints].mean() < 0.4 * np.abs(z[joints]).mean()


def test_a_joint_that_is_never_seen_is_named(data):
    W, labelled, z = data
    hidden = labelled.copy()
    hidden[:, 5] = False
    with pytest.raises(ValueError, match="joint 5: labelled in none of the 100"):
        _fit((W, hidden, z))
