"""Several sources of pictures in one training set, with one skeleton.

The rows of the training set are those of the main source, then those of each source of
``config.data.also`` in turn. Validation, the teacher's training and all evaluation
know the main source only. Of the others the teacher judges the complete skeletons, so
that these get the distillation loss; incomplete ones get the 2D loss alone
(Wang et al. 2019, Section 5.1).
"""

from __future__ import annotations

import dataclasses
import json

from input_pipeline.settings import DataSettings
from input_pipeline.skeleton import Skeleton


def also_sources(
    settings: DataSettings, skeleton: Skeleton
) -> list[tuple[str, DataSettings]]:
    """The further sources: all of their pictures train, in the main joints."""
    return [
        (
            name,
            dataclasses.replace(
                source,
                num_val=0,
                annotations_val="",
                skeleton=_skeleton_of(source, skeleton),
            ),
        )
        for name, source in settings.also
    ]


def _skeleton_of(source: DataSettings, skeleton: Skeleton) -> str:
    return json.dumps(skeleton.to_dict()) if source.labelled else ""
