"""A block is as much work as may be lost."""

from __future__ import annotations

import json
from pathlib import Path

from icrkit_extractors import (
    _block_size,
)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.endswith("lock")}


def test_a_block_is_bounded_in_work_as_in_bytes(images, tmp_path, monkeypatch, go, Pixels):
    monkeypatch.setattr(_block_size, "_BLOCK_FORWARDS", 2 * 8 * 6)
    go(Pixels(), images, out=tmp_path / "a.cube", batch_size=8)
    assert [p.name for p in sorted((tmp_path / "a.cube").glob("part-*"))] == [f"part-0000{k}.h5" for k in range(3)]


def test_a_batch_of_wide_features_is_cut(images, tmp_path, monkeypatch, go, same, Pixels):
    """Memory holds a few blocks, whatever the batch."""
    whole = go(Pixels(), images)
    per_image = 4 * 6 * sum(whole.n_features.values())
    for bound, in_block in ((64 * per_image, 64), (64 * per_image - 1, 32), (5 * per_image, 4), (1, 1)):
        monkeypatch.setattr(_block_size, "_BLOCK_BYTES", bound)
        monkeypatch.setattr(_block_size, "_BATCH_BYTES", bound)
        folder = tmp_path / f"{bound}.cube"
        same(go(Pixels(), images, out=folder, batch_size=64), whole)
        assert json.loads((folder / "cube.json").read_text())["block_size"] == in_block


class Slow:
    """A clock in which every forward pass of one image takes a second."""

    now = 0.0

    def perf_counter(self):
        return self.now


def test_a_block_is_bounded_in_time(images, tmp_path, monkeypatch, go, same, Pixels):
    clock = Slow()
    monkeypatch.setattr("time.perf_counter", clock.perf_counter)

    class Timed(Pixels):
        def __call__(self, x, conditioning):
            clock.now += len(x)
            return super().__call__(x, conditioning)

    whole = go(Timed(), images)
    # 6 s an image at 2 views and 3 levels: 180 s are 30 images, 7 batches of 4, and 4 of them a power of two.
    for batch_size, in_block in ((4, 16), (64, 16)):
        folder = tmp_path / f"{batch_size}.cube"
        same(go(Timed(), images, out=folder, batch_size=batch_size), whole)
        assert json.loads((folder / "cube.json").read_text())["block_size"] == in_block
        before = files(folder)
        (folder / "part-00001.h5").unlink()
        same(go(Pixels(), images, out=folder, batch_size=batch_size), whole)  # a fast one keeps the blocks
        assert files(folder) == before


def test_a_fast_network_is_not_timed(images, tmp_path, go, Pixels):
    counted = Pixels()
    go(counted, images, out=tmp_path / "a.cube")
    assert counted.calls == 1 + 3 * 6
