"""Published files, each downloaded once and verified whenever it is used."""

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path

from esper.errors import TaskError
from esper.printing import logger

FETCH_TIMEOUT_S = 30.0

log = logger(__name__)


def fetch(url: str, md5: str, folder: str, name: str, task: str) -> Path:
    """The path of a file in a folder, downloaded first if it is not there.

    A download becomes visible under its name only once its checksum is right; a stored file is checked every time.

    Args: name: that the file is stored under. task: that needs it, for messages.

    Raises:
        TaskError: it cannot be fetched, or is not what was published.
    """
    path = Path(folder).expanduser() / name
    if not path.exists():
        _download(url, md5, path, task)
    elif (found := _md5(path)) != md5:
        raise TaskError(
            f"{path} is altered or cut short: its MD5 is {found}, expected {md5}. Fetch it again with: rm {path}"
        )
    return path


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise TaskError(f"{path} cannot be read ({error.strerror or error}); see the key task.data_dir") from error


def _download(url: str, md5: str, path: Path, task: str) -> None:
    partial: Path | None = None
    log.info("fetching %s into %s", url, path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(url, timeout=FETCH_TIMEOUT_S) as source,
            tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as target,
        ):
            partial = Path(target.name)
            shutil.copyfileobj(source, target)
        if (found := _md5(partial)) != md5:
            raise TaskError(
                f"{url} is not the expected file: its MD5 is {found}, expected {md5}. Set task.url to a sound copy."
            )
        os.replace(partial, path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise TaskError(
            f"task={task}: cannot fetch {url} ({error}). Put {path.name} into {path.parent} "
            "(key task.data_dir) yourself, or set task.url to a copy within reach."
        ) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
