"""TEMPORARY bridge."""

from typing import Any

from input_pipeline.dataset import open_dataset
from input_pipeline.landmarks import Landmarks, is_complete
from input_pipeline.skeleton import Skeleton

depth_counts = is_complete


def read_extra(data: Any, skeleton: Skeleton) -> Landmarks | None:
    del skeleton
    return open_dataset(data).landmarks("extra") if data.extra_sources else None
