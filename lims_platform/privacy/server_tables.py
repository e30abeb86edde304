"""The tables of a database on a server as files, so that the leak scan reads them like everything else.

Here: copying them out. Not here: looking for anything (``leakscan``). The copy is as private as the database: give it a
folder of mode 0700 and delete it.
"""

from __future__ import annotations

import re
from pathlib import Path

_TABLES = """SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
 WHERE schemaname <> 'information_schema' AND schemaname NOT LIKE 'pg\\_%' ORDER BY 1"""


def copy_tables(address: str, folder: Path) -> list[str]:
    """Write every table of a PostgreSQL database as ``<schema>.<table>.parquet``, in one transaction; their names.

    Args:
        address: ``postgresql://…``; a driver in the scheme (``postgresql+psycopg2``) makes no difference.
        folder: exists; rows pass in batches, so memory does not follow the size of a table.
    """
    import pyarrow.parquet as pq
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(re.sub(r"^(\w+)\+\w+:", r"\1:", address)) as connection, connection.cursor() as cursor:
        cursor.execute(_TABLES)
        names = [str(row[0]) for row in cursor.fetchall()]
        for name in names:
            cursor.execute(f"SELECT * FROM {name}")
            reader = cursor.fetch_record_batch()
            with pq.ParquetWriter(folder / f"{name}.parquet", reader.schema) as writer:
                for batch in reader:
                    writer.write_batch(batch)
    return names
