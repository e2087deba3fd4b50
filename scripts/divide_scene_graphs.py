"""Divides the scene graphs that `scenerank synth` wrote into Visual Genome's two files:

    scripts/divide_scene_graphs.py raw/scene_graphs.json FOLDER [--shuffle]

writes FOLDER/objects.json and FOLDER/relationships.json, the latter in another order with --shuffle. The relationships are held in
memory.
"""

import os
import random
import sys

BEGIN = '{"image_id":'


def images(path):
    """The text of each image behind BEGIN, and what separates it from the next image."""
    rest = ""
    with open(path) as file:
        while part := file.read(1 << 24):
            *whole, rest = (rest + part).split(BEGIN)
            yield from whole
    yield rest


scene_graphs, folder = sys.argv[1:3]
os.makedirs(folder, exist_ok=True)
relationships = []
with open(f"{folder}/objects.json", "w") as file:
    for number, text in enumerate(images(scene_graphs)):
        if number == 0:
            # Nothing but the bracket lies before the first image.
            continue
        image, rest = text.rstrip(",]\n ").split(',"objects":')
        objects, related = rest.split(',"relationships":')
        file.write(f'{"," if number > 1 else "["}\n{BEGIN}{image},"objects":{objects}}}')
        relationships.append(f'{BEGIN}{image},"relationships":{related}')
    file.write("]\n")
if "--shuffle" in sys.argv[3:]:
    random.Random(1).shuffle(relationships)
with open(f"{folder}/relationships.json", "w") as file:
    file.write("[" + ",\n".join(relationships) + "]\n")
