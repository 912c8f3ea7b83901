"""LitServe, one worker, as its guide has it: ``MODEL=model.pkl python with_litserve.py PORT``."""

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import litserve as ls
import pandas as pd


class Rows(ls.LitAPI):
    def setup(self, device: str) -> None:
        del device
        self.model = pickle.loads(Path(os.environ["MODEL"]).read_bytes())

    def decode_request(self, request: dict[str, Any]) -> Any:
        return pd.DataFrame([request])

    def predict(self, x: Any) -> Any:
        return self.model.predict(x)

    def encode_response(self, output: Any) -> dict[str, int]:
        return {"prediction": int(output[0])}


if __name__ == "__main__":
    server = ls.LitServer(Rows(), accelerator="cpu", workers_per_device=1)
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="warning", num_api_servers=1
    )
