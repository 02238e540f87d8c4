"""The nuclei of the 2018 Data Science Bowl (BBBC038, stage1_train) in a fixed split.

    python benchmarks/nuclei.py --data STAGE1_TRAIN --out FOLDER [--type fluorescence] [--shrink 2 | --enlarge 2]
    python benchmarks/nuclei.py --data STAGE1_TRAIN --write      # how nuclei_split.csv was made

nuclei_split.csv lists every image with its type (size, colour, light or dark ground) and its place: of each type 70 %
train, 15 % val, 15 % test, by the hash of the id, so that no image's place depends on what else there is. Images of a
type that are crops of one another by their names cannot be told apart here; types of fewer than 8 images train only.
"""

import argparse
import csv
import hashlib
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

SPLIT = Path(__file__).with_name("nuclei_split.csv")
FEWEST = 8


def images(data: Path) -> dict[str, Path]:
    return {p.name: next((p / "images").iterdir()) for p in sorted(data.iterdir()) if (p / "images").is_dir()}


def kind(path: Path) -> str:
    image = cv2.imread(str(path)).astype(int)
    color = np.abs(image - image.mean(axis=2, keepdims=True)).mean() >= 1
    ground = "bright" if image.mean() >= 100 else "fluorescence"
    return f"{'stained' if color else ground}-{image.shape[0]}x{image.shape[1]}"


def write(data: Path) -> None:
    types: dict[str, list[str]] = defaultdict(list)
    for name, path in images(data).items():
        types[kind(path)].append(name)
    rows = []
    for what, names in sorted(types.items()):
        ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        held = 0 if len(names) < FEWEST else max(1, round(0.15 * len(names)))
        places = ["val"] * held + ["test"] * held + ["train"] * (len(names) - 2 * held)
        rows += [(name, what, place) for name, place in zip(ordered, places, strict=True)]
    with SPLIT.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "type", "split"))
        writer.writerows(sorted(rows))


def arrange(data: Path, out: Path, only: str, shrink: int, enlarge: int) -> None:
    """<out>/<split>/<id>/images and masks, as the format instance_folder reads them."""
    there = images(data)
    with SPLIT.open() as file:
        rows = [row for row in csv.DictReader(file) if row["type"].startswith(only)]
    missing = [row["id"] for row in rows if row["id"] not in there]
    if missing:
        sys.exit(f"{data} lacks {len(missing)} images of {SPLIT.name}, the first {missing[0]}")
    for row in rows:
        for path in sorted((data / row["id"]).glob("*/*.png")):
            place = out / row["split"] / path.relative_to(data)
            place.parent.mkdir(parents=True, exist_ok=True)
            mask = path.parent.name == "masks"
            if enlarge > 1:
                cv2.imwrite(str(place), larger(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), enlarge, mask=mask))
            elif shrink == 1:
                shutil.copyfile(path, place)
            else:
                small = smaller(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), shrink, mask=mask)
                if not mask or small.any():  # an object of less than a pixel is gone
                    cv2.imwrite(str(place), small)
    print(f"{len(rows)} images in {out}")


def smaller(pixels: np.ndarray, factor: int, *, mask: bool) -> np.ndarray:
    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.where(small >= 128, 255, 0).astype(np.uint8) if mask else small


def larger(pixels: np.ndarray, factor: int, *, mask: bool) -> np.ndarray:
    """Masks by repeating pixels: the IoU of two of them stays what it was."""
    how = cv2.INTER_NEAREST if mask else cv2.INTER_CUBIC
    return cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=how)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--type", default="", help="the beginning of a type's name: fluorescence, stained, bright")
    parser.add_argument("--shrink", type=int, default=1)
    parser.add_argument("--enlarge", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.data is None or not (arguments.write or arguments.out):
        print("nothing to do: name --data and --out")
        return
    if arguments.write:
        write(arguments.data)
    if arguments.out:
        arrange(arguments.data, arguments.out, arguments.type, arguments.shrink, arguments.enlarge)


if __name__ == "__main__":
    main()
