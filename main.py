"""From images and 2D landmarks to 3D poses: check, teacher, student, evaluate, predict.

python main.py --config=configs/quickstart.py --workdir=runs/quickstart
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

import nrsfm_jax.train
import pose_jax.train
import stages.check
import stages.export
import stages.predict
import stages.report
from input_pipeline.dataset import open_dataset
from runtime import devices, processes
from runtime.workdir import claim_workdir, hold_workdir

STAGES = ("all", "check", "teacher", "student", "evaluate", "predict", "export")
CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder that the run writes to.")
STAGE = flags.DEFINE_enum("stage", "all", STAGES, "What to run.")
PROCESSES = flags.DEFINE_string("processes", "", "'auto' or HOST:PORT,INDEX,COUNT")
flags.mark_flags_as_required([CONFIG, WORKDIR])


def parse(arguments: list[str]) -> list[str]:
    """Reads the flags; a mistake ends the program with one line."""
    try:
        rest = flags.FLAGS(arguments)
        if rest[1:]:
            raise flags.Error(f"unexpected argument {rest[1]}")
        _ = CONFIG.value.seed  # raises what the file of the config raised
        return rest
    except (flags.Error, OSError, ValueError, KeyError, AttributeError) as error:
        text = str(error).replace("\\n", " ").replace("\\", "").strip("\"'")
        sys.exit("error: in the flags: " + " ".join(text.split()))


def main(_: list[str]) -> None:
    """Runs the stage that the flags name, or all; each leaves its files in WORKDIR."""
    if not flags.FLAGS.verbosity:
        logging.set_verbosity(logging.WARNING)  # Orbax reports every file it writes
    config, workdir, stage = CONFIG.value, Path(str(WORKDIR.value)), STAGE.value
    try:
        with processes.joined(PROCESSES.value):
            if stage == "check":
                sys.exit(not stages.check.run(config, workdir))
            kept = config.keep_freed_memory
            devices.use_cpu_devices(config.cpu_devices, keep_memory=kept)
            if stage in ("predict", "export"):
                predicts = stage == "predict"
                use = stages.predict.predict if predicts else stages.export.export
                print(use(config, workdir))
                return
            data = open_dataset(config.data)
            with hold_workdir(workdir):  # the data are read, or refused, by now
                claim_workdir(workdir, config, data.identity)
                print(devices.device_banner(), flush=True)
                if stage in ("all", "teacher"):
                    nrsfm_jax.train.train_and_evaluate(config, workdir, data)
                if stage in ("all", "student"):
                    for mode in config.student.modes:
                        pose_jax.train.train_and_evaluate(config, workdir, data, mode)
                stages.report.write(config, workdir, data)
    except ValueError as error:
        if flags.FLAGS.verbosity > 0:  # --verbosity=1: with the traceback
            raise
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
