"""Files on disk: which are images, what a folder of them holds, reading one without hanging on a pipe."""

# Names must survive byte for byte, and pathlib has no bytes paths.
# ruff: noqa: PTH116, PTH118, PTH120, PTH122

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import MappingProxyType

from featbank._cache import user_path
from featbank.errors import DatasetError, ImageDecodeError, MissingDataError
from featbank.manifest import printable

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "MAX_FILE_BYTES",
    "REFUSED_FORMATS",
    "UNDECODED_SUFFIXES",
    "Folder",
    "Listing",
    "Scan",
    "list_images",
    "open_regular_file",
    "read_image_file",
    "read_regular_file",
    "suffix_of",
]

logger = logging.getLogger(__name__)

#: What is decoded: Pillow's name of the format -> its plugin, and the suffixes of such files. What a file is
#: shows in its first bytes, asked in this order: those that look at few of them come last.
FORMATS: Mapping[str, tuple[str, bytes]] = MappingProxyType(
    {
        "JPEG": ("Jpeg", b".jpg .jpeg .jpe .jfif .mpo"),  # hands out MPO (several lenses) as well
        "PNG": ("Png", b".png .apng"),
        "GIF": ("Gif", b".gif"),
        "WEBP": ("WebP", b".webp"),
        "TIFF": ("Tiff", b".tif .tiff"),
        "BMP": ("Bmp", b".bmp"),
        "PPM": ("Ppm", b".ppm .pgm .pbm .pnm .pfm"),
        "JPEG2000": ("Jpeg2K", b".jp2 .j2k .j2c .jpc .jpf .jpx"),
        "AVIF": ("Avif", b".avif .avifs"),
        "QOI": ("Qoi", b".qoi"),
        "PSD": ("Psd", b".psd"),
        "DDS": ("Dds", b".dds"),
        "ICNS": ("Icns", b".icns"),
        "FITS": ("Fits", b".fit .fits"),
        "SGI": ("Sgi", b".sgi .rgb .rgba .bw"),
        "SUN": ("Sun", b".ras"),
        "XPM": ("Xpm", b".xpm"),
        "XBM": ("Xbm", b".xbm"),
        "XVTHUMB": ("XVThumb", b""),
        "BLP": ("Blp", b".blp"),
        "FTEX": ("Ftex", b".ftc .ftu"),
        "DCX": ("Dcx", b".dcx"),
        "MSP": ("Msp", b".msp"),
        "PIXAR": ("Pixar", b".pxr"),
        "MCIDAS": ("McIdas", b""),
        "FLI": ("Fli", b".fli .flc"),
        "GBR": ("Gbr", b".gbr"),
        "ICO": ("Ico", b".ico"),
        "CUR": ("Cur", b".cur"),
        "DIB": ("Bmp", b".dib"),
        "PCX": ("Pcx", b".pcx"),
        "PCD": ("Pcd", b".pcd"),
        "IMT": ("Imt", b""),
        "IM": ("Im", b".im"),
        "SPIDER": ("Spider", b""),
        "TGA": ("Tga", b".tga .icb .vda .vst"),
    }
)

#: Formats that Pillow knows and that are not decoded, and why.
REFUSED_FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "EPS": "it is a program, which Pillow would have Ghostscript run",
        "IPTC": "Pillow opens whatever lies inside it, EPS too",
        "WMF": "it is drawn by Windows alone",
        "FPX": "it lies in an OLE container, which Pillow has no reader for",
        "MIC": "it lies in an OLE container, which Pillow has no reader for",
        "MPEG": "it is a film, of which Pillow knows the size alone",
        "BUFR": "Pillow has no reader for its numbers",
        "GRIB": "Pillow has no reader for its numbers",
        "HDF5": "Pillow has no reader for its numbers",
    }
)

#: Suffixes (lower case) under which a file is taken for an image; its content decides what it is.
IMAGE_SUFFIXES = frozenset(suffix for _, suffixes in FORMATS.values() for suffix in suffixes.split())

