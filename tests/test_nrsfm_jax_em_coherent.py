"""The whole fit: views by evidence, one sign for all samples, what it says of both."""

import dataclasses
import functools
from typing import Any

import em_bodies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_nrsfm_jax_handedness import bodies, randomly_flipped

from configs import default
from nrsfm_jax import em
from nrsfm_jax.em import coherent
from nrsfm_jax.em.gaussians import single_gaussian
from nrsfm_jax.em.samples import Samples
from nrsfm_jax.em.views import LEVEL, rotation_views, upright_views
from nrsfm_jax.handedness import Handedness
from runtime.files import read_json, write_json

RUNS_LONG = True

N = 800
VIEW = np.eye(3, dtype=np.float32)[None]
REPORT = Handedness(0.0, False, 0.9, 0.0, 0.9, 1.0, N)


def seen_from(views, *, seed=0):
    """Jointed bodies, y up, in the camera frames of random views; unit patch."""
    random = np.random.default_rng(seed)
    body = bodies(N, turned=False)
    X = body @ views[random.integers(len(views), size=N)]
    X = X - X.mean(axis=1, keepdims=True)
    return (X / 4).astype(np.float32)


@pytest.fixture(scope="module")
def upright():
    return seen_from(upright_views(np.arange(-10.0, 31, 5).tolist(), 90))


def trial(X):
    everywhere = np.ones(X.shape[:2], bool)
    return coherent.trials(X[..., :2], everywhere, key=jax.random.key(0))


# --- which views ------------------------------------------------------------------


def test_views_of_an_upright_body_are_found(upright):
    nats, prior = trial(upright)
    assert prior == LEVEL
    assert nats["level"] > nats["one view"] + 1


@pytest.mark.parametrize(
    ("given", "each"), [(3000, 1000), (2000, 1000), (1999, 1000), (600, 500), (96, 62)]
)
def test_few_samples_are_repeated_no_more_than_needed(given, each):
    """Half of them fits, the other half judges; sizes come from a short list."""
    marks = np.arange(2.0 * given).reshape(given, 1, 2).astype(np.float32)
    W = np.concatenate([marks, -marks, 0 * marks], axis=1)
    halves = coherent._halves(W, np.ones((given, 3), bool), jax.random.key(0))
    seen, unseen = ({*half.W[:, 0, 0].tolist()} for half in halves)
    assert [len(half.W) for half in halves] == [each, each]
    assert not seen & unseen
    assert len(seen | unseen) == min(given, 2000)


def test_views_from_above_are_found():
    assert (
        trial(seen_from(upright_views(np.arange(60.0, 91, 5).tolist(), 90)))[1].name
        == "above"
    )


def test_any_rotation_is_found():
    nats, prior = trial(seen_from(rotation_views(4000)))
    assert prior.name == "any rotation"
    assert nats["any rotation"] > nats["one view"] + 1


def test_a_little_likelier_is_not_enough(monkeypatch, upright):
    nats, _ = trial(upright)
    gaps = {name: nats["level"] - value for name, value in nats.items()}
    monkeypatch.setattr(coherent, "_evidence", lambda *_: next(scores))
    for ahead, chosen in ((1.9, "level"), (2.1, "any rotation")):
        scores = iter([50.0, 50 - gaps["raised"], 50 - gaps["above"], 50 + ahead, 40.0])
        assert trial(upright)[1].name == chosen


def test_a_view_that_never_turns_is_found():
    nats, _ = trial(seen_from(upright_views((0.0,), 1)))
    assert max(nats, key=lambda name: nats[name]) == coherent.ONE_VIEW


def test_joints_of_a_trial_are_far_from_each_other(monkeypatch):
    monkeypatch.setattr(coherent, "_TRIAL_JOINTS", 3)
    x = np.array([0.0, 0.1, 5.0, 5.1, 9.0, 2.0])
    W = np.stack([x, np.zeros(6)], axis=-1)[None].repeat(4, axis=0)
    labelled = np.ones((4, 6), bool)
    chosen = coherent.far_joints(W, labelled)
    assert chosen.tolist() == [0, 3, 4] or chosen.tolist() == [0, 2, 4]


def test_landmarks_are_centred_over_the_labelled_joints():
    W = np.array([[[1, 2], [3, 4], [9, 9]]], np.float32)
    labelled = np.array([[True, True, False]])
    centred = coherent.recentred(W, labelled).W
    np.testing.assert_allclose(centred[0], [[-1, -1], [1, 1], [0, 0]])


# --- one sign ---------------------------------------------------------------------


def test_upright_poses_come_back_to_one_body_frame():
    shape = bodies(1, turned=False)[0]
    shape = shape - shape.mean(axis=0)
    X = shape @ upright_views((0.0,), 40)
    level = dataclasses.replace(LEVEL, elevations_deg=(0.0,))
    body = coherent.in_body_frame(X, level)
    np.testing.assert_allclose(body, body[:1].repeat(40, axis=0), atol=1e-4)
    np.testing.assert_allclose(body[0, :, 1], shape[:, 1], atol=1e-5)


def test_poses_in_any_rotation_come_back_to_one_body_frame():
    shape = bodies(1, turned=False)[0]
    X = (shape - shape.mean(axis=0)) @ rotation_views(50)
    body = coherent.in_body_frame(X, coherent.FREE)
    np.testing.assert_allclose(body, body[:1].repeat(50, axis=0), atol=1e-4)


