"""Files: how they are opened, written as a whole, locked and read. The only way to do any of it."""

from esper.files.atomic import as_unicode, sweep_temporaries, sync_folder, write_atomic, write_error, written_for
from esper.files.locks import FileLock, spelled, utc_now
from esper.files.opening import (
    check_own,
    check_source,
    make_folder,
    open_log,
    open_new,
    open_own,
    open_to_append,
    open_to_read,
)
from esper.files.reading import (
    Line,
    parse_json,
    parse_yaml,
    read_all,
    read_bytes,
    read_json,
    read_jsonl,
    read_object,
    read_yaml,
)
from esper.files.shapes import built, checked, fitting, misfit

__all__ = [
    "FileLock",
    "Line",
    "as_unicode",
    "built",
    "check_own",
    "check_source",
    "checked",
    "fitting",
    "make_folder",
    "misfit",
    "open_log",
    "open_new",
    "open_own",
    "open_to_append",
    "open_to_read",
    "parse_json",
    "parse_yaml",
    "read_all",
    "read_bytes",
    "read_json",
    "read_jsonl",
    "read_object",
    "read_yaml",
    "spelled",
    "sweep_temporaries",
    "sync_folder",
    "utc_now",
    "write_atomic",
    "write_error",
    "written_for",
]