#: Suffixes of images that are not decoded: photographs of telephones and cameras, drawings, scans.
UNDECODED_SUFFIXES = frozenset(
    b".heic .heif .hif .jxl .jxr .hdp .wdp .dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .orf .rw2 .raf .pef .srw "
    b".raw .exr .hdr .svg .svgz .eps .ps .ai .wmf .emf .iim .fpx .mic .pdf .xcf .kra .dcm .djvu .jb2".split()
)

#: A single image of more bytes is refused: it would be held in memory whole.
MAX_FILE_BYTES = 1 << 30
_PART_BYTES = 1 << 24

_LITTER_FILES = frozenset({b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b"icon\r"})
#: Folders (any case) that systems, servers and tools leave behind, as they are called in full: a class may
#: begin with ``_``, ``@``, ``#`` or ``$``, but none is called like one of these.
_LITTER_FOLDERS = frozenset(
    name.encode()
    for name in (
        # thumbnails and other shadows of files
        "@eadir", "@__thumb", "_thumbs", "__macosx", "__pycache__",
        # recycle bins
        "$recycle.bin", "recycler", "#recycle", "@recycle", "network trash folder",
        # of file systems and of the snapshots of servers
        "system volume information", "lost+found", "found.000", "$extend", "#snapshot", "~snapshot",
        "@recently-snapshot", "@sharebin", "@sharesnap", "temporary items",
    )
)  # fmt: skip
_SHOWN = 5


def suffix_of(name: bytes) -> bytes:
    """Return the suffix of a file name, lower case, with its dot; empty if it has none.

    Examples
    --------
    >>> suffix_of(b"IMG_1.JPG"), suffix_of(b"README")
    (b'.jpg', b'')
    """
    return os.path.splitext(name)[1].lower()


