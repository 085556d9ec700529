"""Writes fashion_scenes.zip: clothes on patterned grounds, with the exact class of each pixel and exact boxes.

Usage: python tests/data/make_fashion_scenes.py [--output ZIP] [--scenes N] [--seed N] [--width PX] [--height PX]

A scene holds 1 to 5 garments of fashion_mnist.zip's training split: enlarged 1 to 2.5 times, tinted, some of them
mirrored, partly over each other or beyond the picture's border. At least 40 % of each garment can be seen. No garment
is in two scenes before all of its class have been in one.

The same arguments and versions of numpy, scipy, Pillow, libjpeg and zlib give the same bytes: no sine, power or normal
distribution, whose last bits differ between processors, takes part in a pixel.
"""

from __future__ import annotations

import argparse
import colorsys
import functools
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

FOLDER = os.path.dirname(os.path.abspath(__file__))
# Each class of the scenes, in the order of its ids from 1, and the folders of fashion_mnist.zip that it is made of.
CLASSES = {
  "t-shirt": ("t-shirt",),
  "trouser": ("trouser",),
  "dress": ("dress",),
  "shoe": ("sneaker", "ankle-boot"),
  "bag": ("bag",),
}
MAX_GARMENTS = 5
MIN_SCALE, MAX_SCALE = 1.0, 2.5
MIN_VISIBLE = 0.4
MAX_FRINGE = 20
MAX_BEYOND_BORDER = 0.3
MAX_PLACES = 20
MIN_SIDE_PX, MAX_SIDE_PX = 64, 4096
JPEG_QUALITY = 92

Garment = tuple[np.ndarray, np.ndarray]


@functools.cache
def read_garments() -> list[list[np.ndarray]]:
  """uint8 [28, 28] pictures of each class, in the order of CLASSES and then of their names."""
  with zipfile.ZipFile(os.path.join(FOLDER, "fashion_mnist.zip")) as archive:
    names = sorted(archive.namelist())
    garments = []
    for sources in CLASSES.values():
      prefixes = tuple(f"train/{source}/" for source in sources)
      chosen = [name for name in names if name.startswith(prefixes)]
      garments.append([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in chosen])
  return garments


def deal(pictures: list[np.ndarray], rng: np.random.Generator) -> Iterator[np.ndarray]:
  """Endlessly the pictures in random order, each once before any comes again."""
  while True:
    for index in rng.permutation(len(pictures)):
      yield pictures[index]


def colour(
  rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
  """float64 [3]: red, green and blue in [0, 1]; a random hue, the others within their bounds."""
  return np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value)))


def value_noise(height_px: int, width_px: int, cell_px: float, rng: np.random.Generator) -> np.ndarray:
  """float64 [height, width] in [0, 1]: random values on a grid, smoothly filled in between."""
  cells = rng.uniform(size=(math.ceil(height_px / cell_px) + 1, math.ceil(width_px / cell_px) + 1))
  smooth = Image.fromarray(cells.astype(np.float32)).resize((width_px, height_px), Image.Resampling.BICUBIC)
  return np.clip(np.asarray(smooth, np.float64), 0, 1)


def clouds(height_px: int, width_px: int, rng: np.random.Generator) -> np.ndarray:
  """float64 [height, width] in [0, 1]: value noise of two sizes."""
  coarse = value_noise(height_px, width_px, rng.uniform(20, 50), rng)
  return 0.7 * coarse + 0.3 * value_noise(height_px, width_px, rng.uniform(5, 10), rng)


def ramp(height_px: int, width_px: int, rng: np.random.Generator) -> np.ndarray:
  """float64 [height, width]: pixels along a random direction."""
  angle = rng.uniform(0, 2 * math.pi)
  rows, columns = np.mgrid[:height_px, :width_px].astype(np.float64)
  return rows * math.sin(angle) + columns * math.cos(angle)


def gradient(height_px: int, width_px: int, rng: np.random.Generator) -> np.ndarray:
  """float64 [height, width] in [0, 1], from one side to the other."""
  distances = ramp(height_px, width_px, rng)
  return (distances - distances.min()) / (distances.max() - distances.min())


def stripes(height_px: int, width_px: int, rng: np.random.Generator) -> np.ndarray:
  """float64 [height, width] in [0, 1]: stripes with edges that are more or less soft."""
  period_px, hardness = rng.uniform(8, 40), rng.uniform(1, 4)
  phase = ramp(height_px, width_px, rng) / period_px % 1
  return np.clip((2 * np.abs(2 * phase - 1) - 1) * hardness, -1, 1) / 2 + 0.5


