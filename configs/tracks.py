"""From a tracker's file to 3D of every frame: no pictures, no labels, one command.

python main.py --config=configs/tracks.py --workdir=runs/tracks \
    --config.data.annotations='videos/*.h5'

Reads what DeepLabCut, SLEAP, mmpose, MediaPipe, OpenPose and others predicted
(docs/lift.md), checks it, trains the teacher on the 2D tracks and lifts every frame.
Open runs/tracks/lifted/viewer.html first.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """The teacher alone, of 2D tracks."""
    config = default.get_config()
    config.keep_freed_memory = False  # a small network
    config.data.name = "tracks"
    config.data.num_train = 15_000
    config.data.num_val = 1000
    config.student.modes = ()
    return config
