"""Published errors beside the records': errors of the tuned step, and nothing that was not run."""

from benchmarks.delay.published_errors import published_table
from common.results.records import Record


def record(method, rate, seed, accuracy):
    return Record(
        method=method,
        setting={"workers": 4, "learning_rate": rate},
        seed=seed,
        metrics={"validation_accuracy": accuracy + 0.01, "test_accuracy": accuracy},
        wall_time=1.0,
    )


RECORDS = [
    record("ASGD", rate, seed, accuracy)
    for rate, pair in ((0.1, (0.5, 0.6)), (0.2, (0.25, 0.35)))
    for seed, accuracy in enumerate(pair)
]


def test_errors_of_the_tuned_step_beside_the_published_ones():
    published = {("ASGD", 4): 9.27, ("ASGD", 8): 10.26, ("SGD", 1): 8.65}
    table = published_table(RECORDS, published, source="a paper")
    *_, row = table.splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["ASGD", "4", "9.27", "45.00 ± 7.07"]
    assert "a paper" in table
    assert "10.26" not in table


def test_nothing_where_nothing_published_was_run():
    assert published_table(RECORDS, {("SGD", 1): 8.65}, source="a paper") == ""
