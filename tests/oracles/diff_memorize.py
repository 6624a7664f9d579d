"""Numbers of DiffMemorize for the nearest-neighbour ratio of pixels; run by hand.

    git clone https://github.com/sail-sg/DiffMemorize
    git -C DiffMemorize checkout 39efb7c13895c64a98b250ed72287e27765fd268
    pip install torch pillow click tqdm scipy requests
    PYTHONPATH=DiffMemorize python tests/oracles/diff_memorize.py

Its images are files, written here into a temporary folder; it is given the processor as its device. The share is its
expression, ``knn_distance[:, 0] / knn_distance[:, 1] < 1/3``; its distances are per pixel, divided by sqrt(3 h w).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

COMMIT = "39efb7c13895c64a98b250ed72287e27765fd268"
INPUT = """\
import numpy as np
rng = np.random.default_rng(0)
training = rng.integers(0, 256, (60, 3, 4, 4), dtype=np.uint8)
noise = rng.standard_normal((80, 3, 4, 4)) * rng.uniform(0, 80, (80, 1, 1, 1))
generated = np.clip(np.rint(training[rng.integers(0, 60, 80)] + noise), 0, 255).astype(np.uint8)
"""


def main() -> None:
    import numpy as np
    import torch
    from mem_ratio import calculate_knn_stats
    from PIL import Image

    scope: dict[str, Any] = {}
    exec(INPUT, scope)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(scope["generated"]):
            Image.fromarray(image.transpose(1, 2, 0)).save(Path(folder) / f"{i:04d}.png")
        training = torch.from_numpy(scope["training"]).to(torch.float32)
        distance, index = calculate_knn_stats(folder, training, num_workers=1, device=torch.device("cpu"))
    numbers = {
        "memorize_ratio": float(np.mean(distance[:, 0] / distance[:, 1] < 1 / 3)),
        "mean of knn_distance[:, 0]": float(distance[:, 0].mean(dtype=np.float64)),
        "knn_index[:, 0]": index[:, 0].tolist(),
    }
    oracle = {"peer": "DiffMemorize", "commit": COMMIT, "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(oracle, indent=1) + "\n")


if __name__ == "__main__":
    main()
