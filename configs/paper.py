"""The settings of Section 5.1 of the paper: ResNet-50, 256x256; not for a CPU.

python main.py --config=configs/paper.py --workdir=runs/paper \
    --config.data.annotations=train.json --config.data.annotations_val=val.json \
    --config.data.images=images

Human3.6M may not be distributed; any COCO keypoints file can replace it. It needs a GPU
or TPU. Only its first 550 steps of 8 pictures have been run, in 40 minutes on two CPU
cores (configs/README.md, table 3). In Eq. 15 the depth loss has the paper's weight, 1.
It differs from Section 5.1 in:

* the depth that an EM estimates guides the teacher (``teacher.em``), because Eq. 4
  alone does not determine the sign of each sample's depth;
  ``--config=configs/paper.py:unguided`` trains by Eq. 4 alone, as the paper does;
* the weights of the codes in Eqs. 4 and 14 are .005 and .15, not .01 and .3: here the
  columns of the dictionary have norm 1.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(teacher: str = "guided") -> ConfigDict:
    """Dictionaries 256-128-64-32-16-8, batch 32, Adam 1e-3 dropping to 1e-5."""
    if teacher not in ("guided", "unguided"):
        raise ValueError(f"configs/paper.py:{teacher} is not 'guided' or 'unguided'")
    config = default.get_config()
    config.data.name = "coco"
    config.teacher.dictionary_sizes = (256, 128, 64, 32, 16, 8)
    config.student.match_depth_gradients = False
    if teacher == "unguided":
        config.teacher.em.guide_fraction = 0.0
    return config
