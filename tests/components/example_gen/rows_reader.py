"""A reader of rows that lie in memory, at module level so that Beam can pickle it."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class RowsReader:
  """Yields Rows and Rejects as they were given, `rows_per_chunk` a chunk."""

  rows: tuple[Any, ...]
  rows_per_chunk: int = 10

  def chunks(self):
    for start in range(0, len(self.rows), self.rows_per_chunk):
      yield self.rows[start : start + self.rows_per_chunk]

  def read(self, chunk):
    yield from chunk