def test_wrong_signs_are_noticed_and_a_likelier_fit_follows(monkeypatch, upright):
    """What expects a third of the bodies mirrored is fitted again, without it."""
    W, labelled = upright[..., :2], np.ones((N, 8), bool)
    samples = em.Samples(W, labelled)
    wrong, signs = randomly_flipped(upright, share=0.3)
    body = coherent.in_body_frame(wrong, LEVEL).reshape(N, -1)
    start = coherent.single_gaussian(
        body.mean(0), np.cov(body.T) + 1e-4 * np.eye(24), 0.02, LEVEL.grid()
    )
    single = em.run_em(start, samples, steps=0)
    monkeypatch.setattr(coherent, "expected_pose", lambda *_: (wrong, None))
    again, report, refitted = coherent.tied(single, samples, (W, labelled), LEVEL, None)
    monkeypatch.undo()
    assert report.applied
    assert report.changed == pytest.approx(np.mean(signs < 0), abs=0.01)
    assert refitted
    assert again.log_likelihood > single.log_likelihood
    z = em.expected_pose(again, W)[0][..., 2]
    flipped = np.mean(np.sum(z * upright[..., 2], axis=1) < 0)
    assert flipped < 0.05  # the camera looks down on average: the one sign as well


# --- all of it --------------------------------------------------------------------


def test_a_fit_says_what_it_found(tmp_path, upright):
    fit = functools.partial(
        em.fit_shapes,
        upright[..., :2],
        np.ones((N, 8), bool),
        components=2,
        num_samples=N,
        last_sigma=0.01,
    )
    path = tmp_path / "new" / "em.safetensors"
    shapes, report = em.read_or_fit(path, lambda: fit(key=jax.random.key(0)))
    assert report.views == report.likeliest_views == "level"
    assert report.turning_nats > 1
    assert report.sign_nats > 0
    assert report.after.changed < 0.02
    z = em.expected_pose(shapes, upright[..., :2])[0][..., 2]
    assert np.mean(np.sum(z * upright[..., 2], axis=1) < 0) < 0.05
    kept, again = em.read_or_fit(path, lambda: pytest.fail("fitted again"))
    assert again == report
    for a, b in zip(kept, shapes, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_mirror_image_without_a_finite_end_is_no_evidence(monkeypatch):
    single = single_gaussian(*map(np.float32, (np.zeros(6), np.eye(6))), 0.1, VIEW)
    samples = Samples(jnp.zeros((4, 2, 2)), np.ones((4, 2), bool))
    image = single._replace(log_likelihood=jnp.float32(np.nan))
    monkeypatch.setattr(coherent, "run_em", lambda *_, **__: image)
    monkeypatch.setattr(coherent, "mirrored", lambda mixture: mixture)
    assert coherent._sign_nats(single, samples, LEVEL) == 0.0


def test_a_report_comes_back_from_json(tmp_path):
    nats = {"level": 3.0, "above": 5.0, coherent.ONE_VIEW: 1.0}
    report = em.FitReport("level", nats, 0.5, REPORT, True, REPORT)
    write_json(tmp_path / "report.json", dataclasses.asdict(report))
    assert em.FitReport.from_dict(read_json(tmp_path / "report.json")) == report
    assert report.likeliest_views == "above"
    assert report.turning_nats == 4.0


@pytest.fixture
def stubbed(monkeypatch):
    """``fit_shapes`` without its fits: a function takes what they would return."""
    single = em_bodies.component(em_bodies.two_poses(sigma=0.03, spread=0.03), 0)

    def stub(gaussian=single, mixture=lambda mirror: single):
        monkeypatch.setattr(coherent, "trials", lambda *_, **__: ({}, LEVEL))
        monkeypatch.setattr(coherent, "fit_gaussian", lambda *_, **__: gaussian)
        monkeypatch.setattr(
            coherent,
            "fit_mixture",
            lambda *_, mirror=None, **__: mixture(mirror),
        )
        monkeypatch.setattr(coherent, "_sign_nats", lambda *_: 0.0)
        monkeypatch.setattr(
            coherent, "tied", lambda single, *_: (single, REPORT, False)
        )
        return em_bodies.sample(single, 60)[0], single

    return stub


def test_noise_that_rounding_would_hide_is_warned_of(stubbed):
    W, _ = stubbed()
    with pytest.warns(UserWarning, match=r"noise 0.0005 .* below 0.001"):
        em.fit_shapes(W, key=jax.random.key(0), last_sigma=0.0005)


def test_a_fit_that_is_not_finite_says_so(stubbed):
    _, single = stubbed()
    broken = single._replace(Sigma=jnp.full_like(single.Sigma, jnp.nan))
    W, _ = stubbed(gaussian=broken)
    with pytest.raises(ValueError, match=r"60 samples of 6 landmarks.*not finite"):
        em.fit_shapes(W, key=jax.random.key(0), components=2)
    with pytest.raises(ValueError, match=r"largest landmark is \S+e\+06, but patch"):
        em.fit_shapes(1e6 * W / np.abs(W).max(), key=jax.random.key(0), components=2)


def test_mirror_images_that_cannot_be_explained_are_left_out(stubbed):
    W, single = stubbed()
    broken = single._replace(Sigma=jnp.full_like(single.Sigma, jnp.nan))
    stubbed(mixture=lambda mirror: single if mirror is None else broken)
    fitted, _ = em.fit_shapes(W, key=jax.random.key(0), mirror=np.arange(6))
    assert fitted is single


def test_views_are_config():
    config: Any = default.get_config()
    settings = config.teacher.em
    assert em.em_options(settings)["prior"] is None
    settings.views = "upright"
    prior = em.em_options(settings)["prior"]
    np.testing.assert_array_equal(
        prior.grid(), upright_views(settings.elevations_deg, settings.num_yaws)
    )
    settings.views = "free"
    assert em.em_options(settings)["prior"].elevations_deg is None
    settings.views = "sideways"
    with pytest.raises(ValueError, match="'sideways'"):
        em.em_options(settings)
