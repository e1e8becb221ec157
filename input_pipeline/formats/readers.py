"""From ``config.data`` to labelled persons: one reader for each format."""

from __future__ import annotations

from input_pipeline.checks.problems import Problem, Reporter
from input_pipeline.formats import coco, dlc, h36m, lsp, mpii, sleap
from input_pipeline.formats.annotations import Index, Source, index_labels
from input_pipeline.settings import DataSettings
from input_pipeline.skeleton import read_skeleton

READ = {
    "coco": coco.read,
    "mpii": mpii.read,
    "h36m": h36m.read,
    "lsp": lsp.read,
    "dlc": dlc.read,
    "sleap": sleap.read,
}


def read_index(settings: DataSettings, split: str, *, report: Reporter) -> Index | None:
    """The usable persons of one annotation file, in the joints that are wanted.

    Returns:
        The index, or None where the file as a whole cannot be used.

    Raises:
        ValueError: a package that the format needs is not installed.
    """
    path, images = settings.annotation_file(split)
    try:
        skeleton = read_skeleton(settings.skeleton) if settings.skeleton else None
    except ValueError as error:
        remedy = "name a built-in skeleton or correct the file"
        report(Problem("bad skeleton", "config.data.skeleton", "", str(error), remedy))
        return None
    source = Source(
        path=path,
        images=images,
        split=split,
        box=settings.box,
        min_joints=settings.min_joints,
        report=report,
        skeleton=skeleton,
        joint_names=dict(settings.joint_names),
        reach=1.0 if settings.outside == "keep" else 0.0,
    )
    labels = READ[settings.name](source)
    return None if labels is None else index_labels(source, labels)
