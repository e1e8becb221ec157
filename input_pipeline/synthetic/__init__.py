"""Embedded data: people and animals in varied poses, rendered without any download."""

from input_pipeline.synthetic.sample import Sample, render_sample

__all__ = ["Sample", "render_sample"]
