"""The teacher on one classic sequence, in the metric of Dai et al. (IJCV 2014).

python main.py --config=configs/classic.py --workdir=runs/yoga --stage=teacher \
    --config.data.mocap_file=nrsfm_classic.npz --config.data.sequence=yoga

The file holds ``NAME_X`` (frames, 3, landmarks) and ``NAME_bones`` for each of drink,
pickup, yoga and stretch; the landmarks are the first two rows of X, the third is for
``dai_error`` in ``teacher/results.json`` only. About 1 minute on two shared CPU cores.
Measured with a prior of level views (``teacher.em.views=upright``,
``elevations_deg=(0.0,)``, ``num_yaws=72``): ``dai_error`` .0241 (drink), .0229
(pickup), .0230 (yoga) and .0255 (stretch). All four and their baselines: ``python
benchmarks/nrsfm.py --dataset=classic``.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """One Gaussian, a level camera at any yaw, exact landmarks, some hundred frames."""
    config = default.get_config()
    config.data.name = "sequence"
    config.data.sequence = "yoga"
    em = config.teacher.em
    # A few hundred frames allow one Gaussian.
    em.components = 1
    em.noise = 0.002
    config.teacher.steps = 1500
    return config
