"""The student's loop: devices, resuming, the rate's drop, errors, a real run."""

import functools
import itertools
import os
import signal

import jax
import numpy as np
import pytest
import tiny_student as tiny
from jax._src import array

from pose_jax import train
from pose_jax.model import PoseNet
from pose_jax.optimizer import make_optimizer
from pose_jax.state import Plateau, init_state
from runtime import stopping
from runtime.checkpoints import Checkpoints
from runtime.devices import AXIS, DataParallel
from runtime.metric_writer import MetricWriter, read_metrics

BATCH = 8


@functools.cache  # compiled once for all tests
def make_step(num_devices=1, schedule="plateau", net=None):
    net = net or tiny.TinyNet(axis_name=AXIS)
    loss = tiny.make_loss("distill")
    step = train.make_train_step(
        net,
        loss,
        rate=train.make_rate(
            schedule, num_steps=4, learning_rate=1e-3, end_learning_rate=1e-5
        ),
        optimizer=make_optimizer("adam"),
        axis_name=AXIS,
    )
    traces = []

    def counted(*arguments):
        traces.append(1)
        return step(*arguments)

    placed = DataParallel(counted, num_devices=num_devices)
    return placed, net, loss, traces


@pytest.fixture(scope="module")
def table():
    return tiny.made_up_targets()


def run(table, *, num_steps=3, num_devices=1, **kwargs):
    targets, W = table
    placed, *_ = make_step(num_devices)
    kwargs.setdefault("state", tiny.new_state())
    kwargs.setdefault("batches", tiny.batches(W, batch_size=BATCH))
    return train.fit(
        targets=targets, step=placed, num_steps=num_steps, log_every=2, **kwargs
    )


# --- devices -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_one_device(table):
    return run(table)


@pytest.mark.parametrize("num_devices", [2, 4])
def test_any_number_of_devices_gives_the_same_weights(
    table, on_one_device, num_devices
):
    state = run(table, num_devices=num_devices)
    # Adam's first steps are signs of gradients: compare against their size, 1e-3.
    ours, theirs = tiny.flat(state.variables), tiny.flat(on_one_device.variables)
    assert np.abs(ours - theirs).mean() < 2e-5
    assert len(make_step(num_devices)[-1]) == 1, "traced after the first step"
    assert int(state.step) == 3


def test_one_step_has_the_same_loss_and_gradient_on_all_devices(table):
    targets, W = table
    batch = next(tiny.batches(W, batch_size=BATCH))
    batch = {name: batch[name] for name in train.DEVICE_KEYS}
    found = []
    for count in (1, 2, 4):
        placed, *_ = make_step(count)
        state = placed.replicate(tiny.new_state())
        _, metrics = placed(state, placed.shard(batch), placed.replicate(targets))
        found.append([float(v) for v in placed.unreplicate(metrics).values()])
    np.testing.assert_allclose(found, [found[0]] * len(found), rtol=2e-4)


