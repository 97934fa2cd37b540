"""xplique's Lime, asked by bench.explain: JSON lines in, JSON lines out.

Runs in an environment of its own, which bench/requirements-xplique.txt pins: xplique wants
older libraries than Limen. Imports nothing of Limen.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time

import numpy as np


def main() -> None:
    """Answer one request a line until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever is printed is no answer
    import tensorflow as tf
    from xplique.attributions import Lime

    for line in sys.stdin:
        asked = json.loads(line)
        tf.keras.utils.set_random_seed(1)
        model = getattr(tf.keras.applications, asked["network"])(weights=None)
        image = np.load(asked["image"])[None]
        target = np.eye(model.output_shape[-1], dtype=np.float32)[:1]
        explainer = Lime(model, batch_size=32, nb_samples=asked["samples"])
        with contextlib.redirect_stdout(sys.stderr):
            Lime(model, batch_size=32, nb_samples=32)(image, target)  # traces its graphs
            rows = []
            for _ in range(asked["rounds"]):
                cpu, wall = time.process_time(), time.perf_counter()
                explainer(image, target)
                rows.append((time.process_time() - cpu, time.perf_counter() - wall))
        cpu_s, wall_s = (statistics.median(part) for part in zip(*rows, strict=True))
        answers.write(json.dumps({"cpu_s": cpu_s, "wall_s": wall_s}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
