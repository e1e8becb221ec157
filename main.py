"""From images and 2D landmarks to 3D poses: check, teacher, student, evaluate, predict.

python main.py --config=configs/quickstart.py --workdir=runs/quickstart
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

import nrsfm_jax.train
import pose_jax.predict
import pose_jax.train
import summary
from input_pipeline import validate
from runtime import devices, run_files

STAGES = ("all", "check", "teacher", "student", "evaluate", "predict")
CONFIG = config_flags.DEFINE_config_file(  # `parse` reads the overrides
    "config", help_string="A file of configs/.", sys_argv=["main.py"]
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder that the run writes to.")
STAGE = flags.DEFINE_enum("stage", "all", STAGES, "What to run.")
flags.mark_flags_as_required([CONFIG, WORKDIR])


def parse(argv: Sequence[str]) -> list[str]:
    """Reads the flags; ``--config.x.y=z`` changes a field of the config."""
    overrides = [a for a in argv if a.lstrip("-").startswith("config.")]
    try:
        rest = flags.FLAGS([a for a in argv if a not in overrides])
        values = run_files.check_overrides(CONFIG.value, overrides)
        CONFIG.value.update_from_flattened_dict(values)
        if rest[1:]:
            raise ValueError(f"unexpected argument {rest[1]!r}")
    except (flags.Error, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    return rest


def main(_: Sequence[str]) -> None:
    """Runs the stage that the flags name, or all of them."""
    if not flags.FLAGS.verbosity:
        logging.set_verbosity(logging.WARNING)  # Orbax reports every file it writes
    try:
        run(CONFIG.value, Path(str(WORKDIR.value)), STAGE.value)
    except ValueError as error:
        if flags.FLAGS.verbosity > 0:  # --verbosity=1: with the traceback
            raise
        sys.exit(f"error: {error}")


def run(config: Any, workdir: Path, stage: str) -> None:
    """Dispatches on ``stage``; each leaves its files in ``workdir``."""
    if stage == "check":
        report = validate.validate(config.data, batch_size=config.student.batch_size)
        print(report)
        sys.exit(not report.ok)
    devices.use_cpu_devices(config.cpu_devices)
    run_files.claim_workdir(workdir, config)
    print(devices.device_banner(), flush=True)
    if stage in ("all", "teacher"):
        nrsfm_jax.train.train_and_evaluate(config, workdir)
    if stage in ("all", "student"):
        for mode in config.student.modes:
            config.student.mode = mode
            pose_jax.train.train_and_evaluate(config, workdir)
    if stage in ("all", "teacher", "student", "evaluate"):
        summary.write(config, workdir)
    if stage == "predict":
        print(pose_jax.predict.predict(config, workdir))


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
