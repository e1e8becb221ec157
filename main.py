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
import pose_jax.train
import stages.check
import stages.export
import stages.predict
import stages.report
from input_pipeline import landmark_shards
from runtime import devices, processes, run_files

PREPARE, USE = ("check", "landmarks"), ("predict", "export")
STAGES = ("all", *PREPARE, "teacher", "student", "evaluate", *USE)
CONFIG = config_flags.DEFINE_config_file(  # `parse_flags` reads the overrides
    "config", help_string="A file of configs/.", sys_argv=["main.py"]
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder that the run writes to.")
STAGE = flags.DEFINE_enum("stage", "all", STAGES, "What to run.")
PROCESSES = flags.DEFINE_string(
    "processes", "", "'auto' or HOST:PORT,INDEX,COUNT: one process of several."
)
flags.mark_flags_as_required([CONFIG, WORKDIR])


def main(_: Sequence[str]) -> None:
    """Runs the stage that the flags name, or all of them."""
    if not flags.FLAGS.verbosity:
        logging.set_verbosity(logging.WARNING)  # Orbax reports every file it writes
    if CONFIG.value.keep_freed_memory:
        devices.keep_freed_memory()
    try:
        with processes.joined(PROCESSES.value):
            run(CONFIG.value, Path(str(WORKDIR.value)), STAGE.value)
    except ValueError as error:
        if flags.FLAGS.verbosity > 0:  # --verbosity=1: with the traceback
            raise
        sys.exit(f"error: {error}")


def run(config: Any, workdir: Path, stage: str) -> None:
    """Dispatches on ``stage``; each leaves its files in ``workdir``."""
    if stage == "check":
        sys.exit(not stages.check.run(config, workdir))
    if stage == "landmarks":
        print(landmark_shards.write_folder(config.data))
        return
    devices.use_cpu_devices(config.cpu_devices)
    if stage in ("predict", "export"):  # these only use what is trained in the workdir
        use = stages.predict.predict if stage == "predict" else stages.export.export
        print(use(config, workdir))
        return
    run_files.claim_workdir(workdir, config)
    print(devices.device_banner(), flush=True)
    if stage in ("all", "teacher"):
        nrsfm_jax.train.train_and_evaluate(config, workdir)
    if stage in ("all", "student"):
        for mode in config.student.modes:
            config.student.mode = mode
            pose_jax.train.train_and_evaluate(config, workdir)
    if stage in ("all", "teacher", "student", "evaluate"):
        stages.report.write(config, workdir)


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: run_files.parse_flags(argv, CONFIG))
