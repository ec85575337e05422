"""asyncpg with its defaults (it prepares every statement and keeps it) in transaction pooling."""

import asyncio
import sys

import asyncpg


async def prepared_by_itself(url):
    connection = await asyncpg.connect(url)
    for number in range(30):
        assert await connection.fetchval("SELECT $1::int + 1", number) == number + 1
        assert await connection.fetchval("SELECT upper($1)", "x") == "X"
    await connection.close()


async def transactions(url):
    connection = await asyncpg.connect(url)
    await connection.execute("DROP TABLE IF EXISTS asyncpg_rows; CREATE TABLE asyncpg_rows (a int)")
    async with connection.transaction():
        await connection.executemany("INSERT INTO asyncpg_rows VALUES ($1)", [(number,) for number in range(1_000)])
    try:
        async with connection.transaction():
            await connection.execute("DELETE FROM asyncpg_rows")
            async with connection.transaction():
                await connection.execute("SELECT 1/0")
    except asyncpg.DivisionByZeroError:
        pass
    assert await connection.fetchval("SELECT count(*) FROM asyncpg_rows") == 1_000
    async with connection.transaction():
        total = 0
        async for row in connection.cursor("SELECT a FROM asyncpg_rows", prefetch=50):
            total += row["a"]
        assert total == 499_500
    await connection.close()


async def types_and_errors(url):
    connection = await asyncpg.connect(url)
    row = await connection.fetchrow("SELECT $1::jsonb AS j, $2::int[] AS a, $3::numeric AS n, $4::text AS t", '{"a": 1}', [1, None], 5, None)
    assert (row["j"], row["a"], row["n"], row["t"]) == ('{"a": 1}', [1, None], 5, None)
    for wrong in ("SELECT nonsense", "SELEC 1", "SELECT * FROM missing_table"):
        for _ in range(2):
            try:
                await connection.fetch(wrong)
                raise AssertionError("no error")
            except (asyncpg.UndefinedColumnError, asyncpg.PostgresSyntaxError, asyncpg.UndefinedTableError):
                pass
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def copies(url):
    connection = await asyncpg.connect(url)
    await connection.execute("DROP TABLE IF EXISTS asyncpg_copy; CREATE TABLE asyncpg_copy (a int, b text)")
    tag = await connection.copy_records_to_table("asyncpg_copy", records=[(number, "row") for number in range(5_000)])
    assert tag == "COPY 5000", tag
    assert await connection.fetchval("SELECT count(*) FROM asyncpg_copy") == 5_000
    await connection.close()


async def cancelling(url):
    connection = await asyncpg.connect(url)
    try:
        await connection.fetch("SELECT pg_sleep(60)", timeout=0.3)
        raise AssertionError("not cancelled")
    except asyncio.TimeoutError:
        pass
    assert await connection.fetchval("SELECT 4") == 4
    await connection.close()


async def its_own_pool(url):
    # More clients than servers; releasing a connection resets it.
    async with asyncpg.create_pool(url, min_size=2, max_size=12) as pool:
        async def one(number):
            async with pool.acquire() as connection, connection.transaction():
                return await connection.fetchval("SELECT $1::int * 2", number)

        assert await asyncio.gather(*(one(number) for number in range(300))) == [number * 2 for number in range(300)]


async def notifications(url):
    connection = await asyncpg.connect(url)
    heard = asyncio.get_running_loop().create_future()
    await connection.add_listener("news", lambda *message: heard.set_result(message[3]))
    other = await asyncpg.connect(url)
    await other.execute("NOTIFY news, 'hello'")
    assert await asyncio.wait_for(heard, 10) == "hello"
    await connection.close()
    await other.close()


async def main(url):
    for test in (prepared_by_itself, transactions, types_and_errors, copies, cancelling, its_own_pool, notifications):
        await test(url)
        print("ok", test.__name__, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
