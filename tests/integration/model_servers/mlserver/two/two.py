"""A model of two inputs, as MLServer runs it."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Two(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        level = {
            each.name: NumpyCodec.decode_input(each).mean(axis=(1, 2, 3), dtype=np.float64)
            for each in payload.inputs
        }
        found = 1 / (1 + np.exp(6 * level["zeta"] - 9 * level["alpha"]))
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output("p", found[:, None].astype(np.float32))],
        )
