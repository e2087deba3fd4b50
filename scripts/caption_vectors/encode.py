"""Caption vectors by a sentence encoder, to supervise `scenerank train --caption-vectors` instead of GloVe.

    scenerank inspect vg.data --captions captions.jsonl
    python scripts/caption_vectors/encode.py captions.jsonl caption_vectors.npy --model all-MiniLM-L6-v2
    scenerank train vg.data --out runs/minilm --caption-vectors caption_vectors.npy

Needs sentence-transformers. The model is a name or a folder, as SentenceTransformer takes it. A row is the mean of the unit
vectors of an image's captions, so that the inner product of two rows is the mean cosine over all pairs of their captions.
"""

import argparse
import json

import numpy as np
from sentence_transformers import SentenceTransformer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("captions", help="file written by `scenerank inspect --captions`")
parser.add_argument("out", help=".npy file to write, [images, d] in single precision")
parser.add_argument("--model", default="all-MiniLM-L6-v2")
parser.add_argument("--batch-size", type=int, default=128)
arguments = parser.parse_args()

with open(arguments.captions, encoding="utf-8") as lines:
    images = [json.loads(line)["captions"] for line in lines]
counts = [len(captions) for captions in images]
if not images or min(counts) == 0:
    parser.error(f"{arguments.captions}: no images, or one without a caption; write it again by `scenerank inspect`")

model = SentenceTransformer(arguments.model)
vectors = model.encode(
    [caption.strip() for captions in images for caption in captions],
    batch_size=arguments.batch_size,
    normalize_embeddings=True,
    show_progress_bar=True,
)
starts = np.cumsum([0] + counts[:-1])
means = np.add.reduceat(vectors.astype(np.float64), starts, axis=0) / np.array(counts)[:, None]
np.save(arguments.out, means.astype(np.float32))
print(f"{arguments.out}: {len(images)} images of {means.shape[1]} values")
