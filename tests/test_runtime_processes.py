"""Two processes with two devices each: the numbers of one, and none left behind."""

import contextlib
import sys

import launch
import multi_process_worker as worker
import numpy as np
import pytest

from runtime import processes
from runtime.metric_writer import read_metrics

WORKER = [sys.executable, str(launch.ROOT / "tests" / "multi_process_worker.py")]


@contextlib.contextmanager
def commands(folder, *, dies=None):
    """Those of both processes; ``dies`` is (index, step) of one that kills itself."""
    with launch.reserved_address() as address:
        both = [[*WORKER, str(folder), f"{address},{i},2"] for i in range(2)]
        if dies:
            both[dies[0]].append(str(dies[1]))
        yield both


def run(folder, **options):
    """To a good end; what each process has at the end."""
    with commands(folder, **options) as both:
        launch.finish(both)
    return [dict(np.load(folder / f"process_{i}.npz")) for i in range(2)]


def lines(folder):
    made = read_metrics(folder / "metrics.jsonl")
    return [{n: v for n, v in line.items() if n != "time"} for line in made]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """An uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("two")
    return folder, run(folder)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(two, tmp_path):
    folder, (first, second) = two
    np.testing.assert_array_equal(first["weights"], second["weights"])
    _, alone = worker.train_student(tmp_path, num_devices=4)
    # Adam's first steps are signs of gradients: compare against their size, 1e-3.
    assert np.abs(first["weights"] - alone).mean() < 2e-5
    assert [line["step"] for line in lines(folder)] == [2, 3, 4, 6, 8]
    for ours, theirs in zip(lines(folder), lines(tmp_path), strict=True):
        np.testing.assert_allclose(
            list(ours.values())[2:], list(theirs.values())[2:], rtol=2e-3
        )


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_the_other_stops_and_a_restart_ends_the_same(
    two, tmp_path, victim
):
    with (
        commands(tmp_path, dies=(victim, 5)) as both,
        launch.started(both) as found,
    ):
        found[victim].communicate(timeout=launch.SECONDS)
        output, _ = found[1 - victim].communicate(timeout=launch.SECONDS)
        assert found[1 - victim].returncode == 1
    assert f"error: process {2 - victim} of 2 stops: another one has died" in output
    assert "the run goes on from its last checkpoint" in output
    if victim == 0:
        return
    again = run(tmp_path)
    assert [int(process["start"]) for process in again] == [3, 3]
    # As the uninterrupted run, to the last bit.
    for process, whole in zip(again, two[1], strict=True):
        np.testing.assert_array_equal(process["weights"], whole["weights"])
    assert lines(tmp_path) == lines(two[0])


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("node0:1234", "expected host:port of the first process"),
        ("node0,0,2", "expected host:port of the first process"),
        ("node0:1234,one,2", "expected host:port of the first process"),
        ("node0:1234,2,2", "process 2 of 2; they count from 0"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(where, message):
    with pytest.raises(ValueError, match=message):
        processes.join(where)


def test_variables_of_the_environment_must_be_complete(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    assert not processes.join()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES='two'"):
        processes.join()


def test_a_process_of_its_own_needs_no_one():
    with processes.joined():
        assert processes.is_first()
        processes.barrier("nobody waits")
        np.testing.assert_array_equal(processes.gather(np.arange(3)), [[0, 1, 2]])
        done = []
        processes.on_first(lambda: done.append(1), "work")
        assert done == [1]
