import os

import pytest

from esper.errors import ConfigError, TaskError
from esper.tasks.text.sources import TextFile, check_installed, in_order, installed_files, own_files

KEY = "corpus.paths"


def own(*paths, most_bytes=1 << 20, seed=0):
    return {file.name: file.texts["d"] for file in own_files(KEY, [str(path) for path in paths], "d", seed, most_bytes)}


def fill(folder, **texts):
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    return folder


def test_installed_text_is_python_prose_and_headers():
    files = installed_files(0, 100_000, 4096)
    texts = {
        domain: [file.texts[domain] for file in files if domain in file.texts] for domain in ("python", "prose", "cpp")
    }
    assert all(len(text) <= 4096 for domain in texts.values() for text in domain)
    assert all(100_000 <= sum(map(len, domain)) < 150_000 for domain in texts.values())
    assert any(file.texts.keys() == {"python", "prose"} for file in files)  # which then fall into one split
    assert any(file.name.startswith("pydoc_data/topics.py#") for file in files)
    assert b"#include" in b"".join(texts["cpp"]) and b"import " in b"".join(texts["python"])
    assert not [file.name for file in files if "ATen/ops/" in file.name or file.name.startswith("test/")]
    assert [file.name for file in installed_files(1, 100_000, 4096)] != [file.name for file in files]


def test_an_installation_without_text_for_a_domain_says_so():
    found = installed_files(0, 20_000, 4096)
    assert check_installed(found) == found
    with pytest.raises(TaskError, match=r"corpus=installed: .* no text for prose, cpp\n.*corpus=text"):
        check_installed([TextFile("a.py", {"python": b"x = 1"})])


def test_the_order_of_files_is_that_of_their_names_and_the_seed_alone(tmp_path):
    names = [f"f{number}" for number in range(20)]
    assert in_order(names, 0) == in_order(reversed(names), 0) != in_order(names, 1)
    first = fill(tmp_path / "a", **{name: name.encode() * 9 for name in names})
    second = fill(tmp_path / "b", **{name: name.encode() * 9 for name in reversed(names)})
    assert list(own(first).items()) == list(own(second).items())
    assert list(own(first)) == in_order(names, 0)


def test_of_a_folder_links_hidden_files_and_what_is_no_text_are_left_out(tmp_path):
    folder = fill(
        tmp_path / "d", a=b"one", sub__b=b"two \xff latin", c=b"zip\0", _dot_git__d=b"no", _dot_e=b"no", f=b""
    )
    (tmp_path / "outside").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "fifo")
    assert own(folder) == {"a": b"one", "sub/b": b"two \xff latin"}


def test_what_is_named_itself_is_taken_as_it_is(tmp_path):
    folder = fill(tmp_path, bytes=b"\0\1\2", other__bytes=b"again")
    (tmp_path / "link").symlink_to(folder / "bytes")
    assert own(tmp_path / "link") == {"link": b"\0\1\2"}
    assert own(folder / "bytes", folder / "other") == {"bytes": b"\0\1\2", f"{folder}/other/bytes": b"again"}


def test_no_more_is_read_than_a_corpus_needs(tmp_path):
    folder = fill(tmp_path / "d", **{f"f{number}": b"x" * 1000 for number in range(50)})
    assert own(folder, most_bytes=4000).keys() == set(in_order([f"f{number}" for number in range(50)], 0)[:5])
    assert len(own(folder / "f1", most_bytes=400)["f1"]) == 400


@pytest.mark.parametrize("texts", [{}, {"a": b"\0", "_dot_b": b"hidden"}])
def test_a_folder_without_text_is_refused(tmp_path, texts):
    fill(tmp_path / "d", **texts).mkdir(exist_ok=True)
    with pytest.raises(ConfigError, match=r"corpus\.paths=.*/d: there is no text in it; as in: .*corpus\.paths=\[FILE"):
        own(tmp_path / "d")


@pytest.mark.parametrize("path", ["nowhere", "nul\0byte", "/dev/zero", "a" * 5000])
def test_what_cannot_be_read_is_named(path):
    with pytest.raises(ConfigError, match=r"corpus\.paths=.*cannot be read") as caught:
        own(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["d", "d/a"])
def test_what_may_not_be_read_is_named(tmp_path, name):
    folder = fill(tmp_path / "d", a=b"one")
    (tmp_path / name).chmod(0)
    try:
        with pytest.raises(ConfigError, match=r"cannot be read \(Permission denied\)"):
            own(folder)
    finally:
        (tmp_path / name).chmod(0o700)
