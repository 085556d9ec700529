"""Puts the uv binary into a folder with nothing but Python's standard library.

Debian's python3 comes without pip and venv, so the wheel is fetched from the package index that pip would ask
(PIP_INDEX_URL, else the public one), checked against the index's own digest, and unpacked.

Usage: python3 get_uv.py TARGET
"""

import hashlib
import html
import io
import os
import pathlib
import platform
import re
import sys
import urllib.parse
import urllib.request
import zipfile

UV_VERSION = "0.13.9"
PUBLIC_INDEX = "https://pypi.org/simple"


def wheel_url(index: str) -> str:
  """URL, with its sha256 fragment, of the wheel for this machine."""
  page_url = index.rstrip("/") + "/uv/"
  with urllib.request.urlopen(page_url, timeout=60) as response:
    page = response.read().decode("utf-8")
  libc = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
  for link in re.findall(r'href="([^"]+)"', page):
    url = urllib.parse.urljoin(page_url, html.unescape(link))
    name = urllib.parse.urlparse(url).path.rsplit("/", 1)[-1]
    is_ours = name.startswith(f"uv-{UV_VERSION}-") and libc in name
    if is_ours and name.endswith(f"_{platform.machine()}.whl"):
      return url
  raise SystemExit(
    f"uv {UV_VERSION} has no wheel for {libc} on {platform.machine()}: put a uv binary at the target"
  )


def main(target: pathlib.Path) -> None:
  """Writes the binary, in one step."""
  url = wheel_url(os.environ.get("PIP_INDEX_URL") or PUBLIC_INDEX)
  with urllib.request.urlopen(url, timeout=300) as response:
    wheel = response.read()
  expected = urllib.parse.urlparse(url).fragment.removeprefix("sha256=")
  if hashlib.sha256(wheel).hexdigest() != expected:
    raise SystemExit(f"{url}: the file's sha256 is not {expected or 'given'}")
  with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
    name = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
    data = archive.read(name)
  target.parent.mkdir(parents=True, exist_ok=True)
  partial = target.with_suffix(".partial")
  partial.write_bytes(data)
  partial.chmod(0o755)
  partial.replace(target)


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
