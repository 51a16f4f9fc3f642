"""What comes after training, in `model/vision/serve.py`: the pictures of the results page."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from model.vision.params import Params
from model.vision.serve import fetch_inputs
from utils import InputError


def test_images_are_found_in_every_layout(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "test.npz", images=pixels, labels=np.arange(3))
    (tmp_path / "folders/test/cat").mkdir(parents=True)
    Image.new("RGB", (400, 200), "red").save(tmp_path / "folders/test/cat/large.png")
    (tmp_path / "folders/test/cat/broken.jpg").write_bytes(b"no image")
    found = fetch_inputs(["test[2]", "test[7]"], "test", tmp_path, Params())
    assert list(found) == ["test[2]"] and np.array_equal(np.asarray(found["test[2]"]["image"]), pixels[2])
    assert "source" not in found["test[2]"]
    assert fetch_inputs([], "test", tmp_path / "folders", Params()) == {}  # the page of a run without mistakes
    found = fetch_inputs(["cat/large.png", "cat/broken.jpg"], "test", tmp_path / "folders", Params())
    assert {name: entry["image"].size for name, entry in found.items()} == {"cat/large.png": (128, 64)}
    assert found["cat/large.png"]["source"] == tmp_path / "folders/test/cat/large.png"
    (tmp_path / "test.npz").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"test\.npz: expected `images`"):
        fetch_inputs(["test[2]"], "test", tmp_path, Params())


def test_serve_imports_no_torch(project):
    code = "import sys, model.vision.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=project).returncode == 0
