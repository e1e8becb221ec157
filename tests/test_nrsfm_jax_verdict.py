"""The verdict: each way in which a depth can be wrong is named, a right one trusted."""

import dataclasses
import json

import pytest

from nrsfm_jax.em import FitReport
from nrsfm_jax.handedness import Handedness
from nrsfm_jax.verdict import judge

GOOD = Handedness(0.004, False, 0.89, 0.001, 0.92, 0.998, 4000)
NATS = {"level": 54.0, "raised": 52.0, "any rotation": 52.3, "one view": 48.0}
FIT = FitReport("level", NATS, 1.2, GOOD, False, GOOD)


def verdict(teacher=GOOD, held_out=53.0, **changed):
    report = dataclasses.replace(FIT, **changed)
    return judge(report, teacher, training_nats=60.0, held_out_nats=held_out)


def test_a_coherent_depth_is_trusted():
    found = verdict()
    assert found.trusted is True
    assert found.text.startswith("Depth: coherent.")
    assert "0.4% of the samples are estimated to be mirrored" in found.text
    assert "'level', +6.0 nats a sample against a single view" in found.text
    assert "53.0 nats a sample, those of the fit 60.0" in found.text
    assert found.facts["turning_nats"] == 6.0
    json.dumps(found.facts)  # plain numbers and names


def test_a_corrected_depth_is_trusted_and_says_what_was_corrected():
    before = dataclasses.replace(GOOD, changed=0.23, applied=True)
    found = verdict(before=before, refitted=True)
    assert found.trusted is True
    assert "23.0% of the samples mirrored in depth and was corrected" in found.text


def test_landmarks_in_which_nothing_turns_are_not_trusted():
    found = verdict(views_nats=NATS | {"one view": 61.5})
    assert found.trusted is False
    assert "A single view explains the landmarks better by 7.5 nats" in found.text


@pytest.mark.parametrize("of", ["teacher", "after"])
@pytest.mark.parametrize("scores", [(0.7, 0.998), (0.9, 0.86)])
def test_poses_without_handedness_are_not_trusted(of, scores):
    poor = dataclasses.replace(GOOD, bimodality=scores[0], split=scores[1])
    found = verdict(**{of: poor})
    assert found.trusted is False
    assert "do not differ from their mirror images" in found.text


def test_a_teacher_whose_signs_differ_is_not_trusted():
    found = verdict(teacher=dataclasses.replace(GOOD, changed=0.12, applied=True))
    assert found.trusted is False
    assert "12% of the samples have the other sign" in found.text


def test_few_samples_leave_it_open():
    few = dataclasses.replace(GOOD, samples=50, bimodality=0.5, split=0.6)
    found = verdict(teacher=few, after=few)
    assert found.trusted is None
    assert "50 samples are too few" in found.text


def test_a_wrong_prior_is_named_with_the_likelier_one():
    found = verdict(views_nats=NATS | {"above": 58.0})
    assert found.trusted is None
    assert "Views 'above' are likelier by 4.0 nats" in found.text
    assert "config.teacher.em.views=auto" in found.text
    slightly = verdict(views_nats=NATS | {"above": 54.2})
    assert slightly.trusted is True


def test_the_one_sign_is_open_where_nothing_tells_it():
    assert "is open: everything may be mirrored" in verdict(sign_nats=0.01).text
    assert "rests on the camera looking down" in verdict(sign_nats=0.9).text


def test_without_validation_nothing_is_said_of_it():
    assert "Validation" not in verdict(held_out=None).text
