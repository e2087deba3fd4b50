"""Writes graphs as pyarrow and polars write them: write.py GRAPHS.jsonl FOLDER.

Prints the names of the files with the graphs of all lines (`same`), of those with a part of them, by first and last line (`parts`),
and of those that must be refused, with a part of the message (`refused`). Without polars its files are missing.
"""

import json
import sys

import pyarrow as pa
from pyarrow import feather

ROWS_OF_A_BATCH = 4

graphs = [json.loads(line) for line in open(sys.argv[1])]
folder = sys.argv[2]
same, parts, refused = [], {}, {}
ids = [graph["image_id"] for graph in graphs]
objects = [graph["objects"] for graph in graphs]
subjects, predicates, related = (
    [[relationship[part] for relationship in graph["relationships"]] for graph in graphs] for part in range(3)
)
structs = [
    [dict(zip(("subject", "predicate", "object"), relationship)) for relationship in graph["relationships"]]
    for graph in graphs
]


def path(name, names=same):
    names.append(name)
    return f"{folder}/{name}"


def table(of_list, text, position):
    end = pa.struct([("subject", position), ("predicate", text), ("object", position)])
    return pa.table(
        {
            "note": pa.array([None if at % 3 else at for at in range(len(ids))]),
            "image_id": pa.array(ids, pa.int64()),
            "relationships": pa.array(structs, of_list(end)),
            "objects": pa.array(objects, of_list(text)),
        }
    )


def stream(name, table, names=same, **options):
    options = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(path(name, names), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=ROWS_OF_A_BATCH)


def file(name, table, **options):
    with pa.ipc.new_file(path(name), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=ROWS_OF_A_BATCH)


# Small and large lists, every encoding of names, and several widths of positions.
small = table(pa.list_, pa.string(), pa.int8())
large = table(pa.large_list, pa.large_string(), pa.uint64())
views = table(pa.large_list, pa.string_view(), pa.uint16())
for name, made in [("small", small), ("large", large), ("views", views)]:
    stream(f"{name}.arrows", made)
    file(f"{name}.arrow", made)
    # Batches of a slice share its buffers; their first rows lie inside of them.
    parts[f"slice-{name}.arrows"] = [3, len(ids) - 1]
    stream(f"slice-{name}.arrows", made.slice(3, len(ids) - 4), [])
feather.write_feather(large, path("large.feather"), compression="uncompressed", chunksize=ROWS_OF_A_BATCH)

# Dictionaries: one for all batches, one per batch, and one that grows from batch to batch.
words = sorted({name for names in objects + predicates for name in names})
indices = {word: index for index, word in enumerate(words)}


def encoded(of_list, lists, dictionary):
    index = {word: at for at, word in enumerate(dictionary)}
    offsets = [0]
    for names in lists:
        offsets.append(offsets[-1] + len(names))
    flat = pa.array([index[name] for names in lists for name in names], pa.int16())
    values = pa.DictionaryArray.from_arrays(flat, pa.array(dictionary, pa.string()))
    return of_list.from_arrays(pa.array(offsets, of_list_type[of_list]), values)


of_list_type = {pa.ListArray: pa.int32(), pa.LargeListArray: pa.int64()}
starts = range(0, len(ids), ROWS_OF_A_BATCH)


def dictionaries(of_list, of_batch):
    """Batches with three lists each; `of_batch` gives the dictionary of a batch from its words and those before it."""
    batches, before = [], []
    for start in starts:
        rows = slice(start, start + ROWS_OF_A_BATCH)
        used = {name for names in objects[rows] + predicates[rows] for name in names}
        before = of_batch(sorted(used), before)
        columns = {
            "object": pa.array(related[rows], pa.list_(pa.int32())),
            "objects": encoded(of_list, objects[rows], before),
            "predicate": encoded(pa.ListArray, predicates[rows], before),
            "image_id": pa.array(ids[rows], pa.uint32()),
            "subject": pa.array(subjects[rows], pa.large_list(pa.int32())),
        }
        batches.append(pa.RecordBatch.from_pydict(columns))
    return pa.Table.from_batches(batches)


whole = dictionaries(pa.LargeListArray, lambda used, before: words)
stream("whole-dictionary.arrows", whole)
file("whole-dictionary.arrow", whole)
stream("replaced-dictionary.arrows", dictionaries(pa.ListArray, lambda used, before: used[::-1]))
growing = dictionaries(
    pa.LargeListArray, lambda used, before: before + [word for word in used if word not in before]
)
stream("delta-dictionary.arrows", growing, emit_dictionary_deltas=True)
file("delta-dictionary.arrow", growing, emit_dictionary_deltas=True)
file("unified-dictionary.arrow", growing, unify_dictionaries=True)

