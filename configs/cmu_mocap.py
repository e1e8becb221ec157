"""The teacher alone on motion capture seen by random cameras, no pictures.

python main.py --config=configs/cmu_mocap.py --workdir=runs/cmu_mocap --stage=teacher \
    --config.data.mocap_file=cmu_mocap17.npz

Per seed, on four CPU cores: configs/README.md.
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
