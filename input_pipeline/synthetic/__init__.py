"""The embedded data set: people in varied poses, rendered without any download."""

from input_pipeline.synthetic.actions import ACTION_NAMES, draw_pose
from input_pipeline.synthetic.body import draw_body, forward_kinematics
from input_pipeline.synthetic.camera import project, view_rotation
from input_pipeline.synthetic.generate import render_samples
from input_pipeline.synthetic.sample import (
    NUM_SUBJECTS,
    MannequinLandmarks,
    MannequinSample,
    project_landmarks,
    render_sample,
)

__all__ = [
    "ACTION_NAMES",
    "NUM_SUBJECTS",
    "MannequinLandmarks",
    "MannequinSample",
    "draw_body",
    "draw_pose",
    "forward_kinematics",
    "project",
    "project_landmarks",
    "render_sample",
    "render_samples",
    "view_rotation",
]
