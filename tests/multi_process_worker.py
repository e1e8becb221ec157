"""One of several processes that train a tiny student; see test_runtime_processes.py.

python multi_process_worker.py FOLDER ADDRESS,INDEX,COUNT [DIES_AFTER_STEP]
"""

import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from runtime import devices, processes

STEPS, BATCH, LOG, SAVE, EVALUATE = 8, 8, 2, 3, 4


def train_student(folder, *, num_devices=0, dies_after=0):
    """Trains to the end, or until this process kills itself."""
    import tiny_student as tiny

    from pose_jax import train
    from pose_jax.optimizer import make_optimizer
    from runtime.checkpoints import Checkpoints
    from runtime.metric_writer import MetricWriter

    targets, W = tiny.made_up_targets()
    net = tiny.TinyNet(axis_name=devices.AXIS)
    loss = tiny.make_loss("distill")
    step = train.make_train_step(
        net,
        loss,
        rate=train.make_rate(
            "plateau", num_steps=STEPS, learning_rate=1e-3, end_learning_rate=1e-5
        ),
        optimizer=make_optimizer("adam"),
        axis_name=devices.AXIS,
    )
    traces = []

    def counted(*arguments):
        traces.append(1)
        return step(*arguments)

    placed = devices.DataParallel(counted, num_devices=num_devices)
    index, count = jax.process_index(), jax.process_count()
    mine = slice(index * BATCH // count, (index + 1) * BATCH // count)

    def part(batches):
        for batch in batches:
            yield {name: values[mine] for name, values in batch.items()}

    def mortal(batches, now):
        for batch in batches:
            now += 1
            if dies_after and now > dies_after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    with Checkpoints(folder / "checkpoints") as checkpoints:
        restored = checkpoints.restore_latest(tiny.new_state())
        state = restored[1] if restored else tiny.new_state()
        start = int(state.step)
        made = part(tiny.batches(W, batch_size=BATCH, start_step=start))
        with MetricWriter(
            folder, start, tensorboard=False, active=processes.is_first()
        ) as writer:
            state = train.fit(
                state,
                mortal(made, start),
                targets,
                step=placed,
                num_steps=STEPS,
                validate=train.make_validation(
                    placed,
                    net,
                    loss,
                    lambda: part(tiny.val_batches(W[:12], batch_size=BATCH)),
                    targets,
                ),
                log_every=LOG,
                eval_every=EVALUATE,
                checkpoint_every=SAVE,
                checkpoints=checkpoints,
                writer=writer,
            )
    assert len(traces) == 1, "traced after the first step"
    return start, np.float32(tiny.flat(state))


def check_a_step():
    """By hand: two processes of two devices each share a batch of eight."""

    def step(state, batch, shared):
        g = jax.lax.pmean(jnp.mean(batch["x"]) * shared, axis_name=devices.AXIS)
        return state + g, {"g": g}

    placed = devices.DataParallel(step)
    assert (placed.num_devices, placed.num_local) == (4, 2)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)[jax.process_index()]
    two = placed.replicate(np.float32(2))
    state, _ = placed(placed.replicate(np.float32(1)), placed.shard({"x": x}), two)
    assert float(placed.unreplicate(state)) == 8.0
    rows = placed.per_sample(lambda state, batch, shared: batch["x"] * state)
    out = rows(placed.replicate(np.float32(10)), placed.shard({"x": x}), two)
    np.testing.assert_array_equal(out, 10 * x)


def main():
    folder, where, *dies = sys.argv[1:]
    devices.use_cpu_devices(2)
    with processes.joined(where):
        check_a_step()
        index = jax.process_index()
        dies_after = int(dies[0]) if dies else 0
        start, weights = train_student(Path(folder), dies_after=dies_after)
        both = processes.gather(np.float64([index, 1e-300]))
        np.testing.assert_array_equal(both, [[0, 1e-300], [1, 1e-300]])
        np.savez(Path(folder) / f"process_{index}.npz", weights=weights, start=start)


if __name__ == "__main__":
    main()
