"""From pictures or tracks to 3D: check, teacher, student, evaluate, lift, predict.

python main.py --config=configs/quickstart.py --workdir=runs/quickstart
"""

import functools
import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

import nrsfm_jax.train
import pose_jax.train
from configs import default
from input_pipeline.dataset import open_dataset
from runtime import command_line, devices, processes, stopping
from runtime.files import explained
from runtime.progress import working
from runtime.workdir import claim_workdir, hold_workdir
from stages import check, report
from stages.export import export
from stages.lift import lift
from stages.predict import predict

STAGES = ("all", "check", "teacher", "student", "evaluate")
USES = {"predict": predict, "lift": lift, "export": export}  # what is trained
CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder that the run writes to.")
STAGE = flags.DEFINE_enum("stage", "all", [*STAGES, *USES], "What to run.")
PROCESSES = flags.DEFINE_string("processes", "", "'auto' or HOST:PORT,INDEX,COUNT")
flags.mark_flags_as_required([CONFIG, WORKDIR])
parse = functools.partial(command_line.parse, config=CONFIG, default=default)


def main(_: list[str]) -> None:
    """Runs the stage that the flags name, or all; each leaves its files in WORKDIR."""
    if not flags.FLAGS.verbosity:
        logging.set_verbosity(logging.WARNING)  # Orbax reports every file it writes
        jax.config.update("jax_logging_level", "CRITICAL")  # XLA: "Very slow compile?"
    config, workdir, stage = CONFIG.value, Path(str(WORKDIR.value)), STAGE.value
    try:
        kept = {"keep_memory": config.keep_freed_memory}  # before there is a thread
        devices.use_cpu_devices(config.cpu_devices, **kept)
        with stopping.on_signals(), processes.joined(PROCESSES.value):
            if stage == "check":
                sys.exit(not check.run(config, workdir))
            if stage in USES:
                return print(USES[stage](config, workdir))
            data = open_dataset(config.data)
            tracked = stage == "all" and config.data.name == "tracks"
            if tracked and not check.run(config, workdir, data):
                sys.exit(1)
            with hold_workdir(workdir):
                with working("reading the data", shown=processes.is_first()):
                    claim_workdir(workdir, config, data.identity)
                print(devices.device_banner(), flush=True)
                if stage in ("all", "teacher"):
                    nrsfm_jax.train.train_and_evaluate(config, workdir, data)
                if stage in ("all", "student"):
                    for modes in pose_jax.train.trainings(config.student):
                        pose_jax.train.train_and_evaluate(config, workdir, data, modes)
                if tracked:
                    print(lift(config, workdir, data))
                report.write(config, workdir, data)
    except (ValueError, OSError) as error:
        if flags.FLAGS.verbosity > 0:  # --verbosity=1: with the traceback
            raise
        sys.exit(f"error: {explained(error)}")


def start() -> None:
    """The command ``nrsfm-distill``, and this file as a program."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    start()
