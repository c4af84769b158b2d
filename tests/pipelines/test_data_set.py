"""What is reported of a data set's folder."""

from pathlib import Path

from pipelines.data_set import read_status
from tests.pipelines.plan_fixtures import DataSet, products


def test_images_that_are_published_in_another_part_too_are_not_counted_as_unpublished(tmp_path: Path) -> None:
    data_set = DataSet(folder=tmp_path)
    data_set.generate(products(6))
    data_set.generate(products(5))
    assert read_status(data_set.output).unpublished == 1
    plan = data_set.plan(products(5), seed=1)
    data_set.make(plan)
    assert read_status(data_set.output).unpublished == 6