def read_regular_file(path: bytes) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    OSError
        If the file cannot be opened or read, or is no regular file.
    ImageDecodeError
        With the reason ``"too-many-bytes"`` above `MAX_FILE_BYTES`.
    """
    with open_regular_file(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > MAX_FILE_BYTES:
            raise ImageDecodeError("too-many-bytes", f"{n_bytes} bytes is over the limit of {MAX_FILE_BYTES}")
        parts, size = [], 0
        while (part := file.read(_PART_BYTES)) != b"":
            if part is None:  # such as /proc/kmsg: a regular file by its name
                raise BlockingIOError(errno.EAGAIN, "it gives no bytes now, as a log or a pipe does")
            parts.append(part)
            size += len(part)
            if size > MAX_FILE_BYTES:  # it grows, or its size is not known before
                raise ImageDecodeError("too-many-bytes", f"it has more than the limit of {MAX_FILE_BYTES}")
        return b"".join(parts)


def open_regular_file(path: bytes) -> FileIO:
    """Open a regular file for reading, unbuffered; raises `OSError` if it cannot be, or is none."""
    # Non-blocking, so that a pipe put in the place of an image does not hang the run.
    file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{os.fsdecode(path)!r} is not a regular file")
    return file


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    r"""Return the bytes of one image file; raises `OSError` or `ImageDecodeError`.

    Examples
    --------
    >>> from pathlib import Path
    >>> size = Path("one.png").write_bytes(b"\x89PNG...")
    >>> read_image_file("one.png")
    b'\x89PNG...'
    >>> read_image_file("/dev/null")
    Traceback (most recent call last):
        ...
    OSError: '/dev/null' is not a regular file
    """
    return read_regular_file(os.fsencode(user_path(path)))


@dataclass(eq=False, slots=True)
class Folder:
    """One folder of a scan; paths are relative to where the scan began, and ``b""`` is the beginning."""

    path: bytes
    parent: Folder | None = None
    #: Device and inode: links are recognised by it.
    key: tuple[int, int] = (0, 0)
    #: Whether a link leads here, or to a folder around it.
    linked: bool = False
    #: Why it could not be entered; "" if it could.
    problem: str = ""
    images: list[bytes] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    #: Suffixes of files that are no images, here and below.
    other: Counter[str] = field(default_factory=Counter)
    #: Images here and below.
    n_images: int = 0

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]

    @property
    def filled(self) -> list[Folder]:
        """Its folders that hold images, at any depth."""
        return [one for one in self.folders if one.n_images]

    def walk(self) -> Iterator[bytes]:
        """Yield the images here and below."""
        todo = [self]
        while todo:
            folder = todo.pop()
            todo += folder.folders
            yield from folder.images

    def around(self) -> Iterator[Folder]:
        """Yield the folder itself, the one it is in, and so on."""
        folder: Folder | None = self
        while folder is not None:
            yield folder
            folder = folder.parent


class Listing:
    """What lies in a folder or an archive: its images, and what was left out.

    A file counts as an image by its suffix; what it really is shows when it is decoded. Hidden files and
    folders, and those that systems leave behind, are left out.

    Parameters
    ----------
    location : str
        Where it is, for people.

    Attributes
    ----------
    top : Folder
        What there is.
    location : str
        As it was given.
    """

    def __init__(self, location: str) -> None:
        self.top, self.location = Folder(b""), location
        self._litter: Counter[str] = Counter()
        self._outside: list[bytes] = []
        self._odd: list[tuple[bytes, str]] = []

    def leaves_out(self, name: bytes, folder: Folder, *, is_folder: bool) -> bool:
        """Return whether an entry of `folder` is left out for its name, and count it if so."""
        is_image = suffix_of(name) in IMAGE_SUFFIXES
        if name.startswith(b".") or (is_folder and name.lower() in _LITTER_FOLDERS):
            # Only what could have been an image is worth a word, which .DS_Store is not.
            if is_folder or is_image:
                self._litter[printable(name) if is_folder else "hidden images"] += 1
            return True
        if not (is_folder or is_image):
            if name.lower() not in _LITTER_FILES:
                folder.other[printable(suffix_of(name)) or "no suffix"] += 1
            return True
        return False

    def count(self, order: Sequence[Folder]) -> None:
        """Add up what is in folders, each of which comes after the one that it is in."""
        for folder in reversed(order):  # what is inside comes before what it is in
            folder.n_images += len(folder.images)
            if folder.parent is not None:
                folder.parent.n_images += folder.n_images
                folder.parent.other += folder.other
            folder.parent = None  # no circle: what a scan has listed goes when nobody wants it any more

    def tell(self) -> None:
        """Log what was left out, and which links lead out: a line for each kind."""
        if self._litter:
            logger.warning(
                "skipped %d hidden or system entries in %s (%s)",
                self._litter.total(),
                self.location,
                ", ".join(f"{count} {name}" for name, count in self._litter.most_common(_SHOWN))
                + (", ..." if len(self._litter) > _SHOWN else ""),
            )
        undecoded = Counter(
            {one: n for one, n in self.top.other.items() if one.encode() in UNDECODED_SUFFIXES}
        )
        for what, suffixes in (
            (
                "left out %d images in %s whose format is not decoded (%s): convert them to JPEG or PNG",
                undecoded,
            ),
            ("skipped %d files in %s that are not images by their suffix (%s)", self.top.other - undecoded),
        ):
            if suffixes:
                said = ", ".join(f"{suffix}: {count}" for suffix, count in sorted(suffixes.items()))
                logger.warning(what, suffixes.total(), self.location, said)
        if self._outside:
            logger.warning(
                "%d links in %s lead out of it and are followed, the first is '%s'",
                len(self._outside),
                self.location,
                printable(self._outside[0]),
            )
        if self._odd:
            first, problem = self._odd[0]
            logger.warning(
                "skipped %d entries in %s that are no files of it, the first is '%s': %s",
                len(self._odd),
                self.location,
                printable(first),
                problem,
            )


class Scan(Listing):
    """A folder and all below it, looked through once.

    Links are followed, to folders and to files, also out of the folder. One that leads back to a folder
    around it is not, nor is one that stands in a linked folder and leads to a folder that was seen already:
    it would never end. A link to nothing that is called like an image is an image, which then cannot be read.

    Parameters
    ----------
    root : bytes
        The folder.

    Raises
    ------
    DatasetError
        If a folder cannot be listed.
    """

    def __init__(self, root: bytes) -> None:
        self._root, self._real = root, os.path.realpath(root)
        super().__init__(printable(self._real))
        self.top.key = _key(os.stat(root))
        # A link to a folder around the whole would begin it anew.
        above, self._above = self._real, set()
        while above != os.path.dirname(above):
            above = os.path.dirname(above)
            self._above.add(_key(os.stat(above)))
        self._seen: set[tuple[int, int]] = set()
        todo, order = [self.top], []
        while todo:
            folder = todo.pop()
            order.append(folder)
            if not folder.problem:
                self._list(folder)
                todo += reversed(folder.folders)
        self.count(order)

    def _list(self, folder: Folder) -> None:
        """List one folder, in the order of its names' bytes."""
        self._seen.add(folder.key)
        try:
            with os.scandir(os.path.join(self._root, folder.path)) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            where = printable(folder.path) or "."
            raise DatasetError(
                f"cannot list '{where}' in {self.location!r}: {error.strerror}; make it readable or "
                "move it away"
            ) from error
        for entry in entries:
            path = folder.path + b"/" + entry.name if folder.path else entry.name
            problem = self._sort_in(entry, path, folder)
            if problem:
                self._odd.append((path, problem))

    def _sort_in(self, entry: os.DirEntry[bytes], path: bytes, folder: Folder) -> str | None:
        """Put one entry where it belongs, or say why it belongs nowhere."""
        name, suffix = entry.name, suffix_of(entry.name)
        hidden, is_image = name.startswith(b"."), suffix in IMAGE_SUFFIXES
        if is_image and not hidden and entry.is_file(follow_symlinks=False):  # without a look at the file
            folder.images.append(path)
            return None
        linked = entry.is_symlink()
        try:
            status = entry.stat()
        except OSError as error:  # a link to nothing or to itself, an entry that went away
            if hidden:
                return None
            if linked and is_image:
                folder.images.append(path)
                return None
            problem = f"a link that leads nowhere ({error.strerror})" if linked else str(error.strerror)
            if linked and not suffix:
                # It may have been a class.
                folder.folders.append(Folder(path, folder, problem=problem))
            return problem
        is_folder = stat.S_ISDIR(status.st_mode)
        if not (hidden or is_folder or stat.S_ISREG(status.st_mode)):
            return "a pipe, socket or device"
        if self.leaves_out(name, folder, is_folder=is_folder):
            return None
        if is_folder:
            inside = Folder(path, folder, _key(status), linked or folder.linked)
            if inside.linked:
                if inside.key in self._above or any(one.key == inside.key for one in folder.around()):
                    return "it leads back to a folder that it is in"
                if linked and folder.linked and inside.key in self._seen:
                    return "a link in a linked folder, to a folder that was seen already"
            folder.folders.append(inside)
        else:
            folder.images.append(path)
        if linked and not os.path.realpath(entry.path).startswith(self._real.rstrip(b"/") + b"/"):
            self._outside.append(path)
        return None


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def list_images(path: str | os.PathLike[str]) -> list[Path]:
    """Return a file itself, or the images of a folder and its sub-folders in name order.

    Parameters
    ----------
    path : str or path
        A file of any name, or a folder, which is looked through as that of a dataset is.

    Raises
    ------
    MissingDataError
        If nothing is there, or the folder holds no image.
    DatasetError
        If a folder cannot be listed.

    Examples
    --------
    >>> from pathlib import Path
    >>> for name in ("cat/2.jpg", "cat/1.jpg", "readme.txt"):
    ...     Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
    ...     Path("photos", name).touch()
    >>> [path.as_posix() for path in list_images("photos")]
    ['photos/cat/1.jpg', 'photos/cat/2.jpg']
    """
    path = user_path(path)
    if not path.is_dir():
        # A link to nothing is told as a file that cannot be read, here as in a folder.
        if not (path.exists() or path.is_symlink()):
            raise MissingDataError(f"no image at {printable(str(path))!r}; give a file or a folder of images")
        return [path]
    scan = Scan(os.fsencode(path))
    scan.tell()
    if not scan.top.n_images:
        raise MissingDataError(f"no images in {printable(str(path))!r}; its files have no suffix of an image")
    return sorted(path / os.fsdecode(one) for one in scan.top.walk())
