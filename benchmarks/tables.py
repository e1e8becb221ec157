"""The paper's tables on open pictures: does the student correct its teacher?

    python benchmarks/tables.py --table=1 --dataset=mh_mocap --seeds=3 --jobs=4
    python benchmarks/tables.py --table=2 --form=full      # on a GPU

Table 1: the training set; 2: validation subjects, and pictures of another source in
addition; 3: validation by action; 4: weights of the regulariser of Eq. 14. One teacher,
and for every row and seed one student on it: the same pictures in the same order, the
same number of steps, depth gradients matched to those of Weaksup-bs. A student is
trained in a folder of its own (``--runs``) and only once, whichever tables show it.

``--teacher=paper`` has the published dictionaries 256-...-8 and is guided by the EM in
the first part of the training only; ``default`` is that of the configs, closer to the
truth. ``--form=reduced`` is the quickstart's network on 64 pixels, for a CPU, each loss
trained alone; ``full`` is ``configs/paper.py``, ResNet-50 on 256 pixels, for a GPU.
``--config.student.labels=best`` takes the best depth in place of the teacher's.
``--config.student.steps=16000`` changes a field of either, as in ``main.py``; its
results are stored in a folder of their own. The sign of depth is that of the teacher.
Values: mean over seeds [95 % interval, Student's t]; errors in mm.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags, logging
from ml_collections import config_flags

import nrsfm_jax.train
import pose_jax.train
from benchmarks import table_scores as scores
from benchmarks.common import DATA, Job, make_parser, markdown, run_jobs, set_mh_mocap
from configs import mocap_images, paper
from input_pipeline.dataset import open_dataset
from runtime import teacher_file
from runtime.devices import keep_freed_memory
from runtime.files import write_json

# Name of a row -> label. The name is the student's mode, and what differs after it.
ROWS = {
    "weaksup_bs": "Weaksup-bs",
    "weaksup_residual": "Weaksup-bs, residual-weighted",
    "weaksup_certainty": "Weaksup-bs, joints weighted by certainty (ours)",
    "distill": "distilled (Eq. 14)",
    "distill_exact": "distilled, exact (Eq. 10)",
    "posterior": "Mahalanobis distance (ours)",
    "supervised": "supervised (reads 3D)",
}
# Not students: what they learn from, and the mean of both depths.
NOT_TRAINED = {
    "teacher": "teacher",
    "lifted": "best depth of the landmarks, annotated xy",
    "lifted_and_posterior": "mean of the best depth and its student's, annotated xy",
}
EXTRA = {f"{name}+extra": ROWS[name] for name in ("weaksup_bs", "distill", "posterior")}
# The paper's weights, for a dictionary whose columns had a norm of about 2, and ours.
WEIGHTS = {"0.01": 0.005, "0.1": 0.05, "0.3": 0.15, "0.5": 0.25, "1": 0.5}
SPLITS = {1: "train", 2: "val", 3: "val", 4: "val"}
DATASETS = ("mh_mocap", "mannequin")


def main() -> None:
    """Trains what is missing and prints the table."""
    args = parse_args()
    if args.worker:
        return work(args)
    teacher = job_of(args, "teacher", 0)
    run_jobs([teacher])
    if not teacher.done():
        sys.exit("error: the teacher was not trained")
    students = [job_of(args, n, s) for s in range(args.seeds) for n in rows_of(args)]
    run_jobs(students, jobs=args.jobs, cores=args.cores)
    text = "\n".join(table(args))
    (folder_of(args) / f"table{args.table}.md").write_text(text + "\n", "utf-8")
    return print(text)


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--dataset", choices=DATASETS, default="mh_mocap")
    parser.add_argument("--form", choices=("reduced", "full"), default="reduced")
    parser.add_argument("--teacher", choices=("paper", "default"), default="paper")
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"))
    parser.add_argument("--table", type=int, choices=tuple(SPLITS), default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--row", action="append", help="only these rows, by mode")
    parser.add_argument("--jobs", type=int, default=1, help="students at a time")
    parser.add_argument("--cores", default="", help="as 0,1,2; all by default")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    # Beside them the fields of the config, sorted, as ``overrides``.
    args, rest = parser.parse_known_args()
    args.overrides = sorted(rest)
    unknown = [a for a in rest if not re.match(r"--config\.[\w.]+=", a)]
    if unknown:
        parser.error(f"unexpected {unknown[0]}; fields are set by --config.x.y=value")
    if any(re.match(r"--config\.(seed|student\.modes?)=", a) for a in rest):
        parser.error("the rows and --seeds say which student and which seed")
    try:
        config_of(args, "teacher", 0)
    except ValueError as error:
        parser.error(str(error))
    return args


def folder_of(args: argparse.Namespace) -> Path:
    """Where the runs lie that belong together: one teacher and its students."""
    parts = [f"{args.dataset}-{args.form}-{args.teacher}"]
    parts += [a.removeprefix("--config.").replace("/", "_") for a in args.overrides]
    return args.runs / "-".join(parts)


def rows_of(args: argparse.Namespace) -> list[str]:
    """The students that a table shows."""
    names = list(ROWS)
    if args.table == 2:
        names += EXTRA
    if args.table == 4:
        names = ["weaksup_bs", *(f"distill@{w}" for w in WEIGHTS)]
        names = ["distill" if n == "distill@0.3" else n for n in names]
    if args.row:
        names = [n for n in names if n in args.row]
    return names


# --- training -------------------------------------------------------------------------


def config_of(args: argparse.Namespace, row: str, seed: int) -> Any:
    """The whole config of one student, or of the teacher."""
    config: Any = (mocap_images if args.form == "reduced" else paper).get_config()
    config.seed = seed
    config.data = data_of(args.dataset, config.data)
    if row == "teacher" or row.endswith("+extra"):
        other = data_of(DATASETS[args.dataset == "mh_mocap"], config.data)
        fields = ("name", "annotations", "images", "mocap_file", "num_train")
        more = {field: other[field] for field in fields}
        config.data.extra_sources = json.dumps({"other": more | {"weight": 1.0}})
    if args.teacher == "paper":
        config.teacher.dictionary_sizes = (256, 128, 64, 32, 16, 8)
        config.teacher.em.guide_floor = 0.0
    student = config.student
    student.match_depth_gradients = True
    if args.form == "reduced":
        config.data.update(num_train=16_000, padding=1.25)
        # Each loss alone, on the published teacher; and no augmentation but flips: the
        # training set, on which the claim is made, is fitted sooner.
        student.update(share_backbone=False, labels="network", steps=4000)
        config.predict.update(mirror=False, shapes=False)
        student.augment.scale = student.augment.rotation_deg = 0.0
        student.augment.colour = 0.0
    set_fields(config, args.overrides)
    if "@" in row:
        student.code_l1_weight = WEIGHTS[row.split("@")[1]]
    return config


def set_fields(config: Any, overrides: Sequence[str]) -> None:
    """Reads ``--config.x.y=value`` as main.py does, into ``config``."""
    values, argv = flags.FlagValues(), ["tables.py", *overrides]
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=argv, lock_config=False
        )
        values(argv)
    except (flags.Error, KeyError, AttributeError) as error:
        raise ValueError(f"{' '.join(overrides)}: {error}") from error


def data_of(dataset: str, data: Any) -> Any:
    """``config.data`` of one of the two data sets."""
    data = data.copy_and_resolve_references()
    data.name, data.num_val = "mannequin", 500
    data.mocap_file = str(DATA / "cmu_mocap17.npz")
    data.num_train = 4000
    if dataset == "mh_mocap":
        data.mocap_file = ""
        set_mh_mocap(data, DATA / "mh_mocap")
    return data


def work(args: argparse.Namespace) -> None:
    """Trains one student, or the teacher, in its folder."""
    logging.set_verbosity(logging.WARNING)
    folder = folder_of(args)
    config = config_of(args, args.worker, args.seed)
    if config.keep_freed_memory:
        keep_freed_memory()  # before there is a thread
    if args.worker == "teacher":
        data = open_dataset(config.data)
        nrsfm_jax.train.train_and_evaluate(config, folder, data)
        return
    own = student_folder(folder, args.worker, args.seed).parent
    own.mkdir(parents=True, exist_ok=True)
    if not (own / "teacher").exists():
        (own / "teacher").symlink_to((folder / "teacher").absolute())
    write_json(own / "config.json", config.to_dict())
    data = open_dataset(config.data)
    pose_jax.train.train_and_evaluate(config, own, data, (mode_of(args.worker),))


def student_folder(folder: Path, row: str, seed: int) -> Path:
    """The results of one student, in its workdir."""
    return folder / f"seed{seed}" / row / f"student_{mode_of(row)}"


def mode_of(row: str) -> str:
    """The student's mode.

    Examples:
        >>> mode_of("distill@0.1"), mode_of("weaksup_bs+extra")
        ('distill', 'weaksup_bs')
    """
    return row.split("@")[0].split("+")[0]


def job_of(args: argparse.Namespace, row: str, seed: int) -> Job:
    """Training in a process of its own, where there are no results yet."""
    names = ("dataset", "form", "teacher", "runs")
    given = [f"--{n}={getattr(args, n)}" for n in names] + args.overrides
    folder = folder_of(args)
    own = folder / "teacher" if row == "teacher" else student_folder(folder, row, seed)
    return Job(
        name=f"{row}, seed {seed}",
        command=[sys.executable, __file__, *given, f"--worker={row}", f"--seed={seed}"],
        done=(own / "results.json").exists,
        log=folder / f"seed{seed}" / f"{row}.log",
    )


# --- the tables -----------------------------------------------------------------------


def table(args: argparse.Namespace) -> list[str]:
    """The lines of one table in Markdown."""
    name = SPLITS[args.table]
    data = open_dataset(config_of(args, "weaksup_bs", 0).data)
    split = scores.split_of(data, name)
    found = errors_of(folder_of(args), rows_of(args), args.seeds, name, split)
    lines = [f"## Table {args.table}: {folder_of(args).name}, {name} split", ""]
    if args.table == 3:
        return lines + _by_action(found, split)
    columns = [f"{k}: {m}" for k in ("own xy", "annotated xy") for m in scores.METRICS]
    rows = (
        [f"{label(n)} ({len(e)})", *(str(scores.mean_error(e, c)) for c in columns)]
        for n, e in found.items()
    )
    lines += markdown(("", *columns), rows)
    pairs = [(n, to) for n in found for to in ("teacher", "weaksup_bs") if n != to]
    pairs = [p for p in pairs if p[1] in found and p[0] not in ("teacher", "lifted")]
    for title, compare in (
        ("Ratios", scores.ratio),
        ("Mean differences of the samples (mm)", scores.difference),
    ):
        rows = (
            [
                f"{label(n)} beside {label(to)}",
                *(str(compare(found[n], found[to], c)) for c in columns),
            ]
            for n, to in pairs
        )
        lines += ["", f"### {title}", "", *markdown(("", *columns), rows)]
    if args.table == 1:
        lines += ["", "### Depth by quarter of the teacher's residual", ""]
        order = teacher_file.read(folder_of(args) / "teacher").split(name)["residual"]
        head = ("", "smallest", "second", "third", "largest")
        depth = "annotated xy: depth"
        rows = (
            [label(n), *map(str, scores.by_quartile(e, depth, order))]
            for n, e in found.items()
        )
        lines += markdown(head, rows)
    return lines


def errors_of(
    folder: Path, rows: Iterable[str], seeds: int, name: str, split: scores.Split
) -> dict[str, dict[int, dict[str, Any]]]:
    """Row -> seed -> errors of every sample; rows without any student are left out."""
    teacher = folder / "teacher"
    lifted = scores.lifted_pose(teacher, name, split)
    found = {
        "teacher": {0: scores.errors(scores.predicted(teacher, name), split)},
        "lifted": {0: scores.errors(lifted, split)},
    }
    for row in rows:
        for seed in range(seeds):
            own = student_folder(folder, row, seed)
            if (own / "results.json").exists():
                found.setdefault(row, {})[seed] = scores.errors(
                    scores.predicted(own, name), split
                )
    for seed in found.get("posterior", {}):
        own = scores.predicted(student_folder(folder, "posterior", seed), name)
        both = scores.errors(scores.mean_depth(lifted, own), split)
        found.setdefault("lifted_and_posterior", {})[seed] = both
    return found


def label(row: str) -> str:
    """What a row is called."""
    if row in NOT_TRAINED:
        return NOT_TRAINED[row]
    if "@" in row:
        weight = row.split("@")[1]
        return f"{ROWS[mode_of(row)]}, weight {weight} ({WEIGHTS[weight]:g} here)"
    return ROWS[mode_of(row)] + (", other pictures added" if "+extra" in row else "")


def _by_action(found: dict[str, Any], split: scores.Split) -> list[str]:
    """PA-MPJPE with the students' own xy, an action a column."""
    kind = "own xy: PA-MPJPE"
    tables = {n: scores.by_action(e, kind, split.action) for n, e in found.items()}
    actions = list(next(iter(tables.values())))
    count = {a: int((split.action == a).sum()) for a in actions}
    head = ("", *(f"{a} ({count[a]})" if count[a] else a for a in actions))
    rows = ([label(n), *(str(t[a]) for a in actions)] for n, t in tables.items())
    return markdown(head, rows)


if __name__ == "__main__":
    main()
