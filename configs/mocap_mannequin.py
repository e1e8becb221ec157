"""The mannequin posed by motion capture: teacher and both students.

python main.py --config=configs/mocap_mannequin.py --workdir=runs/mocap_mannequin \
    --config.data.mocap_file=motion.npz

``mocap_file`` is a BVH file or an .npz with ``positions`` (frames, joints, 3) in mm,
y up, and ``joint_names``; what to expect: configs/README.md.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """The quickstart's network on rendered pictures of recorded motion."""
    config = quickstart.get_config()
    config.data.num_train = 6000
    config.data.num_val = 500
    config.teacher.steps = 6000
    config.student.steps = 10_000
    config.student.augment.scale = 0.15
    config.student.augment.rotation_deg = 30.0
    config.student.eval_every = 1000
    config.student.checkpoint_every = 1000
    return config
