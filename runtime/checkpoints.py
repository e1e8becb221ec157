"""Checkpoints by Orbax: atomic, restored bit by bit, refused if they do not fit.

A checkpoint holds the arrays of a pytree and a JSON record. Orbax writes into a
temporary folder and renames it, so a process killed while it writes leaves the
checkpoint before it as the latest. ``digests.json`` follows, with a digest of every
file: a checkpoint that is not as it was written is passed over, with a line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from runtime.files import Damaged, digest_of_file, read_json, write_json

DIGESTS = "digests.json"
PyTree = Any


class Checkpoints:
    """The checkpoints of one training run in one folder.

    Args:
        directory: where they are kept; made when the first one is saved.
        max_to_keep: older ones are deleted.
    """

    def __init__(self, directory: str | Path, *, max_to_keep: int = 2) -> None:
        self.directory = Path(os.path.abspath(directory))
        self._sound: set[int] = set()  # read whole, or saved by this process
        self._damaged: set[int] = set()
        with _quiet():
            self._manager = ocp.CheckpointManager(
                self.directory,
                item_handlers={
                    "state": ocp.PyTreeCheckpointHandler(),
                    "extra": ocp.JsonCheckpointHandler(),
                },
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=max_to_keep,
                    create=True,
                    # Its threads print what a full disk does to them, and some wait
                    # for minutes; a step is saved in less than it takes to train it.
                    enable_async_checkpointing=False,
                ),
            )

    def save(
        self, step: int, state: PyTree, extra: dict[str, Any] | None = None
    ) -> None:
        """Saves ``state`` (any pytree of arrays and PRNG keys) and a JSON record.

        Whole on disk when this returns. A step that is already saved is left as it is.

        Raises:
            ValueError: it cannot be written.
        """
        try:
            with _quiet():
                self._save(step, state, extra or {})
        except Exception as error:  # of Orbax any kind, and many lines
            raise ValueError(
                f"{self.directory}: the checkpoint of step {step} cannot be written "
                f"({_gist(error)}); see that there is room and that the folder may be "
                "written to, then the same command goes on from the one before"
            ) from error
        self._sound.add(step)

    def _save(self, step: int, state: PyTree, extra: dict[str, Any]) -> None:
        for damaged in self._damaged & set(self._manager.all_steps()):
            self._manager.delete(damaged)
        self._damaged.clear()
        if step in self._manager.all_steps():
            return
        arrays = _to_numpy(state)
        record = {"structure": _structure(state), "extra": extra}
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
        if jax.process_index() == 0:
            folder = self.directory / str(step)
            write_json(folder / DIGESTS, _digests(folder), sealed=True)

    def latest_step(self) -> int | None:
        """The last step whose checkpoint is whole, or None.

        Those that are not are named on standard error.
        """
        passed_over = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            if step not in self._sound and step not in self._damaged:
                try:
                    _compare(self.directory / str(step))
                    self._sound.add(step)
                except ValueError as error:
                    self._damaged.add(step)
                    passed_over[step] = str(error)
            if step in self._sound:
                break
        else:
            step = None
        for text in passed_over.values():
            instead = "there is none before it" if step is None else f"step {step}"
            print(f"{text}; taken instead: {instead}", file=sys.stderr, flush=True)
        return step

    def extra(self, step: int | None = None) -> dict[str, Any] | None:
        """The JSON record of a step (the latest by default), or None."""
        step = self.latest_step() if step is None else step
        return None if step is None else self._read(step)[0]["extra"]

    def restore_latest(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Restores the latest whole checkpoint.

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
        record, arrays = self._read(step)
        if (wanted := _structure(like)) != record["structure"]:
            raise ValueError(self._difference(step, record["structure"], wanted))
        return step, _from_numpy(arrays, like)

    def close(self) -> None:
        """Frees Orbax's threads."""
        with _quiet():
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, step: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The record and the arrays of a step that is whole."""
        record = self._restored(step, extra=ocp.args.JsonRestore())
        shapes = {n: x["shape"] for n, x in record["structure"].items()}
        names = [name for name, shape in shapes.items() if 0 not in shape]
        restore = ocp.RestoreArgs(restore_type=np.ndarray)
        args: Any = dict.fromkeys(names, restore)
        arrays = self._restored(step, state=ocp.args.PyTreeRestore(restore_args=args))
        return record, arrays

    def _restored(self, step: int, **item: Any) -> Any:
        with _quiet():
            restored = self._manager.restore(step, args=ocp.args.Composite(**item))
        (name,) = item
        return restored[name]

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


def _digests(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != DIGESTS]
    return {str(p.relative_to(folder)): digest_of_file(p) for p in files}


def _compare(folder: Path) -> None:
    """Raises a ValueError where a checkpoint is not as it was written."""
    saved = read_json(folder / DIGESTS, remedy="it is not whole")
    found = _digests(folder)
    for name in {**saved, **found}:
        if saved.get(name) != found.get(name):
            raise Damaged(f"{folder / name} is not as it was written")


def _gist(error: BaseException) -> str:
    """The first line of a message; Orbax and TensorStore append their stacks."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}".removeprefix("ValueError: ")


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
    return {
        name: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
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
    """Keeps Orbax's messages, meant for its authors, off the terminal."""
    logger = logging.getLogger("absl")
    level, hook = logger.level, sys.unraisablehook
    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda seen: _is_late(seen.exc_value) or hook(seen)
    try:
        yield
        # Not after an error: other writes end later, when their event loop is closed.
        sys.unraisablehook = hook
    finally:
        logger.setLevel(level)


def _is_late(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)
