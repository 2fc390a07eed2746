// Keys of prefixed-api-key. Prints what the package tells of each.
const { checkAPIKey, generateAPIKey } = require("prefixed-api-key");

const options = [
  { keyPrefix: "mycompany" },
  { keyPrefix: "my_company" },
  { keyPrefix: "mycompany", shortTokenLength: 4, longTokenLength: 48 },
  { keyPrefix: "mycompany", shortTokenPrefix: "v1" },
];
Promise.all(options.map(generateAPIKey)).then((keys) => {
  const told = keys.map((key) => ({ ...key, isValid: checkAPIKey(key.token, key.longTokenHash) }));
  console.log(JSON.stringify(told));
});
