"""What the registry's archive will hold: all files of the repository that .comfyignore does not name.

    python -m launcher.archive

prints its size, packed as a zip, and what takes the most of it.
"""

from __future__ import annotations

import io
import subprocess
import zipfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def rules() -> set[str]:
    """The names that .comfyignore leaves out: folders and files at the top, and endings."""
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    return {line.strip("/") for line in lines if line and not line.startswith("#")}


def files() -> list[str]:
    """The paths in the archive. Raises OSError or CalledProcessError outside of a git checkout."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    left_out = rules()
    return [name for name in listed if not left_out & set(Path(name).parts) and f"*{Path(name).suffix}" not in left_out]


def packed_bytes(names: list[str]) -> int:
    """The size of these files as one zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(ROOT / name, name)
    return buffer.tell()


def main() -> None:
    names = files()
    sizes: Counter[str] = Counter()
    for name in names:
        sizes[Path(name).parts[0]] += (ROOT / name).stat().st_size
    print(f"{len(names)} files, {packed_bytes(names) / 1e6:.1f} MB packed, {sum(sizes.values()) / 1e6:.1f} MB unpacked")
    for folder, size in sizes.most_common(6):
        print(f"{size / 1e6:8.1f} MB  {folder}")


if __name__ == "__main__":
    main()
