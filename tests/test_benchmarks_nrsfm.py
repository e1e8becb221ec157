"""The table: which runs there are, and what is kept."""

import argparse
import json

from benchmarks import common, nrsfm

SCRIPT = """
import argparse, json, sys
parser = argparse.ArgumentParser()
for flag in ("--worker", "--runs", "--dataset"):
    parser.add_argument(flag)
parser.add_argument("--first-seed", type=int)
args = parser.parse_args()
if args.worker == "broken":
    sys.exit(1)
names = ["teacher", "EM"] if args.worker == "teacher" else [args.worker]
with open(args.runs, "a") as file:
    for name in names:
        record = {"protocol": {"dataset": args.dataset}, "method": name,
                  "seed": args.first_seed, "metrics": {"error": 1.0}, "by": args.worker}
        file.write(json.dumps(record) + "\\n")
"""


def flags(*given):
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    nrsfm.add_flags(parser)
    return parser.parse_args(given)


def test_runs_are_kept_and_not_repeated(tmp_path, capfd):
    script, path = tmp_path / "script.py", tmp_path / "runs.jsonl"
    script.write_text(SCRIPT)
    protocol = {"dataset": "a"}
    old = {"protocol": protocol, "method": "EM", "seed": 0, "metrics": {"error": 9.0}}
    other = old | {"protocol": {"dataset": "b"}, "seed": 1}
    path.write_text(f"{json.dumps(old)}\n{json.dumps(other)}\n")
    wanted = [("EM", 0), ("EM", 1), ("teacher", 1), ("broken", 0)]
    records = common.run_jobs(script, protocol, wanted, path)
    assert [(r["method"], r["seed"]) for r in records] == wanted[:3]
    assert records[0]["metrics"]["error"] == 9.0  # kept
    assert records[1]["by"] == "teacher"  # given on the way
    assert "broken, seed 0: failed" in capfd.readouterr().err
    before = path.read_text()
    common.run_jobs(script, protocol, wanted[:3], path)
    assert path.read_text() == before


def test_a_line_cut_short_is_left_out(tmp_path):
    path = tmp_path / "runs.jsonl"
    common.append_line(path, {"protocol": {}, "method": "EM", "seed": 0})
    with path.open("a") as file:
        file.write('{"protocol": {}, "meth')
    assert list(common.read_lines(path, {})) == [("EM", 0)]


def test_a_worker_reads_the_protocol_it_was_started_with():
    given = flags("--dataset=mh_mocap", "--elevations=-30,-20", "--missing=0.1")
    given.steps = 100
    protocol = nrsfm.protocol(given)
    again = [f"--{k}={v}" for k, v in protocol.items() if v not in (None, False, "")]
    assert nrsfm.protocol(flags(*again)) == protocol
    assert nrsfm.em_options(given) == {"elevations_deg": (-30.0, -20.0)}


def test_seeds_of_every_kind_of_row():
    args = flags("--seeds=3", "--baseline-seeds=2", "--first-seed=7")
    assert nrsfm.seeds_of("teacher", args) == [7, 8, 9]
    assert nrsfm.seeds_of("Deep-NRSfM", args) == [7, 8]
    assert nrsfm.seeds_of("rigid", args) == [7]


def test_table_counts_coherent_seeds():
    runs = [
        {"method": "EM", "metrics": dict.fromkeys(nrsfm.UNITS, flip)}
        for flip in (0.01, 0.04, 0.3)
    ]
    rows = {row.metric: row for row in nrsfm.table_rows(runs, "case")}
    assert rows["coherent"].value == 2
    assert rows["coherent"].n == 3
    assert rows["flip_fraction"].high == 0.3
