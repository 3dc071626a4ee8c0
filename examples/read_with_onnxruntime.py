"""Read a character without kkanji: onnxruntime, Pillow, NumPy, and the file of `kkanji export --onnx --output FOLDER`.

python examples/read_with_onnxruntime.py FOLDER/model.onnx crop.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map  # labels, licence, families, what the graph does to an image
for file in sys.argv[2:]:
    picture = ImageOps.exif_transpose(Image.open(file)).convert("RGBA")
    paper = Image.new("RGBA", picture.size, "white")
    gray = np.asarray(Image.alpha_composite(paper, picture).convert("L"))
    probabilities = session.run(None, {"images": gray[None, None]})[0][0]
    best = probabilities.argsort()[::-1][:5]
    for n in best:
        print(file, about["characters"][n], json.loads(about["labels"])[n], f"{probabilities[n]:.1%}")
