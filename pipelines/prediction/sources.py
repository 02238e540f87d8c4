"""What is to be predicted: files, folders, patterns and buckets as they were asked for -> images and videos, each with
a name of its own.

A folder gives what is called like an image or a video; what else lies in it is listed as passed over. A file that is
named, or that a pattern matches, is taken whatever it is called. A pattern is a shell's (`*`, `?`, `[abc]`, `**` for
folders), in a bucket too.
"""

import fnmatch
import glob
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from pipelines.data import buckets, decode
from pipelines.data.faults import Fault, FaultError
from pipelines.data.tree import Stamp, Tree, is_uri
from pipelines.errors import DataError, bounded
from pipelines.files import digest

IMAGES = tuple({suffix for suffixes in decode.SUFFIXES.values() for suffix in suffixes})
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ogv")
WILD = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class Source:
    """An image or a video."""

    root: str  # an absolute folder without links, or a URI
    name: str  # within it
    stamp: Stamp  # changes when the file does
    id: str  # of its results: unique
    stem: str = ""  # of their files: the id without a suffix, where that is unique, too

    @property
    def uri(self) -> str:
        return f"{self.root}/{self.name}"

    @property
    def mark(self) -> Stamp:
        """Changes when the file does, or what its results are called."""
        return (*self.stamp, self.stem)

    @property
    def is_video(self) -> bool:
        return self.name.lower().endswith(VIDEOS)


@dataclass(slots=True)
class Listing:
    """All that was found."""

    sources: list[Source] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)  # in folders, and called like no image or video

    @property
    def images(self) -> list[Source]:
        return [source for source in self.sources if not source.is_video]

    @property
    def videos(self) -> list[Source]:
        return [source for source in self.sources if source.is_video]


def find(asked: Sequence[str]) -> Listing:
    """Or one DataError that lists what leads nowhere."""
    listing, nowhere = Listing(), []
    for source in asked:
        try:
            _add(source, listing)
        except FaultError as error:
            nowhere.append(f"{source}: {error.reason}")
    if not nowhere and not listing.sources and not listing.faults:
        nowhere = [f"{source}: no images or videos" for source in asked]
    if nowhere:
        raise DataError(
            f"{len(nowhere)} of {len(asked)} sources lead nowhere",
            bounded(nowhere),
            do="name files, folders, patterns such as 'photos/**/*.jpg', or s3://bucket/path",
        )
    once = {(source.root, source.name): source for source in reversed(listing.sources)}
    listing.sources = named(reversed(once.values()))
    return listing


def named(sources: Iterable[Source]) -> list[Source]:
    """Each with an id and a stem that no other has, on file systems that ignore case as well. Whose are another's
    begin with a hash of where it lies: the same ones each time."""
    found = list(sources)
    ids = Counter(source.id.casefold() for source in found)
    videos = {source.id.casefold() for source in found if source.is_video}
    own = [
        replace(source, id=f"{digest(source.uri)[:8]}/{source.id}")
        if ids[source.id.casefold()] > 1 or videos & set(_folders(source.id.casefold()))
        else source
        for source in found
    ]
    stems = Counter(_stem(source).casefold() for source in own)
    taken = {source.id.casefold() for source in own}
    return [
        replace(source, stem=stem if stems[stem.casefold()] == 1 and stem.casefold() not in taken else source.id)
        for source in own
        for stem in [_stem(source)]
    ]


def _stem(source: Source) -> str:
    """Of a video the whole id, which becomes its frames' folder."""
    return source.id if source.is_video else str(PurePosixPath(source.id).with_suffix(""))


def _folders(name: str) -> Iterator[str]:
    return (str(parent) for parent in PurePosixPath(name).parents)


def _add(asked: str, listing: Listing) -> None:
    if is_uri(asked):
        _add_remote(asked, listing)
    elif Path(asked).is_dir():
        _add_folder(asked, listing)
    elif Path(asked).exists():
        listing.sources.append(_file(Path(asked), Path(asked).name))
    elif WILD.search(asked):
        start = Path(*_fixed(asked))
        matched = [Path(name) for name in sorted(glob.glob(asked, recursive=True))]  # noqa: PTH207 - absolute ones, too
        taken = [_file(path, str(path.relative_to(start))) for path in matched if path.is_file()]
        if not taken:
            raise FaultError("missing-file", "matches no file")
        listing.sources += taken
    else:
        raise FaultError("missing-file", "there is no such file or folder")


def _fixed(pattern: str) -> list[str]:
    """The folders of a path before its first wildcard."""
    parts = PurePosixPath(pattern).parts
    first = next(i for i, part in enumerate(parts) if WILD.search(part))
    return list(parts[:first])


def _file(path: Path, identity: str) -> Source:
    real = path.resolve()
    stat = real.stat()
    return Source(str(real.parent), real.name, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns), identity)


def _add_remote(asked: str, listing: Listing) -> None:
    if not asked.startswith("s3://"):
        raise FaultError("missing-file", "of buckets only s3:// can be read")
    path, query = _parted(asked)
    if WILD.search(path):
        start = "/".join(_fixed(path))
        pattern = re.compile(_translated(path[len(start) + 1 :]))
        before = len(listing.sources)
        tree = Tree(f"s3://{start}{query}", what="source")
        names = [name for name in tree.stamps if pattern.match(name)]
        listing.sources += [Source(tree.root, name, tree.stamps[name], name) for name in names]
        if len(listing.sources) == before:
            raise FaultError("missing-file", "matches no file")
        return
    system, place = buckets.filesystem(asked)
    try:
        info = system.get_file_info(place)
    except OSError as error:
        raise buckets.refusal(f"source {asked} cannot be looked at", error) from None
    if info.is_file:
        parent, _, name = path.rpartition("/")
        listing.sources.append(Source(f"s3://{parent}{query}", name, (info.size, info.mtime_ns or 0), name))
    else:
        _add_folder(f"s3://{path.rstrip('/')}{query}", listing)


def _parted(uri: str) -> tuple[str, str]:
    """bucket/path, and `?options`: a `?` with a `=` behind it begins them, any other is a wildcard."""
    path = uri.removeprefix("s3://")
    head, mark, tail = path.rpartition("?")
    return (head, mark + tail) if mark and "=" in tail else (path, "")


def _translated(pattern: str) -> str:
    """A shell's pattern as a regular expression, in which only `**` crosses folders."""
    parts = []
    for part in pattern.split("/"):
        one = fnmatch.translate(part).removeprefix("(?s:").removesuffix(r")\Z").replace(".*", "[^/]*")
        parts.append(r"(?:[^/]+/)*" if part == "**" else f"{one}/")
    return f"{''.join(parts).removesuffix('/')}\\Z"


def _add_folder(root: str, listing: Listing) -> None:
    tree = Tree(root, what="source")
    listing.faults += tree.faults
    for name, stamp in tree.stamps.items():
        if name.lower().endswith((*IMAGES, *VIDEOS)):
            listing.sources.append(Source(tree.root, name, stamp, name))
        else:
            listing.passed_over.append(f"{tree.root}/{name}")
