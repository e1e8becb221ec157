"""Pictures with 2D landmarks in COCO form: teacher and both students, on a CPU.

python main.py --config=configs/mocap_images.py --workdir=runs/mocap_images \
    --config.data.annotations=person_keypoints_train.json \
    --config.data.annotations_val=person_keypoints_val.json \
    --config.data.images=images_train --config.data.images_val=images_val

``--config=configs/mocap_images.py:pretrained --config.student.pretrained=FILE`` starts
from EfficientNet-Lite0's weights (docs/own_data.md): slower, and better on unseen
subjects.

``data.ground_truth`` and ``data.ground_truth_val`` name files with 3D, if there are
any; only the evaluation reads them. About 7 minutes of processor time for 4,000
pictures: configs/README.md, table 2.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config(start: str = "random") -> ConfigDict:
    """The quickstart's small network, trained for longer on pictures of one's own."""
    if start not in ("random", "pretrained"):
        raise ValueError(
            f"configs/mocap_images.py:{start} is not 'random' or 'pretrained'"
        )
    config = quickstart.get_config()
    config.data.name = "coco"
    config.teacher.steps = 6000
    config.student.steps = 8000
    config.student.augment.scale = 0.2
    config.student.augment.rotation_deg = 40.0
    config.student.augment.colour = 0.3
    config.student.eval_every = 1000
    config.student.checkpoint_every = 1000
    if start == "pretrained":
        config.keep_freed_memory = True
        config.student.network = "efficientnet"
        config.student.image_size = 96
        config.student.steps = 6600
        config.student.eval_every = 500
        config.student.checkpoint_every = 500
    return config
