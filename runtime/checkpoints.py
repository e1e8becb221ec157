"""Checkpoints by Orbax: atomic, restored bit by bit, refused if they do not fit.

A checkpoint holds the arrays of a pytree and a JSON record. Orbax writes into a
temporary folder and renames it, so a process killed while it writes leaves the
checkpoint before it as the latest.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

PyTree = Any


class Checkpoints:
    """The checkpoints of one training run in one folder.

    Args:
        directory: where they are kept; made when the first one is saved.
        max_to_keep: older ones are deleted.
        wait: whether ``save`` returns only when the checkpoint is complete on
            disk. By default it returns as soon as the arrays are copied.
    """

    def __init__(
        self, directory: str | Path, *, max_to_keep: int = 2, wait: bool = False
    ) -> None:
        self.directory = Path(os.path.abspath(directory))
        self._wait = wait
        with _quiet():
            self._manager = ocp.CheckpointManager(
                self.directory,
                item_handlers={
                    "state": ocp.PyTreeCheckpointHandler(),
                    "extra": ocp.JsonCheckpointHandler(),
                },
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=max_to_keep, create=True
                ),
            )

    def save(
        self, step: int, state: PyTree, extra: dict[str, Any] | None = None
    ) -> None:
        """Saves ``state`` (any pytree of arrays and PRNG keys) and a JSON record.

        Both are copied before this returns, so the caller may donate or change them.
        A step that is already saved is left as it is.
        """
        if step in self._manager.all_steps():
            return
        arrays = _to_numpy(state)
        # Orbax writes the record in a thread of its own, later.
        record = {"structure": _structure(state), "extra": copy.deepcopy(extra or {})}
        with _quiet():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    # Orbax refuses arrays without elements; the structure has them.
                    state=ocp.args.PyTreeSave(
                        {k: v for k, v in arrays.items() if v.size}  # type: ignore
                    ),
                    extra=ocp.args.JsonSave(record),  # type: ignore
                ),
                force=True,
            )
            if self._wait:
                self._manager.wait_until_finished()

    def latest_step(self) -> int | None:
        """The last step whose checkpoint is complete, or None."""
        return self._manager.latest_step()

    def extra(self, step: int | None = None) -> dict[str, Any] | None:
        """The JSON record of a step (the latest by default), or None."""
        step = self.latest_step() if step is None else step
        return None if step is None else self._record(step)["extra"]

    def restore_latest(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Restores the latest complete checkpoint.

        Args:
            like: a pytree of the same structure, shapes and dtypes; leaves that
                are numpy arrays come back as numpy, others as JAX arrays.

        Returns:
            (step, state), or None where the folder has no checkpoint.

        Raises:
            ValueError: the checkpoint is of another structure.
        """
        step = self.latest_step()
        if step is None:
            return None
        saved, wanted = self._record(step)["structure"], _structure(like)
        if saved != wanted:
            raise ValueError(self._difference(step, saved, wanted))
        template = {k: v for k, v in wanted.items() if 0 not in v["shape"]}
        restore = ocp.RestoreArgs(restore_type=np.ndarray)
        with _quiet():
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(
                        restore_args=dict.fromkeys(template, restore)  # type: ignore
                    )
                ),
            )
        return step, _from_numpy(restored["state"], like)

    def wait(self) -> None:
        """Waits until the last save is complete on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and frees Orbax's threads."""
        with _quiet():
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, step: int) -> dict[str, Any]:
        with _quiet():
            restored = self._manager.restore(
                step, args=ocp.args.Composite(extra=ocp.args.JsonRestore())
            )
        return restored["extra"]

    def _difference(self, step: int, saved: dict, wanted: dict) -> str:
        names = [n for n in {**saved, **wanted} if saved.get(n) != wanted.get(n)]
        shown = "; ".join(
            f"{n}: saved {_describe(saved.get(n))}, expected {_describe(wanted.get(n))}"
            for n in names[:3]
        )
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return (
            f"{self.directory}: the checkpoint of step {step} is of another network or "
            f"configuration ({shown}{more}); use another workdir or delete this folder"
        )


def _describe(entry: dict[str, Any] | None) -> str:
    shape = ",".join(map(str, entry["shape"])) if entry else ""
    return f"{entry['dtype']}[{shape}]" if entry else "nothing"


def _named(tree: PyTree) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator=".") or "value", leaf


def _is_key(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return False
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _structure(tree: PyTree) -> dict[str, dict[str, Any]]:
    """Name -> shape and dtype of every leaf; for keys with the generator's name."""
    leaves = [(n, x if hasattr(x, "dtype") else np.asarray(x)) for n, x in _named(tree)]
    # str of a key's dtype names its generator, e.g. key<fry>.
    return {n: {"shape": list(x.shape), "dtype": str(x.dtype)} for n, x in leaves}


def _to_numpy(tree: PyTree) -> dict[str, np.ndarray]:
    # np.array copies: on a CPU the view that asarray gives would change, or keep
    # the buffer from being donated, while the checkpoint is written.
    return {
        name: np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for name, leaf in _named(tree)
    }


def _from_numpy(arrays: dict[str, np.ndarray], like: PyTree) -> PyTree:
    leaves = [_leaf_like(arrays.get(n), leaf) for n, leaf in _named(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _leaf_like(value: np.ndarray | None, like: Any) -> Any:
    if value is None:
        value = np.zeros(np.shape(like), getattr(like, "dtype", None))
    if _is_key(like):
        return jax.random.wrap_key_data(
            jnp.asarray(value), impl=jax.random.key_impl(like)
        )
    if isinstance(like, jax.Array):
        return jax.device_put(value)
    if isinstance(like, (bool, int, float)):
        return type(like)(value)
    return value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax's progress messages, meant for its authors, off the terminal."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
