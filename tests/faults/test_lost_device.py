"""I3, I10: a device that is lost ends its worker; the next one finishes the study."""

from __future__ import annotations

from pathlib import Path

from models.ich.phantom import DemoStudy
from tests.support.node import Node, copy_study, until

BREAKS = """
import sys
from pathlib import Path
if sys.orig_argv[1:3] == ["-m", "worker"]:
    from worker.serving.backends import openvino, tensorflow
    def with_a_switch(original):
        def predict(self, batch):
            if Path({switch!r}).exists():
                raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")
            return original(self, batch)
        return predict
    for backend in (openvino.OpenVINO, tensorflow.TensorFlow):
        backend.predict = with_a_switch(backend.predict)
"""


def test_a_worker_whose_device_is_lost_ends_and_the_next_one_finishes_its_study(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    switch, site = tmp_path / "the device is gone", tmp_path / "site"
    site.mkdir()
    own_folder.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(BREAKS.format(switch=str(switch)), "utf-8")
    sources = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))
    uid, files = copy_study(sources, tmp_path / "study")
    node = Node(own_folder, PYTHONPATH=str(site))
    try:
        node.start()
        assert node.supervisor is not None
        worker = node.supervisor._children["worker"].process
        switch.touch()
        node.send(files)
        code = until(worker.poll, 60, "the worker to end", node.tell)
        assert code == 70, node.tell()
        assert "engine.lost" in node.logs()
        assert "worker.lost_its_device" in node.logs()
        switch.unlink()
        node.stop()
        node.start()
        row = node.finished(uid)
        assert row.outcome == "negative", node.tell()
        assert row.instances == len(files)
    finally:
        node.close()
