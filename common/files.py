"""Files that are written whole or not at all, and names that cannot lead out of their folder."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system: there nothing is locked
    fcntl = None


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces a file atomically: even after a power cut it is the old one or the new one, whole.

    Args:
        path: the file, in a folder that exists. A link is replaced, not followed.
        content: all of it; text is written as UTF-8.

    Raises:
        OSError: if it cannot be written, on a full disk say; the old file is then intact.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb", buffering=0) as file:
            _write(file.fileno(), content.encode() if isinstance(content, str) else content)
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def clear_partials(path: Path) -> None:
    """Removes what killed processes left of a file that they were writing whole.

    Args:
        path: the file; no other process may be writing it.
    """
    begun = f".{path.name}."
    for partial in path.parent.glob(f"{begun}*"):
        if partial.name.removeprefix(begun).isdigit():
            partial.unlink()


def append_whole(path: Path, content: bytes) -> None:
    """Appends to a file; an incomplete write is cut off again.

    Args:
        path: the file, created where it is missing.
        content: a line, say.

    Raises:
        OSError: if it cannot be written, on a full disk say; the file is then as it was.
    """
    # One write to a file opened for appending: lines of two processes do not interleave.
    with path.open("ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        try:
            _write(file.fileno(), content)
            os.fsync(file.fileno())
        except BaseException as error:  # Ctrl-C too
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)
            # Not where another process has appended behind it: its line is whole.
            written = os.fstat(file.fileno()).st_size
            if written <= before + len(content):
                os.ftruncate(file.fileno(), before)
            raise


def _write(descriptor: int, content: bytes) -> None:
    """Writes all of it, in as many calls as it takes."""
    rest = memoryview(content)
    while rest:  # a disk that fills up takes a part, and raises only at the next call
        rest = rest[os.write(descriptor, rest) :]


def cut_unfinished_line(path: Path) -> None:
    """Cuts off an unfinished last line, if there is one.

    Args:
        path: a file; it need not exist.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            file.truncate(complete)


def sync(path: Path) -> None:
    """Makes a file, or the names in a folder, survive a power cut.

    Args:
        path: a file; or a folder, where the system can.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # not every system opens folders
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def full_disk(error: BaseException) -> bool:
    """Whether an error says that there is no room left, of the disk or of the user's share of it.

    Args:
        error: any.
    """
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class InUseError(RuntimeError):
    """A folder that another process writes to."""


LOCK = ".lock"
"""The file by which a process has a folder to itself; it holds the process's number."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a folder from all other processes that lock it, until the block or the process ends.

    The system lets go of it with the process, however that ends, so none is ever left behind.

    Args:
        folder: one that exists.

    Raises:
        InUseError: if another process has it, with that process's number.
        OSError: if no file can be made there.
    """
    path = folder / LOCK
    descriptor = _locked(path)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still ours
        os.close(descriptor)


def _locked(path: Path) -> int:
    """The lock file, open and ours."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have removed the file between its opening and its locking.
            if os.path.lexists(path) and os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise InUseError(
                f"the process {holder} is writing to {path.parent}; wait for its end, or name "
                "another folder."
            ) from None
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                return descriptor  # a file system without locks
            os.close(descriptor)
            raise
        os.close(descriptor)


class OutsideError(ValueError):
    """A name that leads out of the folder that it must lie in."""


def inside(folder: Path, name: str) -> Path:
    """The path of a name in a folder.

    Args:
        folder: anywhere; it may be a link itself, and need not exist.
        name: one name or several with slashes between them.

    Raises:
        OutsideError: if the path leads out of the folder: through "..", a link, or as an absolute
            path.

    Example:
        >>> inside(Path("results"), "gsgd_mlp").as_posix()
        'results/gsgd_mlp'
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise OutsideError(
            f"{path} must lie in {folder}, but leads to {path.resolve()}; take a name without "
            '"..", and remove links that lead elsewhere.'
        )
    return path


def links_outside(folder: Path) -> Iterator[Path]:
    """The links in a folder, not in those below it, that lead out of it.

    Args:
        folder: it need not exist.
    """
    if folder.is_dir():
        home = folder.resolve()
        for path in sorted(folder.iterdir()):
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                yield path
