"""Folders that name the splits of a data set: {train,validation,test}/..., under the names that people give them."""

from __future__ import annotations

from collections.abc import Collection

SPLIT_FOLDERS = {
  "train": "train",
  "validation": "validation",
  "val": "validation",
  "valid": "validation",
  "dev": "validation",
  "eval": "validation",
  "test": "test",
}


def split_of_folder(name: str) -> str | None:
  """train, validation or test; None for a folder of another name."""
  return SPLIT_FOLDERS.get(name.lower())


def has_split_folders(path: str, tops: Collection[str], content: str) -> bool:
  """Whether the folders at the top of a data set are its splits.

  Args:
    path: of the data set, for the error.
    tops: the names of the folders that hold data.
    content: what else could stand there, for the error: "class folders", "files".

  Raises:
    ValueError: some of the folders are splits, and they are not exactly the three splits.
  """
  splits = sorted(split for split in map(split_of_folder, tops) if split)
  # One folder of such a name may be a class or a document; two are meant as splits.
  if len(splits) < 2:
    return False
  remedy = f"or put the {content} themselves there, and the splits are made by hash"
  if len(splits) < len(tops):
    others = ", ".join(sorted(top for top in tops if not split_of_folder(top))[:3])
    raise ValueError(f"{path}: split folders and others ({others}) side by side: move those away, {remedy}")
  missing = [split for split in ("train", "validation", "test") if split not in splits]
  if missing:
    present, missing = ", ".join(sorted(tops)), " and ".join(missing)
    raise ValueError(f"{path}: split folders {present} without {missing}: add a folder {missing}, {remedy}")
  if len(splits) > 3:
    raise ValueError(f"{path}: two folders for one split ({', '.join(sorted(tops))}): make them one")
  return True
