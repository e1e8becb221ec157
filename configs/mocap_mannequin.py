"""The mannequin posed by motion capture: teacher and both students.

python main.py --config=configs/mocap_mannequin.py --workdir=runs/mocap_mannequin \
    --config.data.mocap_file=motion.npz

``mocap_file`` is a BVH file or an .npz with ``positions`` (frames, joints, 3) in mm, y
up, and ``joint_names``. It has not been run at its full length.
"""

from ml_collections import ConfigDict

from configs import mocap_images


def get_config() -> ConfigDict:
    """As for pictures of one's own, on rendered pictures of recorded motion."""
    config = mocap_images.get_config()
    config.data.name = "mannequin"
    config.data.num_train = 6000
    config.data.num_val = 500
    return config
