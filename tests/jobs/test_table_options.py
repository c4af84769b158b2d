from jobs.table_options import TableOptions


def test_columns_to_fill_are_separated_by_commas_with_or_without_spaces() -> None:
    given = TableOptions(fill_down=["Title, Vendor", "Type,"])
    assert given.values()["fill_down"] == ("Title", "Vendor", "Type")
