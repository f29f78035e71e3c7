from datetime import datetime

from esper.config.run_id import new_run_id


def test_ids_of_one_moment_differ_and_sort_by_start():
    ids = [new_run_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    moments = [datetime.strptime(run_id.rpartition("_")[0], "%Y-%m-%d_%H-%M-%S") for run_id in ids]
    assert moments == sorted(moments)
