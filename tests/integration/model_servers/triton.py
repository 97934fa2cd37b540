"""A Triton that runs the models of a test: PORT; run by a Python that has nvidia-pytriton."""

import sys
import threading

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


@batch
def blood(image: np.ndarray) -> list[np.ndarray]:
    level = image[..., 0].mean(axis=(1, 2), dtype=np.float64)
    return [(1 / (1 + np.exp(8 - 16 * level)))[:, None].astype(np.float32)]


@batch
def two(zeta: np.ndarray, alpha: np.ndarray) -> list[np.ndarray]:
    level = 6 * zeta.mean(axis=(1, 2, 3), dtype=np.float64)
    level -= 9 * alpha.mean(axis=(1, 2, 3), dtype=np.float64)
    return [(1 / (1 + np.exp(level)))[:, None].astype(np.float32)]


port = int(sys.argv[1])
place = {"http_address": "127.0.0.1", "grpc_address": "127.0.0.1"}
config = TritonConfig(http_port=port, grpc_port=port + 1, allow_metrics=False, **place)
with Triton(config=config) as server:
    server.bind(
        model_name="blood",
        infer_func=blood,
        inputs=[Tensor(name="image", dtype=np.float32, shape=(64, 64, 3))],
        outputs=[Tensor(name="p", dtype=np.float32, shape=(1,))],
        config=ModelConfig(max_batch_size=32),
    )
    server.bind(
        model_name="two",
        infer_func=two,
        inputs=[
            Tensor(name="zeta", dtype=np.float32, shape=(64, 64, 1)),
            Tensor(name="alpha", dtype=np.float32, shape=(64, 64, 2)),
        ],
        outputs=[Tensor(name="p", dtype=np.float32, shape=(1,))],
        config=ModelConfig(max_batch_size=32),
    )
    server.run()
    threading.Event().wait(300)
