"""What the benchmarks share."""

from benchmarks import common


def test_all_methods_are_measured_in_every_round():
    calls = []
    timed = common.in_turns(
        {name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3
    )
    assert timed["a"].shape == timed["b"].shape == (2, 3)
    assert sorted(calls) == list("aaabbb")
