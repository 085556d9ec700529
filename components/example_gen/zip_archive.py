"""Files of a .zip."""

from __future__ import annotations

import dataclasses
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator

from components.example_gen.source import Entry, by_name, make_entry, open_descriptor, read_at, too_large

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED_FLAG = 0x1


@dataclasses.dataclass(frozen=True)
class ZipSource:
  """Files of a .zip, read by the offsets in its directory: parsing that for each chunk would cost more."""

  path: str
  is_seekable = True

  def entries(self) -> list[Entry]:
    """See `Source`."""
    try:
      with zipfile.ZipFile(self.path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError, struct.error) as error:
      raise ValueError(f"{self.path}: damaged or incomplete archive: {error}") from None
    if any(member.flag_bits & _ENCRYPTED_FLAG for member in members):
      raise ValueError(f"{self.path}: encrypted archive; unpack it and give the folder")
    return by_name(_entry(member) for member in members)

  def read(self, entries: Iterable[Entry], max_bytes: int) -> Iterator[tuple[Entry, bytes | None, str]]:
    """See `Source`."""
    with open_descriptor(self.path) as descriptor:
      for entry in entries:
        try:
          yield entry, _member_bytes(descriptor, entry.where, max_bytes), ""
        except (ValueError, zlib.error, OSError) as error:
          yield entry, None, f"damaged in the archive: {error}"


def _entry(member: zipfile.ZipInfo) -> Entry | None:
  where = (member.header_offset, member.compress_type, member.compress_size, member.file_size, member.CRC)
  problem = ""
  if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    problem = f"zip compression method {member.compress_type} is not read; pack it again with deflate"
  return make_entry(member.filename.replace("\\", "/"), where, problem)


def _member_bytes(descriptor: int, where: tuple[int, int, int, int, int], max_bytes: int) -> bytes:
  header_offset, method, compressed_bytes, num_bytes, checksum = where
  if max(num_bytes, compressed_bytes) > max_bytes:
    raise ValueError(too_large(max(num_bytes, compressed_bytes), max_bytes))
  header = read_at(descriptor, _LOCAL_HEADER.size, header_offset)
  if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
    raise ValueError("no file where the archive's directory says")
  _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
  data = read_at(descriptor, compressed_bytes, header_offset + len(header) + name_bytes + extra_bytes)
  if method == zipfile.ZIP_DEFLATED:
    # One byte more than promised is enough to tell that the promise is false, whatever it would inflate to.
    data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, num_bytes + 1)
  if len(data) != num_bytes or zlib.crc32(data) != checksum:
    raise ValueError("wrong length or checksum")
  return data
