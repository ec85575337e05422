// node-postgres with its defaults in transaction pooling.
"use strict";

const assert = require("node:assert");
const { Client, Pool } = require("pg");
const Cursor = require("pg-cursor");

const connectionString = process.argv[2];

async function connected(work) {
  const client = new Client({ connectionString });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}

const tests = {
  async simpleAndParameters(client) {
    assert.strictEqual((await client.query("SELECT 1 AS one")).rows[0].one, 1);
    const { rows } = await client.query("SELECT $1::int + 1 AS a, $2::text AS b, $3::jsonb AS c", [41, "naïve ✓", { x: [1] }]);
    assert.deepStrictEqual(rows, [{ a: 42, b: "naïve ✓", c: { x: [1] } }]);
  },
  async namedStatements(client) {
    for (let number = 0; number < 30; number++) {
      const { rows } = await client.query({ name: "double", text: "SELECT $1::int * 2 AS a", values: [number] });
      assert.strictEqual(rows[0].a, number * 2);
    }
  },
  async transactions(client) {
    await client.query("DROP TABLE IF EXISTS node_rows");
    await client.query("CREATE TABLE node_rows (a int)");
    await client.query("BEGIN");
    await client.query("INSERT INTO node_rows VALUES ($1)", [1]);
    await assert.rejects(client.query("SELECT 1/0"), { code: "22012" });
    await client.query("ROLLBACK");
    assert.strictEqual((await client.query("SELECT count(*)::int AS n FROM node_rows")).rows[0].n, 0);
  },
  async errorsThenGoOn(client) {
    await assert.rejects(client.query({ name: "bad", text: "SELECT nonsense" }), { code: "42703" });
    await assert.rejects(client.query({ name: "bad2", text: "SELECT $1::int", values: ["x"] }), { code: "22P02" });
    assert.strictEqual((await client.query("SELECT 2 AS a")).rows[0].a, 2);
  },
  async queuedQueries(client) {
    const answers = await Promise.all(Array.from({ length: 200 }, (_, number) => client.query("SELECT $1::int AS a", [number])));
    assert.deepStrictEqual(answers.map((answer) => answer.rows[0].a), Array.from({ length: 200 }, (_, number) => number));
  },
  async cursors(client) {
    const cursor = client.query(new Cursor("SELECT generate_series(1, 250) AS a"));
    let total = 0;
    for (let rows = await cursor.read(100); rows.length; rows = await cursor.read(100)) total += rows.length;
    await cursor.close();
    assert.strictEqual(total, 250);
    assert.strictEqual((await client.query("SELECT 3 AS a")).rows[0].a, 3);
  },
  async notifications(client) {
    const heard = new Promise((resolve) => client.once("notification", (message) => resolve(message.payload)));
    await client.query("LISTEN news");
    await connected((other) => other.query("SELECT pg_notify('news', 'hello')"));
    assert.strictEqual(await heard, "hello");
  },
};

async function manyAtOnce() {
  const pool = new Pool({ connectionString, max: 12 });
  const query = (number) => pool.query({ name: "pooled", text: "SELECT $1::int + 1 AS a", values: [number] });
  const answers = await Promise.all(Array.from({ length: 300 }, (_, number) => query(number)));
  answers.forEach((answer, number) => assert.strictEqual(answer.rows[0].a, number + 1));
  await pool.end();
}

(async () => {
  for (const [name, test] of Object.entries(tests)) {
    await connected(test);
    console.log("ok", name);
  }
  await manyAtOnce();
  console.log("ok manyAtOnce");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