# Nulls whose places hold values: only the validity bitmap tells.
valid = [True] * len(ids)
valid[1] = False
null_ids = pa.array(ids, pa.int64(), mask=pa.array([not is_valid for is_valid in valid]).to_numpy(False))
bitmap = pa.array(valid).buffers()[1]
null_ids = pa.Array.from_buffers(pa.int64(), len(ids), [bitmap, pa.array(ids, pa.int64()).buffers()[1]])
for name, made in [("small", small), ("large", large)]:
    column = made["objects"].combine_chunks()
    offsets, values = column.buffers()[1], column.values
    null_list = pa.Array.from_buffers(column.type, len(ids), [bitmap, offsets], children=[values])
    of_text = values.buffers()
    of_names = pa.array([at != 1 for at in range(len(values))]).buffers()[1]
    null_names = pa.Array.from_buffers(values.type, len(values), [of_names] + of_text[1:])
    null_name = pa.Array.from_buffers(column.type, len(ids), [None, offsets], children=[null_names])
    for what, changed, array, message in [
        ("list", "objects", null_list, "batch 1, row 2: `objects` is null"),
        ("name", "objects", null_name, "batch 1, row 1: the name of object 2 is null"),
        ("id", "image_id", null_ids, "batch 1, row 2: `image_id` is null"),
    ]:
        at = made.schema.get_field_index(changed)
        refused[f"null-{what}-{name}.arrows"] = message
        stream(f"null-{what}-{name}.arrows", made.set_column(at, changed, array), [])

# Compressed columns.
for codec, message in [("lz4", "compressed with LZ4"), ("zstd", "compressed with zstd")]:
    refused[f"{codec}.arrows"] = message
    stream(f"{codec}.arrows", small, [], compression=codec)
    refused[f"{codec}.feather"] = message
    feather.write_feather(small, f"{folder}/{codec}.feather", compression=codec)

try:
    import polars
except ImportError:
    polars = None
if polars is not None:
    end = polars.Struct(
        {"subject": polars.Int64, "predicate": polars.String, "object": polars.Int64}
    )
    strings = polars.DataFrame(
        {"image_id": ids, "objects": objects, "relationships": structs},
        schema={"image_id": polars.UInt64, "objects": polars.List(polars.String), "relationships": polars.List(end)},
    )
    lists = {
        "image_id": polars.Int64,
        "subject": polars.List(polars.UInt32),
        "object": polars.List(polars.Int16),
    }
    columns = {
        "image_id": ids, "subject": subjects, "object": related, "objects": objects, "predicate": predicates
    }
    types = [
        ("categorical", polars.Categorical()),
        ("enum", polars.Enum(words)),
    ]
    frames = [("strings", strings)]
    for name, of_name in types:
        of_lists = {"objects": polars.List(of_name), "predicate": polars.List(of_name)}
        frames.append((name, polars.DataFrame(columns, schema=lists | of_lists)))
    for name, frame in frames:
        for level, compatible in [("newest", polars.CompatLevel.newest()), ("oldest", polars.CompatLevel.oldest())]:
            options = {"compression": "uncompressed", "compat_level": compatible}
            frame.write_ipc_stream(path(f"polars-{name}-{level}.arrows"), **options)
            of_file = f"polars-{name}-{level}.arrow"
            if name != "strings":
                # The dictionaries lie behind the batch that needs them; a reader of a stream cannot have them yet.
                refused[of_file] = "as a stream if it has dictionaries"
            frame.write_ipc(path(of_file, same if name == "strings" else []), **options)
        # Several chunks, and a slice.
        parts[f"polars-{name}-slice.arrows"] = [2, len(ids)]
        chunks = polars.concat([frame, frame.slice(3, 1)], rechunk=False).slice(2, len(ids) - 2)
        chunks.write_ipc_stream(f"{folder}/polars-{name}-slice.arrows", compression="uncompressed")
    for codec, message in [("lz4", "compressed with LZ4"), ("zstd", "compressed with zstd")]:
        refused[f"polars-{codec}.arrows"] = message
        strings.write_ipc_stream(f"{folder}/polars-{codec}.arrows", compression=codec)
        refused[f"polars-{codec}.arrow"] = message
        strings.write_ipc(f"{folder}/polars-{codec}.arrow", compression=codec)

print(json.dumps({"same": same, "parts": parts, "refused": refused}))