def checks(height_px: int, width_px: int, rng: np.random.Generator) -> np.ndarray:
  """float64 [height, width] in [0, 1]: a woven pattern of two sets of stripes."""
  return (stripes(height_px, width_px, rng) + stripes(height_px, width_px, rng)) / 2


PATTERNS: tuple[Callable[..., np.ndarray], ...] = (clouds, gradient, stripes, checks)


def make_ground(height_px: int, width_px: int, rng: np.random.Generator) -> np.ndarray:
  """float64 [height, width, 3] in [0, 1]: a pattern between two colours, unevenly lit and a little grainy."""
  shares = PATTERNS[rng.integers(len(PATTERNS))](height_px, width_px, rng)[..., None]
  first, second = (colour(rng, (0.1, 0.7), (0.2, 0.95)) for _ in range(2))
  light = 0.85 + 0.3 * value_noise(height_px, width_px, 60, rng)[..., None]
  grain = rng.uniform(-0.025, 0.025, (height_px, width_px, 1))
  return np.clip((first * shares + second * (1 - shares)) * light + grain, 0, 1)


def cut_out(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The largest connected thing of a grey picture, with its holes filled, and nothing around it.

  Returns:
    uint8 [h, w]: grey levels; bool [h, w]: where the thing is.
  """
  # Fashion-MNIST's garments have a fringe of almost black specks, which would look cut out with blunt scissors.
  parts, _ = ndimage.label(pixels > min(MAX_FRINGE, int(pixels.max()) // 2), np.ones((3, 3)))
  thing = ndimage.binary_fill_holes(parts == np.bincount(parts[parts > 0]).argmax())
  rows, columns = ndimage.find_objects(thing)[0]
  return pixels[rows, columns], thing[rows, columns]


def make_garment(pixels: np.ndarray, rng: np.random.Generator) -> Garment:
  """A garment as it is pasted.

  Args:
    pixels: uint8 [28, 28], grey, 0 outside the garment.
    rng: decides on size, tint and mirroring.

  Returns:
    float64 [h, w, 3], red, green and blue in [0, 1]; float64 [h, w], its opacity in [0, 1].
  """
  grey, thing = cut_out(pixels)
  if rng.uniform() < 0.5:
    grey, thing = grey[:, ::-1], thing[:, ::-1]
  scale = rng.uniform(MIN_SCALE, MAX_SCALE)
  size = tuple(round(side * scale) for side in grey.shape[::-1])
  large_grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC), np.float64) / 255
  large_thing = Image.fromarray(thing.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC)
  opacity = np.clip(2 * (np.asarray(large_thing, np.float64) / 255) - 0.5, 0, 1)
  tint = colour(rng, (0.15, 0.9), (0.65, 1.0))
  # Dark garments stay tinted: their shape and shading, not one grey level, tell what they are.
  return tint * (0.25 + 0.75 * large_grey)[..., None], opacity


def paste(
  scene: np.ndarray, owners: np.ndarray, garment: Garment, number: int, left_px: int, top_px: int
) -> None:
  """Lays a garment over a scene and writes its number into `owners` wherever it covers at least half of a pixel."""
  shades, opacity = garment
  height_px, width_px = owners.shape
  rows = slice(max(top_px, 0), min(top_px + opacity.shape[0], height_px))
  columns = slice(max(left_px, 0), min(left_px + opacity.shape[1], width_px))
  inside = (
    slice(rows.start - top_px, rows.stop - top_px),
    slice(columns.start - left_px, columns.stop - left_px),
  )
  share = opacity[inside][..., None]
  scene[rows, columns] = shades[inside] * share + scene[rows, columns] * (1 - share)
  owners[rows, columns][opacity[inside] >= 0.5] = number


def random_place(opacity: np.ndarray, owners: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
  """(left, top) in pixels of a garment that lies at most to MAX_BEYOND_BORDER of its sides outside."""
  top_px, left_px = (
    int(round(rng.uniform(-MAX_BEYOND_BORDER * own, whole - (1 - MAX_BEYOND_BORDER) * own)))
    for own, whole in zip(opacity.shape, owners.shape, strict=True)
  )
  return left_px, top_px


def make_scene(
  height_px: int, width_px: int, decks: list[Iterator[np.ndarray]], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[int]]:
  """One scene; a garment that finds no place where enough of all of them can be seen is left out.

  Returns:
    uint8 [height, width, 3]; uint8 [height, width]: 0 for the ground, else the number of the garment seen there,
    counted from 1; the class id of each garment.
  """
  scene, owners = make_ground(height_px, width_px, rng), np.zeros((height_px, width_px), np.uint8)
  class_ids, areas_px = [], []
  for _ in range(rng.integers(1, MAX_GARMENTS + 1)):
    class_id = int(rng.integers(len(CLASSES))) + 1
    garment = make_garment(next(decks[class_id - 1]), rng)
    whole_areas_px = [*areas_px, int((garment[1] >= 0.5).sum())]
    for _ in range(MAX_PLACES):
      left_px, top_px = random_place(garment[1], owners, rng)
      new_scene, new_owners = scene.copy(), owners.copy()
      paste(new_scene, new_owners, garment, len(class_ids) + 1, left_px, top_px)
      visible_px = np.bincount(new_owners.ravel(), minlength=len(whole_areas_px) + 1)[1:]
      if (visible_px >= MIN_VISIBLE * np.array(whole_areas_px)).all():
        scene, owners, areas_px = new_scene, new_owners, whole_areas_px
        class_ids.append(class_id)
        break
  return np.round(scene * 255).astype(np.uint8), owners, class_ids


def annotate(owners: np.ndarray, class_ids: list[int]) -> list[dict[str, Any]]:
  """COCO annotations, without ids, of a scene's garments: tight boxes and areas of what can be seen of them."""
  annotations = []
  for class_id, (rows, columns), number in zip(
    class_ids, ndimage.find_objects(owners), range(1, len(class_ids) + 1), strict=True
  ):
    bbox = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
    area_px = int((owners == number).sum())
    annotations.append({"category_id": class_id, "bbox": bbox, "area": area_px, "iscrowd": 0})
  return annotations


def encode(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
  """A picture file of uint8 [height, width] or [height, width, 3]."""
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, kind, **options)
  return file.getvalue()


def make_files(num_scenes: int, seed: int, width_px: int, height_px: int) -> dict[str, bytes]:
  """All files of the archive by their names."""
  with open(os.path.join(FOLDER, "LICENSE.fashion-mnist"), "rb") as file:
    files = {"LICENSE": file.read()}
  files["classes.txt"] = "".join(f"{name}\n" for name in ("background", *CLASSES)).encode()
  categories = [{"id": class_id, "name": name} for class_id, name in enumerate(CLASSES, 1)]
  coco = {"images": [], "annotations": [], "categories": categories}
  rng = np.random.default_rng(seed)
  decks = [deal(pictures, rng) for pictures in read_garments()]
  for image_id in range(1, num_scenes + 1):
    scene, owners, class_ids = make_scene(height_px, width_px, decks, rng)
    name = f"{image_id:0{max(4, len(str(num_scenes)))}d}"
    files[f"images/{name}.jpg"] = encode(scene, "JPEG", quality=JPEG_QUALITY)
    files[f"masks/{name}.png"] = encode(np.array([0, *class_ids], np.uint8)[owners], "PNG", optimize=True)
    coco["images"].append(
      {"id": image_id, "file_name": f"{name}.jpg", "width": width_px, "height": height_px}
    )
    for annotation in annotate(owners, class_ids):
      coco["annotations"].append({"id": len(coco["annotations"]) + 1, "image_id": image_id, **annotation})
  files["annotations.json"] = json.dumps(coco, separators=(",", ":")).encode()
  return files


def bounded(lowest: int, highest: int) -> Callable[[str], int]:
  """An argparse type: whole numbers from `lowest` to `highest`."""

  def parse(text: str) -> int:
    number = int(text)
    if not lowest <= number <= highest:
      raise argparse.ArgumentTypeError(f"{number} is not from {lowest} to {highest}")
    return number

  return parse


def main() -> None:
  """Writes the archive, entries sorted by name, without dates."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--output", default=os.path.join(FOLDER, "fashion_scenes.zip"), help="archive to write")
  parser.add_argument("--scenes", type=bounded(1, 1_000_000), default=160, help="number of scenes")
  parser.add_argument("--seed", type=bounded(0, 2**63 - 1), default=0)
  for side, default_px in (("width", 160), ("height", 120)):
    parser.add_argument(
      f"--{side}", type=bounded(MIN_SIDE_PX, MAX_SIDE_PX), default=default_px, help="pixels"
    )
  arguments = parser.parse_args()
  files = make_files(arguments.scenes, arguments.seed, arguments.width, arguments.height)
  with zipfile.ZipFile(arguments.output, "w") as archive:
    for name in sorted(files):
      is_packed = name.endswith((".jpg", ".png"))
      method = zipfile.ZIP_STORED if is_packed else zipfile.ZIP_DEFLATED
      archive.writestr(zipfile.ZipInfo(name), files[name], method, 9)


if __name__ == "__main__":
  main()
