"""A smaller copy of CamVid (SegNet's release), for tables that a CPU can make: images by area, labels by their pixels.

python benchmarks/shrink.py --data path/to/camvid --factor 3 --out path/of/the/copy
"""

import argparse
import shutil
import sys
from pathlib import Path

import cv2


def shrink(source: Path, out: Path, factor: int) -> int:
    """The number of files."""
    count = 0
    for path in sorted(source.rglob("*")):
        target = out / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif path.suffix in (".png", ".jpg"):
            target.parent.mkdir(parents=True, exist_ok=True)
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            how = cv2.INTER_NEAREST if "annot" in path.parent.name else cv2.INTER_AREA
            size = (picture.shape[1] // factor, picture.shape[0] // factor)
            cv2.imwrite(str(target), cv2.resize(picture, size, interpolation=how))
            count += 1
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the dataset's folder")
    parser.add_argument("--factor", type=int, default=3)
    parser.add_argument("--out", type=Path, help="the copy's folder")
    arguments = parser.parse_args()
    if not arguments.data or not arguments.out:
        print("nothing to do: name --data and --out")
        return
    if arguments.out.exists():
        sys.exit(f"{arguments.out} is there already")
    print(f"{shrink(arguments.data, arguments.out, arguments.factor)} files in {arguments.out}")


if __name__ == "__main__":
    main()
