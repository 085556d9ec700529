"""Protocol buffers' wire format, as far as messages are taken apart here.

Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from typing import Union

Buffer = Union[bytes, memoryview]

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


_BYTES = [bytes((value,)) for value in range(256)]


def tagged(tag: int, payload: Buffer) -> bytes:
  """A length-delimited field with a tag of one byte."""
  return _BYTES[tag] + write_varint(len(payload)) + payload


def write_varint(value: int) -> bytes:
  """A number that is not negative, as a varint."""
  if value <= 0x7F:
    return _BYTES[value]
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  out.append(value)
  return bytes(out)


def read_varint(data: Buffer, position: int) -> tuple[int, int]:
  """The varint at `position`, and the position after it.

  Raises:
    ValueError: the data ends before the varint does.
  """
  value = shift = 0
  while position < len(data) and shift < 70:
    byte = data[position]
    position += 1
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      return value, position
    shift += 7
  raise ValueError("a truncated message")


def skip_field(data: Buffer, position: int) -> int:
  """The position after the field that starts at `position`.

  Raises:
    ValueError: the data ends before the field does, or no field starts there.
  """
  tag, position = read_varint(data, position)
  wire_type = tag & 7
  if wire_type == VARINT:
    return read_varint(data, position)[1]
  if wire_type == LENGTH_DELIMITED:
    length, position = read_varint(data, position)
    position += length
  elif wire_type in (FIXED32, FIXED64):
    position += 4 if wire_type == FIXED32 else 8
  else:
    raise ValueError(f"wire type {wire_type} in a message")
  if position > len(data):
    raise ValueError("a truncated message")
  return position
