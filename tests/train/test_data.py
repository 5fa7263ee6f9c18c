# SPDX-License-Identifier: Apache-2.0
"""The corpus: any folder, split by content, batches from (seed, step) alone."""

import hashlib
import zlib

import numpy as np
import pytest

from orthoptax.train import data
from orthoptax.train.config import UsageError

FILES = [f"content {i} ".encode() * (i + 3) for i in range(60)]


def test_smallest_hashes_validate_and_nothing_is_lost():
    corpus = data.split(FILES)
    ordered = sorted(FILES, key=lambda c: hashlib.sha256(c).digest())
    assert corpus.validation.tobytes() == b"".join(ordered[:3])  # 5% of 60
    assert corpus.train.tobytes() == b"".join(ordered[3:])
    assert corpus.files == 60


def test_order_of_files_does_not_matter_and_content_does():
    assert data.split(FILES).sha256 == data.split(FILES[::-1]).sha256
    assert data.split(FILES).sha256 != data.split([*FILES[1:], b"other"]).sha256


def test_equal_files_count_once():
    assert data.split(FILES + FILES).sha256 == data.split(FILES).sha256
    assert data.split(FILES + FILES).train.size == data.split(FILES).train.size


def test_names_and_places_do_not_matter(tmp_path):
    for name, order in (("a", FILES), ("b", FILES[::-1])):
        for i, content in enumerate(order):
            path = tmp_path / name / f"{i % 5}" / f"{i}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    first, second = data.read(tmp_path / "a"), data.read(tmp_path / "b")
    assert first.sha256 == second.sha256 == data.split(FILES).sha256
    assert first.train.tobytes() == second.train.tobytes()


def test_hidden_binary_and_installed_files_are_left_out(tmp_path):
    for name in (".git/x", "site-packages/y.py", "__pycache__/z", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no")
    (tmp_path / "binary").write_bytes(b"\x89PNG\0")
    (tmp_path / "text").write_bytes(b"yes" * 10)
    assert data.read(tmp_path).files == 1


def test_one_file_is_cut():
    corpus = data.split([b"0123456789"])
    assert corpus.train.tobytes() == b"012345678"
    assert corpus.validation.tobytes() == b"9"


def test_standard_library_is_the_default():
    corpus = data.read(None)
    assert corpus.files > 500
    assert b"def " in corpus.validation.tobytes()
    assert 0.01 < corpus.validation.size / corpus.train.size < 0.2


@pytest.mark.parametrize("make", [True, False])
def test_empty_or_missing_folder_is_a_usage_error(tmp_path, make):
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()
        (folder / "empty.txt").touch()
    wrong = "holds no text" if make else "does not exist"
    with pytest.raises(
        UsageError, match=rf"^orthoptax: .*{wrong}\. Expected .* Change"
    ):
        data.read(folder)


def test_too_little_text_is_a_usage_error():
    with pytest.raises(UsageError, match="validation part of the data has 1 bytes"):
        data.check_length(data.split([b"0123456789"]), 4)


def test_batches_are_a_function_of_seed_and_step():
    corpus = data.split(FILES).train
    batch = data.batch(corpus, 3, 7, (4, 16))
    assert batch.shape == (4, 17)
    assert batch.dtype == np.uint8
    assert np.array_equal(batch, data.batch(corpus, 3, 7, (4, 16)))
    assert not np.array_equal(batch, data.batch(corpus, 3, 8, (4, 16)))
    assert not np.array_equal(batch, data.batch(corpus, 4, 7, (4, 16)))
    assert all(row.tobytes() in corpus.tobytes() for row in batch)


def test_batches_reach_both_ends():
    corpus = np.arange(20, dtype=np.uint8)
    drawn = np.concatenate([data.batch(corpus, 0, s, (8, 4)) for s in range(20)])
    assert drawn.min() == 0
    assert drawn.max() == 19


def test_windows_span_the_data():
    windows = data.windows(np.arange(100, dtype=np.uint8), 4, 9)
    assert windows.shape == (4, 10)
    assert windows[0, 0] == 0
    assert windows[-1, -1] == 99
    assert np.array_equal(windows[:, 9] - windows[:, 0], [9] * 4)


def test_zlib_bits():
    text = np.frombuffer(b"spam and eggs " * 50, np.uint8)
    expected = len(zlib.compress(text.tobytes(), level=9)) * 8 / 700
    assert data.zlib_bits(text) == expected
