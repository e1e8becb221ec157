"""The embedded mannequins: teacher, Weaksup-bs and distilled student in minutes.

python main.py --config=configs/quickstart.py --workdir=runs/quickstart

Two CPU cores, no download; what to expect: configs/README.md.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """A small network on 64-pixel crops of rendered pictures."""
    config = default.get_config()
    config.data.num_train = 3000
    config.data.num_val = 300
    config.data.render_size = 96
    config.teacher.steps = 4000
    student = config.student
    student.depth = 10
    student.width = 0.25
    student.stem = "small"
    student.image_size = 64
    student.heatmap_size = 16
    student.depth_bins = 16
    student.deconv_channels = 32
    student.num_deconv = 2
    student.batch_size = 64
    student.steps = 2500
    student.learning_rate = 2e-3
    student.schedule = "cosine"
    student.eval_every = 500
    student.checkpoint_every = 500
    return config
