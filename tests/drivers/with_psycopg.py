"""psycopg 3 with its defaults (it prepares a statement by itself at its sixth run) in transaction pooling."""

import asyncio
import datetime
import sys
import threading

import psycopg
from psycopg.types.json import Jsonb


def prepared_by_itself(conninfo):
    with psycopg.connect(conninfo) as connection:
        for number in range(30):
            with connection.transaction():
                row = connection.execute("SELECT %s::int + 1, %s::text", (number, "x" * number)).fetchone()
                assert row == (number + 1, "x" * number), row
        assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()[0] > 0


def autocommit_over_two_servers(conninfo):
    connections = [psycopg.connect(conninfo, autocommit=True) for _ in range(4)]
    for round in range(12):
        for number, connection in enumerate(connections):
            assert connection.execute("SELECT %s::int * 2", (number,), prepare=True).fetchone() == (number * 2,)
    for connection in connections:
        connection.close()


def types_and_errors(conninfo):
    with psycopg.connect(conninfo) as connection:
        values = (None, True, 2**40, 1.5, "naïve ✓", b"\x00\xff", datetime.date(2026, 1, 2), [1, 2], Jsonb({"a": [1]}))
        row = connection.execute(
            "SELECT %s::int, %s::bool, %s::int8, %s::float8, %s::text, %s::bytea, %s::date, %s::int[], %s::jsonb", values, binary=True
        ).fetchone()
        assert row == (None, True, 2**40, 1.5, "naïve ✓", b"\x00\xff", datetime.date(2026, 1, 2), [1, 2], {"a": [1]}), row
        try:
            connection.execute("SELECT 1/0")
            raise AssertionError("no error")
        except psycopg.errors.DivisionByZero:
            connection.rollback()
        try:
            with connection.transaction(), connection.transaction():
                connection.execute("SELECT nonsense")
        except psycopg.errors.UndefinedColumn:
            pass
        assert connection.execute("SELECT 1").fetchone() == (1,)


def copy_both_ways(conninfo):
    with psycopg.connect(conninfo) as connection:
        connection.execute("DROP TABLE IF EXISTS psycopg_copy")
        connection.execute("CREATE TABLE psycopg_copy (a int, b text)")
        with connection.cursor().copy("COPY psycopg_copy FROM STDIN") as copy:
            for number in range(10_000):
                copy.write_row((number, "row"))
        with connection.cursor().copy("COPY psycopg_copy TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 10_000
        connection.commit()


def pipelines(conninfo):
    with psycopg.connect(conninfo, autocommit=True) as connection:
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::int", (number,)) for number in range(1_000)]
        assert [cursor.fetchone()[0] for cursor in cursors] == list(range(1_000))
        try:
            with connection.pipeline():
                connection.execute("SELECT 1")
                connection.execute("SELECT 1/0")
                connection.execute("SELECT 2")
            raise AssertionError("no error")
        except psycopg.errors.DivisionByZero:
            pass
        assert connection.execute("SELECT 3").fetchone() == (3,)


def server_side_cursors(conninfo):
    with psycopg.connect(conninfo) as connection:
        with connection.cursor(name="many") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT generate_series(1, 1000)")
            assert sum(row[0] for row in cursor) == 500_500


def cancelling(conninfo):
    with psycopg.connect(conninfo, autocommit=True) as connection:
        timer = threading.Timer(0.3, connection.cancel_safe)
        timer.start()
        try:
            connection.execute("SELECT pg_sleep(60)")
            raise AssertionError("not cancelled")
        except psycopg.errors.QueryCanceled:
            pass
        timer.join()
        assert connection.execute("SELECT 4").fetchone() == (4,)


def many_at_once(conninfo):
    async def one(number):
        async with await psycopg.AsyncConnection.connect(conninfo) as connection:
            for round in range(20):
                async with connection.transaction():
                    cursor = await connection.execute("SELECT %s::int + %s::int", (number, round))
                    assert await cursor.fetchone() == (number + round,)

    async def all():
        await asyncio.gather(*(one(number) for number in range(20)))

    asyncio.run(all())


if __name__ == "__main__":
    for test in (prepared_by_itself, autocommit_over_two_servers, types_and_errors, copy_both_ways, pipelines,
                 server_side_cursors, cancelling, many_at_once):
        test(sys.argv[1])
        print("ok", test.__name__, flush=True)
