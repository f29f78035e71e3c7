import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers

from esper.errors import ConfigError
from esper.tasks.text.tokenizer import get_tokenizer
from esper.tasks.text.training import train_tokenizer

ROOT = Path(__file__).resolve().parents[3]
TEXT = "The <eos> of a text, <think> twice: naïve 日本 🎉\n\ttab\x00nul and  spaces"


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    path = tmp_path_factory.mktemp("prose") / "prose.txt"
    path.write_text("the cat sat on the mat; the other cat sat on the other mat\n" * 30)
    return str(path)


@pytest.fixture(scope="module")
def trained(prose, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(train_tokenizer([prose], 300)[0])
    return path


def written(path, made):
    path.write_text(made.to_str())
    return get_tokenizer(str(path))


def test_bytes_are_256_and_eight_specials():
    tokenizer = get_tokenizer()
    specials = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert specials == (256, 257, 258)
    assert (tokenizer.think_token_id, tokenizer.end_think_token_id, tokenizer.vocab_size) == (259, 260, 264)
    assert tokenizer.token_bytes.tolist() == [1] * 256 + [0] * 8
    assert (tokenizer.name, len(tokenizer.sha256)) == ("bytes", 64)
    assert tokenizer.encode("aé") == [97, 195, 169]
    assert tokenizer.decode([257, 97, 259, 195, 169, 260, 258, 263]) == "aé"


def test_bytes_lose_nothing_of_any_file():
    tokenizer, every = get_tokenizer("bytes"), bytes(range(256))
    stream = tokenizer.encode_bytes(every)
    assert stream.dtype == torch.int32 and stream.tolist() == list(every)
    text = tokenizer.decode(stream)
    assert text.encode("utf-8", "surrogateescape") == every
    assert tokenizer.encode(text) == list(every)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


@pytest.mark.parametrize("ids", [[264], [-1], [97, 1 << 40]])
def test_an_id_that_there_is_not_is_refused(ids):
    with pytest.raises(ConfigError, match=r"token -?\d+: expected 0 to 263, as tokenizer=bytes has them"):
        get_tokenizer().decode(ids)


@pytest.mark.slow
def test_another_process_has_the_same_tokenizers_and_without_the_library_bytes_alone(trained):
    program = (
        "import sys\n"
        "from esper.errors import ConfigError\n"
        "from esper.tasks.text.tokenizer import get_tokenizer\n"
        "of_file = get_tokenizer(sys.argv[1])\n"
        "print(get_tokenizer().sha256, of_file.sha256, of_file.encode('the cat'))\n"
        "sys.modules['tokenizers'] = None  # what importing a missing package comes to\n"
        "assert get_tokenizer().encode('a') == [97]\n"
        "try: get_tokenizer(sys.argv[1])\n"
        "except ConfigError as error: print(error)\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, str(trained)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    own = get_tokenizer(str(trained))
    told = f"{get_tokenizer().sha256} {own.sha256} {own.encode('the cat')}"
    assert done.stdout.splitlines() == [told, "tokenizer files need a library: pip install 'esper[tokenizers]'"], (
        done.stderr
    )


def test_a_trained_file_loses_nothing_and_never_reads_text_as_a_special(trained):
    tokenizer = get_tokenizer(str(trained))
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert int(tokenizer.token_bytes[ids].sum()) == len(TEXT.encode())
    specials = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    specials |= {tokenizer.think_token_id, tokenizer.end_think_token_id}
    assert len(specials) == 5 and not specials & set(ids)
    assert not tokenizer.token_bytes[sorted(specials)].any()
    assert tokenizer.decode([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]) == TEXT
    assert len(tokenizer.encode("the other cat")) < 13


def test_the_same_text_trains_the_same_file(prose, trained):
    assert train_tokenizer([prose], 300)[0] == trained.read_bytes()
    assert train_tokenizer([prose], 270)[0] != trained.read_bytes()
    assert get_tokenizer(str(trained)).vocab_size <= 300


def test_text_that_is_no_utf8_is_replaced_where_a_file_cannot_say_it(trained):
    tokenizer = get_tokenizer(str(trained))
    stream = tokenizer.encode_bytes(b"cat \xff\xfe mat")
    assert stream.dtype == torch.int32
    assert tokenizer.decode(stream) == "cat \ufffd\ufffd mat"


def test_bytes_of_text_are_counted_of_tokens_with_marks_for_spaces(tmp_path):
    vocab = [("<s>", 0.0), ("</s>", 0.0), ("▁the", -1.0), ("▁cat", -1.0), ("s", -2.0), ("▁", -3.0)]
    made = tokenizers.Tokenizer(models.Unigram([*vocab, *((f"<0x{n:02X}>", -9.0) for n in range(256))], 0, True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")])
    made.add_special_tokens(["<s>", "</s>"])
    tokenizer = written(tmp_path / "unigram.json", made)
    text = " the cats the é日"
    assert int(tokenizer.token_bytes[tokenizer.encode(text)].sum()) == len(text.encode())
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 1)
    assert tokenizer.think_token_id is None and tokenizer.end_think_token_id is None


def test_what_a_file_would_cut_or_fill_up_is_left_whole(tmp_path):
    vocab = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "cat": 4, "##s": 5}
    made = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    made.normalizer = normalizers.Lowercase()
    made.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    made.enable_truncation(3)
    made.enable_padding(length=12)
    tokenizer = written(tmp_path / "wordpiece.json", made)
    assert tokenizer.encode("cats Cat cats cat") == [4, 5, 4, 4, 5, 4]
    assert tokenizer.token_bytes.tolist() == [0, 0, 0, 0, 4, 1]  # with the space before a word
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def _bpe(**model):
    return json.dumps({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, **model}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no tokenizer file"),
        (b"\xff\xfe\x00", "no tokenizer file"),
        (b"[]", "it has no model"),
        (b'{"model": 3}', "it has no model"),
        (b'{"model": {"type": "BPE"}}', "no tokenizer file"),
        (b'{"model": ' + b"[" * 5000, "no tokenizer file"),
        (_bpe(merges=["a b"]).encode(), "which are not all in its vocabulary"),
        (_bpe(merges=[["a", "a"]]).encode(), "which are not all in its vocabulary"),
        (_bpe(merges=[7]).encode(), "merges what is no pair"),
        (_bpe(merges=[], vocab={}).encode(), "it has 0 tokens"),
        (_bpe(merges=[], vocab={"a": (1 << 32) - 1}).encode(), "tokens; expected 1 to 16,777,216"),
        (_bpe(merges=[]).encode(), "no token in it ends a text"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_file_that_is_none_is_answered_in_a_line_or_two(tmp_path, content, said):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        get_tokenizer(str(path))
    assert str(caught.value).startswith(f"tokenizer={path}: ") and len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("name", ["nowhere.json", ".", "/dev/zero", "nul\0byte", ""])
def test_what_is_no_file_is_answered_with_what_is_expected(name):
    with pytest.raises(ConfigError, match=r"cannot be read.*\n.*esper tokenizer train"):
        get_tokenizer(name)


def test_there_is_one_class_of_tokenizer_in_the_project():
    found = []
    for path in sorted(
        path for room in ("esper", "tests", "scripts", "benchmarks") for path in ROOT.glob(f"{room}/**/*.py")
    ):
        source = path.read_text()
        if not re.search(r"class \w*okenizer|def decode", source):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
                speaks = {"encode", "decode"} <= methods and "token" in (ast.get_source_segment(source, node) or "")
                if speaks or node.name.lower().endswith("tokenizer"):
                    found.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert found == ["esper/tasks/text/tokenizer.py: Tokenizer"]
