"""The teacher alone on motion capture seen by random cameras, without pictures.

python main.py --config=configs/cmu_mocap.py --workdir=runs/cmu_mocap --stage=teacher \
    --config.data.mocap_file=cmu_mocap17.npz

About 1 minute a seed on one CPU core. Expected on the training landmarks, in mm: depth
error 38.5 [37.6, 39.3] and PA-MPJPE 36.2 [35.7, 37.0] (20 seeds; docs/teacher.md).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """15,000 frames, azimuth uniform, elevation -10..30 degrees."""
    config = default.get_config()
    config.data.name = "mocap"
    config.data.num_train = 15_000
    config.data.num_val = 2_000
    return config
