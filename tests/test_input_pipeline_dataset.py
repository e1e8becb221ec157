"""A data set resolved once: landmarks, chosen pictures, extra sources, JSON fields."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import tiny_formats as formats
from tiny_data import coco_record, write_coco, write_motion

from configs import default
from input_pipeline.dataset import Dataset, open_dataset
from input_pipeline.settings import read_settings
from input_pipeline.skeleton import H36M_17, MPII_16

MAIN = {"name": "mannequin", "num_train": 24, "num_val": 4, "render_size": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    record = coco_record(20)
    return open_dataset(write_coco(tmp_path_factory.mktemp("toy"), record))


def test_landmarks_are_read_once(data):
    assert data.landmarks("train") is data.landmarks("train")
    assert len(data.landmarks("train")) == 18
    assert len(data.landmarks("val")) == 2
    assert len(data.landmarks("extra")) == 0
    assert data.skeleton == data.landmarks("val").skeleton
    assert data.truth("val") is None
    assert data.has_pictures


def test_a_data_set_is_resolved_once(data, monkeypatch):
    """No file of labels is opened again for pictures, truth or another pass."""
    from input_pipeline.formats import splits

    options = {"batch_size": 2, "image_size": 16, "seed": 0, "train": False}
    assert data.landmarks("train").names
    monkeypatch.setattr(splits, "read_index", None)
    for _ in range(2):
        assert len(list(data.pictures("val", **options))) == 1
    assert data.truth("train") is None
    assert data.identity == data.identity


def test_chosen_rows_alone_are_loaded(data):
    """In the order in which they are asked for; the last batch is padded."""
    shared = {"batch_size": 2, "image_size": 16, "seed": 0, "train": False}
    whole = np.concatenate([b["image"] for b in data.pictures("train", **shared)])
    some = list(data.pictures("train", rows=(7, 2, 11), **shared))
    assert [b["row"].tolist() for b in some] == [[7, 2], [11, 11]]
    assert [b["weight"].tolist() for b in some] == [[1, 1], [1, 0]]
    np.testing.assert_array_equal(some[0]["image"], whole[[7, 2]])
    np.testing.assert_array_equal(
        some[0]["keypoints"], data.landmarks("train").patch[[7, 2]]
    )


def test_split_must_be_known(data):
    with pytest.raises(ValueError, match="split 'test'"):
        data.landmarks("test")


def test_landmarks_only_data_has_no_pictures(tmp_path):
    motion = {"name": "mocap", "mocap_file": write_motion(tmp_path / "m.npz")}
    data = open_dataset(motion | {"num_train": 4, "num_val": 2})
    with pytest.raises(ValueError, match="name=mannequin"):
        data.pictures("train", batch_size=2, image_size=8, seed=0, train=True)
    assert data.identity == open_dataset(data.settings).identity
    others = [open_dataset(motion | {"num_train": 5, "num_val": 2})]
    others += [open_dataset(motion | {"num_train": 4, "num_val": 2, "seed": 1})]
    assert len({each.identity for each in (data, *others)}) == 3


# --- fields ------------------------------------------------------------------------


def test_dictionaries_are_given_as_json_text_or_file(tmp_path):
    """What the shell can set, in the form that the messages show."""
    names, more = {"paw": "LPaw"}, {"more": {"name": "coco", "annotations": "a.json"}}
    file = tmp_path / "more.json"
    file.write_text(json.dumps(more))
    config = default.get_config()
    config.data.name = "coco"
    config.data.joint_names = json.dumps(names)
    config.data.extra_sources = str(file)
    settings = open_dataset(config.data).settings
    assert settings.joint_names == (("paw", "LPaw"),)
    assert settings.extra_sources[0][1].annotations == "a.json"
    for field, text in (
        *((field, "[1]") for field in ("joint_names", "extra_sources")),
        ("joint_names", '{"a": '),
        ("extra_sources", str(tmp_path / "gone.json")),
    ):
        with pytest.raises(ValueError, match=rf"{field} = .* JSON object in quotes"):
            open_dataset({"name": "coco", field: text})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", "maniquin"), ("box", "x"), ("padding", 0.0), ("num_val", -1)),
        ("elevation_deg", (9, 1)),
    ],
)
def test_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=f"config.data.{field} = "):
        read_settings({field: value})


def test_settings_reject_unknown_fields():
    with pytest.raises(ValueError, match=r"no field.*num_trian"):
        read_settings({"num_trian": 3})


@pytest.mark.parametrize(
    ("name", "field", "remedy"),
    [
        *(
            ("mannequin", field, "name to coco or mpii")
            for field in (
                *("annotations", "annotations_val", "images", "images_val"),
                *("skeleton", "ground_truth", "ground_truth_val"),
            )
        ),
        ("mocap", "annotations", "name to coco"),
        ("mannequin", "joint_names", "name to coco"),
        ("coco", "mocap_file", "name to mannequin or mocap or sequence"),
        ("mocap", "sequence", "name to sequence"),
        ("coco", "landmarks", "name to landmarks"),
    ],
)
def test_a_field_that_is_not_read_is_no_silent_mistake(name, field, remedy):
    """Own labels with the default ``name`` must not train on mannequins."""
    value = '{"a": "b"}' if field == "joint_names" else "x.json"
    with pytest.raises(ValueError, match=rf"data\.{field} = .* not read .*{remedy}"):
        open_dataset({"name": name, field: value})


# --- extra sources -----------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Dataset:
    """Mannequins, beside them MPII labels and complete ones in COCO form."""
    folder = tmp_path_factory.mktemp("extra")
    prepared = {"data_dir": str(folder / "prepared"), "weight": 1.0}
    return open_dataset(
        MAIN | prepared | {"extra_sources": formats.write_extra_sources(folder)}
    )


def test_other_sources_are_read_in_the_main_joints(mixed):
    extra = mixed.landmarks("extra")
    assert len(extra) == 24
    assert extra.skeleton == H36M_17
    assert len(set(extra.sample_ids.tolist())) == 24
    assert extra.names[0] == "mpii: img000.png"
    spine = H36M_17.joints.index("Spine")
    assert not extra.labelled[:12, spine].any()
    assert extra.labelled[12:, spine].all()
    assert (
        extra.labelled.all(axis=1).tolist() == [False] * 12 + [True] * 5 + [False] * 7
    )


def test_validation_and_the_teachers_landmarks_are_the_main_ones(mixed):
    assert len(mixed.landmarks("train")) == 24
    (batch,) = mixed.pictures("train", batch_size=24, image_size=8, seed=0, train=False)
    assert batch["row"].tolist() == list(range(24))


def _batches(data, count, start=0):
    options = {"batch_size": 8, "image_size": 16, "seed": 1, "train": True}
    stream = data.pictures("train", start_step=start, **options)
    return list(itertools.islice(stream, count))


def test_batches_hold_pictures_and_landmarks_of_all_sources(mixed):
    batches = _batches(mixed, 40)
    rows = np.concatenate([b["row"] for b in batches])
    both = [mixed.landmarks(split) for split in ("train", "extra")]
    patch = np.concatenate([marks.patch for marks in both])
    labelled = np.concatenate([marks.labelled for marks in both])
    for batch in batches[:10]:
        np.testing.assert_allclose(batch["keypoints"], patch[batch["row"]], atol=1e-5)
        np.testing.assert_array_equal(batch["labelled"], labelled[batch["row"]])
        for row, image in zip(batch["row"], batch["image"], strict=True):
            if row >= 24:  # each picture has a grey of its own
                assert abs(int(image[8, 8, 0]) - (row - 24) % 12 * 9) <= 1
    share = (rows >= 24).mean(), ((rows >= 24) & (rows < 36)).mean()
    np.testing.assert_allclose(share, (0.75, 0.5), atol=0.1)
    for one, other in zip(batches[4:6], _batches(mixed, 2, start=4), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_weights_and_sources_are_part_of_the_identity(mixed):
    sources = mixed.settings.extra_sources

    def other(**changes) -> str:
        return Dataset(dataclasses.replace(mixed.settings, **changes)).identity

    assert other() == mixed.identity
    assert other(extra_sources=sources[:1]) != mixed.identity
    assert other(weight=2.0) != mixed.identity


def test_joints_that_cannot_be_brought_together_are_an_error(mixed, tmp_path):
    files = formats.names()
    formats.write_pictures(tmp_path, files)
    xy = formats.points(MPII_16)
    main = formats.write_mpii_json(tmp_path, xy, np.zeros(xy.shape[:2], bool), files)
    main |= {"data_dir": mixed.settings.data_dir, "extra_sources": {"drawn": MAIN}}
    with pytest.raises(ValueError, match=r"extra_sources\.drawn: joints .* cannot"):
        open_dataset(main).landmarks("extra")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "mocap"}, "a further source has pictures"),
        ({"name": "other"}, r"config\.data\.name = 'other'"),
        ({"name": "mpii", "wieght": 2}, r".*no field \['wieght'\]"),
        ({"name": "mpii", "weight": 0}, r".*weight = 0"),
        (3, ""),
    ],
)
def test_bad_further_sources_are_named(fields, message):
    with pytest.raises(ValueError, match=rf"extra_sources\.x: {message}"):
        read_settings(MAIN | {"extra_sources": {"x": fields}})