@pytest.mark.parametrize("same_parts", [True, False])
def test_batch_norms_of_every_device_by_itself(table, same_parts):
    """Local statistics are those of the whole batch only where all parts are alike."""
    targets, W = table
    batch = next(tiny.batches(W, batch_size=BATCH))
    batch = {name: batch[name] for name in train.DEVICE_KEYS}
    if same_parts:
        batch = {n: np.concatenate([v[: BATCH // 2]] * 2) for n, v in batch.items()}
    found = []
    for net in (None, tiny.TinyNet()):
        placed, *_ = make_step(2, net=net)
        state = placed.replicate(tiny.new_state())
        state, metrics = placed(state, placed.shard(batch), placed.replicate(targets))
        running = state.batch_stats["bn1"]["var"].addressable_shards
        running = [np.asarray(shard.data) for shard in running]
        np.testing.assert_array_equal(*running)  # averaged over the devices
        found.append(float(metrics["gradient_norm"][0]))
    assert np.allclose(*found, rtol=1e-4) == same_parts, found


def test_the_loop_reads_from_the_device_at_log_lines_only(table, monkeypatch):
    targets, W = table
    placed, *_ = make_step()
    steps, reads = [], set()
    value = array.ArrayImpl._value  # what float(), np.asarray and device_get read

    def noted(self):
        reads.add(len(steps))
        return value.fget(self)

    def counted(batches):
        for batch in batches:
            steps.append(1)
            yield batch

    state = jax.tree.map(jax.numpy.asarray, tiny.new_state())
    monkeypatch.setattr(array.ArrayImpl, "_value", property(noted))
    train.fit(
        state,
        counted(tiny.batches(W, batch_size=BATCH)),
        targets,
        step=placed,
        num_steps=9,
        log_every=4,
    )
    assert reads == {0, 4, 8, 9}  # the step to start from; lines at 4, 8 and the end


# --- learning rate -----------------------------------------------------------------


def test_the_rate_drops_when_the_validation_loss_saturates():
    plateau = Plateau(np.float32(1e-3), np.float32(np.inf), np.int32(0))
    rates = []
    for loss in [3.0, 2.0, 2.0, 1.9995, 1.0, 1.1, 1.2, 1.3, 0.5]:
        plateau = train.plateau_update(
            plateau, loss, patience=2, end_learning_rate=1e-5
        )
        rates.append(float(plateau.learning_rate))
    # 2.0 and 1.9995 do not improve on 2.0: dropped, once and for all.
    np.testing.assert_allclose(rates, [1e-3] * 3 + [1e-5] * 6)
    assert float(plateau.best_loss) == 0.5


def test_the_cosine_falls_from_the_first_to_the_last_rate(table):
    targets, W = table
    placed, *_ = make_step(schedule="cosine")
    state, shared = placed.replicate((tiny.new_state(), targets))
    rates = []
    for batch in itertools.islice(tiny.batches(W, batch_size=BATCH), 4):
        arrays = {name: batch[name] for name in train.DEVICE_KEYS}
        state, metrics = placed(state, placed.shard(arrays), shared)
        rates.append(float(metrics["learning_rate"][0]))
    fall = 0.5 * (1 + np.cos(np.pi * np.arange(4) / 4))
    np.testing.assert_allclose(rates, 1e-5 + (1e-3 - 1e-5) * fall, rtol=1e-5)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match=r"schedule = 'step'.*plateau.*cosine"):
        make_step(schedule="step")


# --- the loop ----------------------------------------------------------------------


def test_the_losses_fall_and_the_validation_agrees(table):
    targets, W = table
    placed, net, loss, _ = make_step()
    scores = []
    validate = train.make_validation(
        placed,
        net,
        loss,
        lambda: tiny.val_batches(W[:12], batch_size=BATCH),
        targets,
    )

    def noted(state):
        scores.append(validate(state))
        return scores[-1]

    noted(placed.replicate(tiny.new_state()))
    train.fit(
        tiny.new_state(),
        tiny.batches(W[:12], batch_size=BATCH, flips=False),
        targets,
        step=placed,
        num_steps=120,
        validate=noted,
        eval_every=60,
        log_every=30,
    )
    assert [set(s) for s in scores] == [{"loss", "xy", "depth", "error_bar"}] * 3
    assert scores[-1]["xy"] < 0.7 * scores[0]["xy"]
    assert scores[-1]["depth"] < scores[0]["depth"]
    for s in scores:
        np.testing.assert_allclose(s["loss"], s["xy"] + s["depth"], rtol=1e-5)


def test_validation_leaves_out_what_fills_the_last_batch(table):
    targets, W = table
    placed, net, loss, _ = make_step()
    means = []
    for batch_size in (8, 12):
        validate = train.make_validation(
            placed,
            net,
            loss,
            lambda b=batch_size: tiny.val_batches(W[:12], batch_size=b),
            targets,
        )
        means.append(validate(placed.replicate(tiny.new_state()))["depth"])
    # The pictures' noise differs with the batches, the untrained depth hardly does.
    np.testing.assert_allclose(means[0], means[1], rtol=2e-3)


def test_a_resumed_run_repeats_itself_to_the_last_bit(table, tmp_path):
    _, W = table

    def until(batches, stop, number):
        for i, batch in enumerate(itertools.islice(batches, stop), start=2):
            if i == stop and number:
                os.kill(os.getpid(), number)
            yield batch

    def once(folder, stop, number=None):
        with Checkpoints(folder / "checkpoints") as checkpoints:
            restored = checkpoints.restore_latest(tiny.new_state())
            state = restored[1] if restored else tiny.new_state()
            start = int(state.step)
            made = tiny.batches(W, batch_size=BATCH, start_step=start)
            with MetricWriter(folder, start, tensorboard=False) as writer:
                return run(
                    table,
                    num_steps=8,
                    state=state,
                    batches=until(made, stop, number),
                    checkpoints=checkpoints,
                    checkpoint_every=3,
                    writer=writer,
                )

    whole = once(tmp_path / "whole", None)
    with pytest.raises(ValueError, match="ended before step 6"):
        once(tmp_path / "cut", 5)  # the last checkpoint is that of step 3
    # A signal saves the step that just ended, in the middle of a line of metrics.
    with stopping.on_signals(), pytest.raises(stopping.Stopped) as stopped:
        once(tmp_path / "cut", 3, signal.SIGTERM)
    assert stopped.value.code == 143
    assert stopped.value.text.startswith("stopped: student step 5 of 8; ")
    resumed = once(tmp_path / "cut", None)
    np.testing.assert_array_equal(tiny.flat(whole), tiny.flat(resumed))

    def lines(folder):
        made = read_metrics(tmp_path / folder / "metrics.jsonl")
        return [{n: v for n, v in line.items() if n != "time"} for line in made]

    assert lines("cut") == lines("whole")
    assert [line["step"] for line in lines("cut")] == [2, 3, 4, 6, 8]


def test_the_pyramid_resumes_and_is_shared_by_devices(table, tmp_path):
    """With two depths, yaw and Muon, as the quickstart trains it."""
    (targets,), W = table
    fields = {"network": "pyramid", "width": 0.0625, "yaw_classes": 4, "num_depths": 2}
    net = PoseNet(tiny.P, axis_name=AXIS, **fields)
    loss = functools.partial(
        tiny.make_loss("distill").func,
        **tiny.make_loss("distill").keywords
        | {"depth_weights": {"distill": 0.5, "weaksup_bs": 0.5}, "heat_weight": 0.1},
    )
    how = {"rate": lambda state: 1e-3, "optimizer": make_optimizer("muon")}
    step = train.make_train_step(net, loss, **how, axis_name=AXIS)
    key = jax.random.key(0)
    sizes = {"image_size": tiny.SIZE, "learning_rate": 1e-3, "optimizer": "muon"}
    first = jax.tree.map(np.asarray, init_state(net, key, **sizes))

    def trained(stop, placed, folder):
        with Checkpoints(folder) as checkpoints:
            _, state = checkpoints.restore_latest(first) or (0, first)
            made = tiny.batches(W, batch_size=BATCH, start_step=int(state.step))
            return train.fit(
                jax.tree.map(np.copy, state),
                made,
                (targets, targets),
                step=placed,
                num_steps=stop,
                checkpoints=checkpoints,
            )

    two = DataParallel(step, num_devices=2)
    whole = trained(4, two, tmp_path / "whole")
    trained(2, two, tmp_path / "cut")
    resumed = trained(4, two, tmp_path / "cut")
    np.testing.assert_array_equal(tiny.flat(whole), tiny.flat(resumed))
    one = trained(1, DataParallel(step, num_devices=1), tmp_path / "one")
    shared = trained(1, two, tmp_path / "shared")
    ours, theirs = tiny.flat(shared.batch_stats), tiny.flat(one.batch_stats)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    # Of Muon's first step the size is given, not that of the gradient.
    ours, theirs = tiny.flat(shared.params), tiny.flat(one.params)
    assert np.abs(ours - theirs).mean() < 2e-5
    assert np.abs(tiny.flat(one.params) - tiny.flat(first.params)).mean() > 1e-4


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(
    table, tmp_path
):
    _, W = table

    def poisoned():
        for i, batch in enumerate(tiny.batches(W, batch_size=BATCH), start=1):
            if i == 6:
                batch["keypoints"] = batch["keypoints"] * np.float32(np.nan)
            yield batch

    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(
            ValueError, match=r"step 6: .*loss nan.*step 4 in .* is kept"
        ):
            run(
                table,
                num_steps=20,
                batches=poisoned(),
                checkpoints=checkpoints,
                checkpoint_every=4,
            )
        assert checkpoints.latest_step() == 4
        _, state = checkpoints.restore_latest(tiny.new_state())
        assert np.isfinite(tiny.flat(state.variables)).all()
