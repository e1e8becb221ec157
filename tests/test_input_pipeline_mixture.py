"""Several sources of pictures in one training set: order, tables, losses."""

import copy
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_formats as formats

from configs import default
from input_pipeline.dataset import open_dataset
from input_pipeline.landmarks import read_landmarks
from input_pipeline.mixture import BLOCK, Mixture, depth_counts, read_extra
from input_pipeline.pipeline import Plan, image_batches
from input_pipeline.settings import data_settings
from input_pipeline.skeleton import H36M_17, MPII_16
from nrsfm_jax import teacher as teacher_files
from nrsfm_jax import train as teacher_train

MAIN = {"name": "mannequin", "num_train": 24, "num_val": 4, "render_size": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Mannequins, beside them MPII labels and complete ones in COCO form."""
    folder = tmp_path_factory.mktemp("mixture")
    extra = {}
    for name, skeleton in (("mpii", MPII_16), ("more", H36M_17)):
        place = folder / name
        files = formats.names()
        formats.write_pictures(place, files)
        xy = formats.points(skeleton)
        gone = np.zeros(xy.shape[:2], bool)
        if name == "mpii":
            extra[name] = formats.write_mpii_json(place, xy, gone, files)
        else:
            gone[5:, 3] = True  # from the sixth on a knee is hidden
            extra[name] = formats.write_coco(place, skeleton, xy, gone, files)
    extra["mpii"]["weight"], extra["more"]["weight"] = 2.0, 1.0
    prepared = {"data_dir": str(folder / "prepared"), "weight": 1.0}
    return MAIN | prepared | {"extra_sources": extra}


def test_every_source_has_its_share():
    mixture = Mixture((1.0, 2.0, 0.001), seed=3)
    assert mixture.quotas.tolist() == [333, 666, 1]
    for start in (0, 7 * BLOCK):
        source, _ = mixture.draw(np.arange(start, start + BLOCK))
        assert np.bincount(source).tolist() == [333, 666, 1]
    # Mixed, not one source after the other.
    source, _ = mixture.draw(np.arange(60))
    assert 10 < (source == 0).sum() < 32


def test_draws_of_a_source_count_up():
    source, nth = Mixture((1.0, 3.0), seed=0).draw(np.arange(3 * BLOCK))
    for s in (0, 1):
        np.testing.assert_array_equal(nth[source == s], np.arange((source == s).sum()))


def test_every_row_comes_once_an_epoch_and_hosts_share_the_draws():
    plan = Plan(10, 8, True, 5, extra=(7, 4), mixture=Mixture((1.0, 1.0, 1.0), 5))
    rows = np.concatenate([plan.rows(step)[0] for step in range(1000)])
    for first, count in ((0, 10), (10, 7), (17, 4)):
        mine = rows[(rows >= first) & (rows < first + count)]
        whole = mine[: len(mine) // count * count].reshape(-1, count)
        assert len(whole) > 200
        assert (np.sort(whole, axis=1) == np.arange(first, first + count)).all()
    parts = [
        Plan(10, 4, True, 5, i, 2, plan.extra, plan.mixture).rows(33)[0] for i in (0, 1)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), plan.rows(33)[0])


def test_other_sources_are_read_in_the_main_joints(data):
    extra = read_extra(data, H36M_17)
    assert extra is not None
    assert len(extra) == 24
    assert extra.skeleton == H36M_17
    assert len(set(extra.sample_ids.tolist())) == 24
    assert extra.names[0] == "mpii: img000.png"
    spine = H36M_17.joints.index("Spine")
    assert not extra.labelled[:12, spine].any()
    assert extra.labelled[12:, spine].all()
    assert depth_counts(extra).tolist() == [False] * 12 + [True] * 5 + [False] * 7


def test_without_others_there_are_none(data):
    assert (
        read_extra({k: v for k, v in data.items() if k != "extra_sources"}, H36M_17)
        is None
    )


def test_validation_and_the_teachers_landmarks_are_the_main_ones(data):
    assert len(read_landmarks(data, "train")) == 24
    (batch,) = image_batches(
        data, "train", batch_size=24, image_size=8, seed=0, train=False
    )
    assert batch["row"].tolist() == list(range(24))


def _batches(data, count, start=0):
    stream = image_batches(
        data,
        "train",
        batch_size=8,
        image_size=16,
        seed=1,
        train=True,
        start_step=start,
    )
    return list(itertools.islice(stream, count))


def test_batches_hold_pictures_and_landmarks_of_all_sources(data):
    batches = _batches(data, 40)
    rows = np.concatenate([b["row"] for b in batches])
    extra = read_extra(data, H36M_17)
    main = read_landmarks(data, "train")
    assert extra is not None
    patch = np.concatenate([main.patch, extra.patch])
    labelled = np.concatenate([main.labelled, extra.labelled])
    for batch in batches[:10]:
        np.testing.assert_allclose(batch["keypoints"], patch[batch["row"]], atol=1e-5)
        np.testing.assert_array_equal(batch["labelled"], labelled[batch["row"]])
        for row, image in zip(batch["row"], batch["image"], strict=True):
            if row >= 24:  # each picture has a grey of its own
                assert abs(int(image[8, 8, 0]) - (row - 24) % 12 * 9) <= 1
    share = (rows >= 24).mean(), ((rows >= 24) & (rows < 36)).mean()
    np.testing.assert_allclose(share, (0.75, 0.5), atol=0.1)


def test_a_mixture_resumes_exactly(data):
    ahead = _batches(data, 6)[4:]
    for one, other in zip(ahead, _batches(data, 2, start=4), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_joints_that_cannot_be_brought_together_are_an_error(data, tmp_path):
    files = formats.names()
    formats.write_pictures(tmp_path, files)
    xy = formats.points(MPII_16)
    main = formats.write_mpii_json(tmp_path, xy, np.zeros(xy.shape[:2], bool), files)
    mixed = main | {"data_dir": data["data_dir"], "extra_sources": {"drawn": MAIN}}
    with pytest.raises(ValueError, match=r"extra_sources\.drawn: joints .* cannot"):
        read_extra(mixed, MPII_16)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"x": {"name": "mocap"}}, r"extra_sources\.x: a further source has pictures"),
        ({"x": {"name": "yolo"}}, r"extra_sources\.x: config\.data\.name = 'yolo'"),
        (
            {"x": {"name": "mpii", "wieght": 2}},
            r"extra_sources\.x: .*no field \['wieght'\]",
        ),
        ({"x": {"name": "mpii", "weight": 0}}, r"extra_sources\.x: .*weight = 0"),
        ({"x": 3}, r"extra_sources\.x: "),
    ],
)
def test_bad_further_sources_are_named(extra, message):
    with pytest.raises(ValueError, match=message):
        data_settings(MAIN | {"extra_sources": extra})


# --- teacher and student ---------------------------------------------------------


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A tiny teacher of the mixture, its config and its folder."""
    workdir = tmp_path_factory.mktemp("run")
    config = default.get_config()
    for name, value in data.items():
        text = name in ("extra_sources", "joint_names")
        config.data[name] = json.dumps(value) if text else value
    config.teacher.dictionary_sizes = (12, 6)
    config.teacher.batch_size, config.teacher.steps = 8, 20
    config.teacher.log_every = 10
    config.teacher.em.guide_fraction = 0.0
    teacher_train.train_and_evaluate(config, workdir, open_dataset(config.data))
    return config, workdir


def test_the_teacher_judges_the_other_sources_but_is_scored_on_the_main_one(run):
    _, workdir = run
    extra = teacher_files.load_reconstruction(workdir / "teacher", "extra")
    assert len(extra) == 24
    assert np.isfinite(extra.code).all()
    results = json.loads((workdir / "teacher" / "results.json").read_text())
    assert set(results) == {"train", "val", "teacher"}
    assert results["train"]["count"] == 24


@pytest.mark.parametrize(
    "mode", ["distill", "weaksup_bs", "weaksup_residual", "supervised"]
)
def test_incomplete_skeletons_get_the_2d_loss_alone(run, mode):
    """Gradients with respect to depth: of main and of complete samples only."""
    from pose_jax.step import make_loss
    from pose_jax.train import prepare

    config, workdir = run
    data = open_dataset(config.data)
    extra = data.landmarks("extra")
    record, targets = prepare(config, workdir, data, mode)
    loss = make_loss(
        mode,
        H36M_17.flip_permutation,
        xy_weight=1.0,
        depth_weight=record.depth_weight,
        code_l1_weight=0.15,
    )
    rows = np.arange(48)
    batch = {
        "keypoints": np.concatenate([data.landmarks("train").patch, extra.patch]),
        "labelled": np.concatenate([data.landmarks("train").labelled, extra.labelled]),
        "flip": np.zeros(48, bool),
        "scale": np.ones(48, np.float32),
        "row": rows,
    }
    placed = jax.tree.map(jnp.asarray, (batch, targets["train"]))
    pose = jnp.asarray(np.random.default_rng(0).normal(size=(48, 17, 3)), jnp.float32)
    gradient = jax.grad(lambda p: loss(p, *placed)[0].sum())(pose)
    assert np.isfinite(gradient).all()
    depth = np.abs(np.asarray(gradient)[..., 2]).max(axis=1) > 0
    counted = np.ones(24, bool), depth_counts(extra) & (mode != "supervised")
    np.testing.assert_array_equal(depth, np.concatenate(counted))
    flat = np.abs(np.asarray(gradient)[..., :2]).max(axis=(1, 2)) > 0
    assert flat.all()


def test_the_sign_is_turned_for_all_sources(run):
    config, workdir = run
    before = teacher_files.load_reconstruction(workdir / "teacher", "extra")
    D = teacher_files.load(workdir / "teacher").dictionary
    z = before.poses(D)[..., 2]
    config.teacher.depth_sign = -1
    teacher_train.train_and_evaluate(config, workdir, open_dataset(config.data))
    after = teacher_files.load_reconstruction(workdir / "teacher", "extra")
    turned = after.poses(teacher_files.load(workdir / "teacher").dictionary)[..., 2]
    np.testing.assert_allclose(turned, -z, atol=1e-5)
    config.teacher.depth_sign = 1
    teacher_train.train_and_evaluate(config, workdir, open_dataset(config.data))


def test_another_choice_of_sources_is_another_teacher(run):
    config, workdir = run
    config = copy.deepcopy(config)
    sources = json.loads(config.data.extra_sources)
    sources["mpii"]["weight"] = 5.0
    config.data.extra_sources = json.dumps(sources)
    with pytest.raises(ValueError, match=r"another config .*extra_sources"):
        teacher_train.train_and_evaluate(config, workdir, open_dataset(config.data))
    assert Path(workdir, "teacher", "teacher.json").exists()
