"""Where the faults of training, search and tracking are tested: each row has its tests, or a reason why it cannot hold.

The rows: T, training and search, and K, tracking, whole; of A, artifacts, and P, stages, those that concern training.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOOP, GROUP = "training/test_loop.py", "training/test_distributed.py"
WATCH = "training/watching/test_watchdog.py"
ROWS = {
    "a01 a flipped bit in a checkpoint": ("training/test_checkpoint.py", "a_flipped_bit_anywhere_in_a_manifest"),
    "a02 a checkpoint that is cut short": (LOOP, "a_damaged_checkpoint_costs"),
    "a04 a full disk": (LOOP, "a_disk_that_fills_up"),
    "a04 a full disk, in the file": ("training/test_checkpoint.py", "a_full_disk_is_named"),
    "a07 a pickle that does more": ("training/test_checkpoint.py", "nothing_but_plain_values"),
    "a08 the newest checkpoint is damaged": ("training/test_checkpoint.py", "a_damaged_one_is_passed_over"),
    "p02 SIGTERM, SIGINT": (GROUP, "an_interrupted_stage_goes_on"),
    "p02 of the whole line": ("workflow/test_line.py", "an_interrupted_line_goes_on"),
    "t01 SIGKILL of a worker": (GROUP, "a_killed_worker_costs_time"),
    "t02 of one too many": (GROUP, "a_worker_that_is_lost_too_often"),
    "t03 SIGSTOP of a worker": (GROUP, "a_worker_that_stands_still"),
    "t03 a collective that one leaves out": (
        "training/watching/test_watchdog.py",
        "a_rank_that_leaves_out_a_collective",
    ),
    "t04 SIGKILL of the driver": (GROUP, "an_interrupted_stage_goes_on"),
    "t04 of a raylet": ("cluster/test_two_nodes.py", "a_node_that_dies_costs_time"),
    "t04 of the head": ("cluster/test_two_nodes.py", "without_the_head"),
    "t05 a bug": (GROUP, "a_bug_fails_at_once"),
    "t06 a machine that is taken away": (GROUP, "an_interrupted_stage_goes_on"),
    "t07 nothing to learn from": ("models/test_contract.py", "images_with_nothing_to_learn_from"),
    "t08 a loss that is no number": (LOOP, "a_loss_that_is_no_number_ends"),
    "t08 and is left out": (LOOP, "a_batch_that_gives_no_number_is_left_out"),
    "t08 a spike": (LOOP, "a_loss_out_of_all_proportion"),
    "t09 a loader's worker": ("loading/test_workers.py", "a_worker_that_dies"),
    "t11 out of memory": ("training/search/test_run.py", "memory_that_runs_out_is_not_fatal"),
    "t11 by the kernel": ("training/search/test_run.py", "a_worker_that_is_killed_is_replaced"),
    "t12 all that is resumed": (LOOP, "a_run_that_leaves_within_an_epoch"),
    "t13 other numbers of workers": ("training/test_elastic.py", "one_two_and_four_workers"),
    "t13 that change on the way": ("training/test_elastic.py", "a_group_that_shrinks_and_grows"),
    "t14 each image is counted once": ("evaluation/test_evaluator.py", "batches_and_shares_change_nothing"),
    "t15 SIGKILL of the search": ("stages/test_search_resumed.py", "a_search_that_was_killed"),
    "t16 a foreign cluster": ("cluster/test_cluster.py", "a_cluster_that_is_not_there"),
    "k01 a fresh database, four at once": ("tracking/test_tracking.py", "four_processes_may_come_first"),
    "k02 the server gone for a minute": ("faults/test_fault_tracking.py", "a_server_that_is_gone_for_a_while"),
    "k02 for ever": ("faults/test_fault_tracking.py", "a_server_that_never_comes_back"),
    "k03 a database that is held": ("training/watching/test_monitor.py", "a_database_that_is_held"),
    "k04 a driver that was killed": ("training/watching/test_monitor.py", "a_killed_driver_s_run_goes_on"),
}
# What is not shown, and why.
LIMITS = {
    "a03": "a writer is killed at a few points, not at 300: what it leaves is one rename away from nothing",
    "a09": "Ray's snapshot of a run is not used: each attempt has a new one",
    "a10": "a state folder is known by its fingerprint: no other model's checkpoint is in it",
    "t10": "shared memory has no name here, and /dev/shm is not asked for",
    "k05": "the server's port is looked at by `make ui`, which no test starts",
}


@pytest.mark.parametrize("row", ROWS)
def test_the_test_of_a_row_is_there(row):
    path, name = ROWS[row]
    assert re.search(rf"def test_\w*{name}", (ROOT / "tests" / path).read_text())


def test_no_row_is_forgotten():
    wanted = {f"t{k:02}" for k in range(1, 17)} | {f"k{k:02}" for k in range(1, 6)}
    wanted |= {"a01", "a02", "a03", "a04", "a07", "a08", "a09", "a10", "p02"}
    assert {row.split()[0] for row in ROWS} | LIMITS.keys() == wanted
    assert not {row.split()[0] for row in ROWS} & LIMITS.keys()
