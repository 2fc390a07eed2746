// better-auth's API-key plugin in-process, compared with node-postgres that calls keysmith.
// Reads a command per line, answers each with a line of JSON. PGHOST and the other libpq
// variables say where to connect.

import { createInterface } from "node:readline";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { apiKey } from "@better-auth/api-key";
import pg from "pg";

const AT_ONCE = 8;

const pool = new pg.Pool({ max: AT_ONCE });
const auth = betterAuth({
  baseURL: "http://localhost",
  secret: "a secret of benchmarks, long enough",
  database: pool,
  logger: { disabled: true },
  telemetry: { enabled: false },
  emailAndPassword: { enabled: true },
  // Its default is ten requests a day. Without limits it does less work per request.
  plugins: [apiKey({ rateLimit: { enabled: false } })],
});

const theirs = [];
let ours = [];

async function prepare({ keys }) {
  ours = keys;
  await (await getMigrations(auth.options)).runMigrations();
  const { user } = await auth.api.signUpEmail({
    body: { name: "Bench", email: "bench@example.com", password: "correct horse battery" },
  });
  while (theirs.length < keys.length) {
    const made = await auth.api.createApiKey({
      body: { userId: user.id, name: "benchmark", permissions: { images: ["read", "write"] } },
    });
    theirs.push(made.key);
  }
  return { node: process.version };
}

const anyOf = (keys) => keys[Math.floor(Math.random() * keys.length)];

// Each returns whether the answer was correct.
const contenders = {
  driver: async () => (await pool.query({ name: "one", text: "SELECT 1 AS one" })).rows[0].one === 1,
  keysmith: async () => {
    const { rows } = await pool.query({
      name: "verify",
      text: "SELECT ok, status, code, key_id, tenant FROM keysmith.verify($1, $2, ip => $3)",
      values: [anyOf(ours), ["images:write"], "192.0.2.1"],
    });
    return rows[0].ok;
  },
  framework: async () => {
    const body = { key: anyOf(theirs), permissions: { images: ["write"] } };
    return (await auth.api.verifyApiKey({ body })).valid;
  },
};

async function run({ contender, seconds, at_once }) {
  const call = contenders[contender];
  let calls = 0;
  const used = process.cpuUsage();
  const start = process.hrtime.bigint();
  const elapsed = () => Number(process.hrtime.bigint() - start) / 1e9;
  const loop = async () => {
    while (elapsed() < seconds) {
      if (!(await call())) throw new Error(`${contender} refused`);
      calls += 1;
    }
  };
  await Promise.all(Array.from({ length: at_once }, loop));
  const taken = elapsed();
  const { user, system } = process.cpuUsage(used);
  return { calls, seconds: taken, processor: (user + system) / 1e6 };
}

const commands = { prepare, run };

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...details } = JSON.parse(line);
  console.log(JSON.stringify(await commands[command](details)));
}
await pool.end();
