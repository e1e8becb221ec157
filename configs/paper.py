"""Every setting of Section 5.1 of the paper: ResNet-50, 256x256; not for a CPU.

python main.py --config=configs/paper.py --workdir=runs/paper \
    --config.data.annotations=train.json --config.data.annotations_val=val.json \
    --config.data.images=images

Human3.6M cannot be passed on; any COCO keypoints file can stand in for it. Only its
first steps were run by us, on a CPU: see configs/README.md.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Dictionaries 256-128-64-32-16-8, batch 32, Adam 1e-3 dropping to 1e-5."""
    config = default.get_config()
    config.data.name = "coco"
    config.teacher.dictionary_sizes = (256, 128, 64, 32, 16, 8)
    return config
