"""How the columns of a Parquet file are best encoded."""

import pyarrow as pa
import pyarrow.parquet as pq

_NUMBERS = ("FLOAT", "DOUBLE")


def leaf_columns(schema: pa.Schema) -> list[str]:
    """Return the paths of the leaf columns that a table is stored in, such as ``image.path``."""
    return [column.path for column in _leaves(schema)]


def repeating_columns(schema: pa.Schema) -> list[str]:
    """Return the leaf columns that a dictionary and statistics are good for.

    Not the numbers of vectors: they hardly repeat, and looking for it takes longer than writing them.
    """
    return [
        column.path
        for column in _leaves(schema)
        if not (column.physical_type in _NUMBERS and column.max_repetition_level)
    ]


def _leaves(schema: pa.Schema) -> list[pq.ColumnSchema]:
    sink = pa.BufferOutputStream()
    pq.write_metadata(schema, sink)
    leaves = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [leaves.column(index) for index in range(len(leaves))]
