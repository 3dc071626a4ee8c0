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
    probabilities, *judged = (output[0] for output in session.run(None, {"images": gray[None, None]}))
    for n in probabilities.argsort()[::-1][:5]:
        print(file, about["characters"][n], json.loads(about["labels"])[n], f"{probabilities[n]:.1%}")
    if judged and judged[0] >= float(about["unknown_threshold"]):  # a model with an index of neighbours judges
        print(file, "probably none of these:", json.loads(about["unknown_reasons"])[judged[1].argmax()])
