"""The metrics by hand and against scipy; the alignment is what the name says."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

import losses

EDGES = ((0, 1), (1, 2), (0, 3), (3, 4))
# Joint 1 is off by (3, 4, 0) after root alignment, the others meet.
TRUTH = np.array([[0.0, 0, 0], [10, 0, 0], [0, 20, 0], [0, 0, 30]])
PRED = TRUTH + np.array([[5.0, 5, 5], [8, 9, 5], [5, 5, 5], [5, 5, 5]])


def _poses(seed, count=6, joints=5, noise=0.3):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(count, joints, 3)) * 200
    return truth + noise * 200 * rng.normal(size=truth.shape), truth


def test_mpjpe_by_hand():
    assert losses.mpjpe(PRED, TRUTH, root=0) == pytest.approx(5 / 4)
    labelled = np.array([True, True, False, True])
    assert losses.mpjpe(PRED, TRUTH, root=0, labelled=labelled) == pytest.approx(5 / 3)


def test_mpjpe_without_its_root_aligns_the_means():
    labelled = np.array([False, True, True, True])
    pred = TRUTH + 7.0
    pred[0] = np.nan
    assert losses.mpjpe(pred, TRUTH, root=0, labelled=labelled) == pytest.approx(0.0)


def test_n_mpjpe_fits_the_scale():
    assert losses.n_mpjpe(0.01 * TRUTH + 4, TRUTH, root=0) == pytest.approx(0.0)
    # <p, t> / <p, p> = 2 / 4: p becomes (1, 0, 0) and (1, 0, 0).
    truth = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    pred = np.array([[0.0, 0, 0], [1, 0, 0], [1, 0, 0]])
    expected = (np.linalg.norm([0.5, 0]) + np.linalg.norm([0.5, 1])) / 3
    assert losses.n_mpjpe(pred, truth, root=0) == pytest.approx(expected)


def test_n_mpjpe_scale_is_the_best_in_least_squares():
    pred, truth = (x - x[:, :1] for x in _poses(0))
    for p, t in zip(pred, truth, strict=True):
        scale = np.linalg.lstsq(p.reshape(-1, 1), t.ravel(), rcond=None)[0][0]
        expected = np.linalg.norm(scale * p - t, axis=-1).mean()
        assert losses.n_mpjpe(p, t, root=0) == pytest.approx(expected)


def test_pa_mpjpe_undoes_a_similarity_but_no_mirror():
    _, truth = _poses(1)
    turn = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    assert losses.pa_mpjpe(3 * truth @ turn + 9, truth).max() < 1e-9
    mirrored = truth * np.array([-1.0, 1, 1])
    assert losses.pa_mpjpe(mirrored, truth).min() > 1
    assert losses.pa_mpjpe_reflection(3 * mirrored @ turn, truth).max() < 1e-9
    assert losses.pa_mpjpe_rigid(truth @ turn + 9, truth).max() < 1e-9
    assert losses.pa_mpjpe_rigid(3 * truth @ turn, truth).min() > 1


def test_alignment_with_reflection_agrees_with_scipy_procrustes():
    pred, truth = _poses(2, noise=1.5)
    aligned = losses.procrustes_align(pred, truth, scale=True, reflection=True)
    for p, t, a in zip(pred, truth, aligned, strict=True):
        disparity = procrustes(t, p)[2]
        size = ((t - t.mean(0)) ** 2).sum()
        assert ((a - t) ** 2).sum() / size == pytest.approx(disparity)


def test_rigid_alignment_agrees_with_scipy_rotations():
    pred, truth = _poses(3, noise=1.5)
    aligned = losses.procrustes_align(pred, truth, scale=False, reflection=False)
    for p, t, a in zip(pred, truth, aligned, strict=True):
        turn = Rotation.align_vectors(t - t.mean(0), p - p.mean(0))[0]
        np.testing.assert_allclose(a, turn.apply(p - p.mean(0)) + t.mean(0), atol=1e-6)


def test_similarity_scale_is_fitted_after_the_rotation():
    pred, truth = _poses(4, noise=1.5)
    rigid = losses.procrustes_align(pred, truth, scale=False, reflection=False)
    similar = losses.procrustes_align(pred, truth, scale=True, reflection=False)
    for r, s, t in zip(rigid, similar, truth, strict=True):
        r, s, t = r - t.mean(0), s - t.mean(0), t - t.mean(0)
        np.testing.assert_allclose(s, (r * t).sum() / (r * r).sum() * r, atol=1e-9)


def test_flat_and_single_point_poses_are_aligned():
    _, truth = _poses(5)
    flat = truth * np.array([1.0, 1.0, 0.0])
    assert np.isfinite(losses.pa_mpjpe(flat, truth)).all()
    assert np.isfinite(losses.pa_mpjpe(0 * truth, truth)).all()


def test_depth_error_by_hand():
    pred, truth = np.zeros((2, 3, 3))
    pred[:, 2], truth[:, 2] = (1.0, 2.0, 6.0), (10.0, 10.0, 13.0)
    # Centred: (-2, -1, 3) against (-1, -1, 2).
    assert losses.depth_error(pred, truth) == pytest.approx(2 / 3)


def test_turned_depths_are_flipped():
    _, truth = _poses(6, count=4)
    pred = truth.copy()
    pred[1, :, 2] *= -0.1
    assert losses.flipped(pred, truth).tolist() == [False, True, False, False]
    assert losses.flipped(pred + 50.0, truth).mean() == 0.25


def test_pck3d_and_auc_by_hand():
    truth = np.zeros((3, 3))
    pred = np.array([[0.0, 0, 0], [150, 0, 0], [0, 151, 0]])
    assert losses.pck3d(pred, truth, root=0) == pytest.approx(2 / 3)
    # Thresholds reached out of 31: all, one, none.
    expected = (31 + 1 + 0) / (3 * 31)
    assert losses.auc(pred, truth, root=0) == pytest.approx(expected)


def test_bone_length_scale_by_hand():
    truth = np.array([[0.0, 0, 0], [100, 0, 0], [100, 300, 0]])
    pred = np.array([[0.0, 0, 0], [0, 0, 1], [1, 0, 1]])
    edges = ((0, 1), (1, 2))
    scaled = losses.scale_by_bone_length(pred, truth, edges=edges)
    np.testing.assert_allclose(scaled, 200 * pred)
    labelled = np.array([True, True, False])
    scaled = losses.scale_by_bone_length(pred, truth, edges=edges, labelled=labelled)
    np.testing.assert_allclose(scaled, 100 * pred)


def test_bone_length_scale_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="edges is empty"):
        losses.scale_by_bone_length(PRED, TRUTH, edges=())
    with pytest.raises(ValueError, match=r"sample 1: mean predicted bone length 0\.0"):
        losses.scale_by_bone_length(
            np.stack([PRED, 0 * PRED]), np.stack([TRUTH, TRUTH]), edges=((0, 1),)
        )


METRICS = {
    "mpjpe": lambda p, t, v: losses.mpjpe(p, t, root=0, labelled=v),
    "n_mpjpe": lambda p, t, v: losses.n_mpjpe(p, t, root=0, labelled=v),
    "pa_mpjpe": lambda p, t, v: losses.pa_mpjpe(p, t, labelled=v),
    "rigid": lambda p, t, v: losses.pa_mpjpe_rigid(p, t, labelled=v),
    "reflection": lambda p, t, v: losses.pa_mpjpe_reflection(p, t, labelled=v),
    "depth_error": lambda p, t, v: losses.depth_error(p, t, labelled=v),
    "flipped": lambda p, t, v: losses.flipped(p, t, labelled=v),
    "pck3d": lambda p, t, v: losses.pck3d(p, t, root=0, labelled=v),
    "auc": lambda p, t, v: losses.auc(p, t, root=0, labelled=v),
}


@pytest.mark.parametrize("name", list(METRICS))
def test_a_mask_equals_a_skeleton_without_the_joints(name):
    pred, truth = _poses(7, joints=8)
    labelled = np.broadcast_to(np.array([1, 1, 0, 1, 1, 0, 1, 1], bool), (6, 8))
    keep = labelled[0]
    expected = METRICS[name](pred[:, keep], truth[:, keep], None)
    spoiled = [np.where(labelled[..., None], x, np.nan) for x in (pred, truth)]
    actual = METRICS[name](*spoiled, np.array(labelled))
    np.testing.assert_allclose(actual, expected, atol=1e-9)


def test_evaluate_poses_by_parts():
    pred, truth = _poses(8)
    result = losses.evaluate_poses(
        jnp.asarray(pred / 900, jnp.float32),
        jnp.asarray(truth, jnp.float32),
        edges=EDGES,
        root=0,
        sign="evaluate",
    )
    scaled = losses.scale_by_bone_length(pred, truth, edges=EDGES)
    expected = {
        "mpjpe_mm": losses.mpjpe(scaled, truth, root=0),
        "n_mpjpe_mm": losses.n_mpjpe(pred, truth, root=0),
        "pa_mpjpe_mm": losses.pa_mpjpe(pred, truth),
        "pa_mpjpe_rigid_mm": losses.pa_mpjpe_rigid(scaled, truth),
        "depth_error_mm": losses.depth_error(scaled, truth),
        "flip_fraction": losses.flipped(pred, truth),
    }
    for key, values in expected.items():
        assert result[key] == pytest.approx(np.mean(values), rel=1e-5), key
    assert (result["count"], result["sign"]) == (6, "evaluate")
    assert "bone length" in result["alignment"]


def test_evaluate_poses_refuses_bad_input():
    pred, truth = _poses(9)
    options = {"edges": EDGES, "root": 0}
    spoiled = pred.copy()
    spoiled[2, 3] = np.nan
    with pytest.raises(ValueError, match="prediction of sample 2, joint 3"):
        losses.evaluate_poses(spoiled, truth, **options)
    with pytest.raises(ValueError, match="no poses to evaluate"):
        losses.evaluate_poses(pred[:0], truth[:0], **options)
    labelled = np.ones((6, 5), bool)
    labelled[2, 3] = False
    result = losses.evaluate_poses(spoiled, truth, labelled=labelled, **options)
    assert np.isfinite(result["mpjpe_mm"])


def test_per_action_table_averages_the_actions():
    pred, truth = _poses(10)
    actions = ["walk", "walk", "walk", "walk", "sit", "sit"]
    table = losses.per_action_table(pred, truth, actions, edges=EDGES, root=0)
    assert list(table) == ["sit", "walk", "average"]
    sit = losses.evaluate_poses(pred[4:], truth[4:], edges=EDGES, root=0)
    assert table["sit"] == sit
    mean = (table["sit"]["mpjpe_mm"] + table["walk"]["mpjpe_mm"]) / 2
    assert table["average"]["mpjpe_mm"] == pytest.approx(mean)
    assert table["average"]["count"] == 6
    with pytest.raises(ValueError, match=r"\(2,\) action names for 6 poses"):
        losses.per_action_table(pred, truth, actions[:2], edges=EDGES, root=0)
