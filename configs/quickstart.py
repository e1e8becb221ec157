"""The embedded mannequins: teacher, Weaksup-bs and distilled student in minutes.

python main.py --config=configs/quickstart.py --workdir=runs/quickstart

Minutes on two CPU cores, without a download. The students are one network with two
depths, on 8,000 pictures. Expected on validation, in mm, PA-MPJPE / depth error, mean
of three seeds: teacher 63.1 / 71.1, Weaksup-bs 89.6 / 86.4, distilled 90.7 / 88.3
(configs/README.md, table 1).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """A small network on 64-pixel crops of rendered pictures."""
    config = default.get_config()
    config.keep_freed_memory = False  # a small network
    config.data.num_train = 8000
    config.data.num_val = 400
    config.data.render_size = 96
    config.data.padding = 1.1  # of 64 pixels the body should have most
    config.teacher.steps = 4000
    config.predict.mirror = True
    config.predict.shapes = True
    student = config.student
    # One small network for both modes that learns in minutes: docs/results.md.
    student.share_backbone = True
    student.labels = "best"
    student.network = "pyramid"
    student.yaw_classes = 8
    student.optimizer = "muon"
    student.heat_weight = 0.25
    # What --config.student.network=resnet means here.
    student.resnet_layers = 10
    student.width = 0.25
    student.stem = "small"
    student.image_size = 64
    # A coarse heat map: its expectation is as fine, and it is learned sooner.
    student.heatmap_size = 8
    student.depth_bins = 8
    student.deconv_channels = 64
    student.num_deconv = 1
    student.batch_size = 32
    student.steps = 3800
    student.learning_rate = 8e-3
    student.schedule = "cosine"
    student.augment.scale = 0.1
    student.augment.rotation_deg = 10.0
    student.eval_every = 500
    student.checkpoint_every = 500
    return config
