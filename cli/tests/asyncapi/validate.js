// Checks an AsyncAPI document on standard input against the published JSON schema of its version, and its references.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import Ajv from "ajv";

const require = createRequire(import.meta.url);
const document = JSON.parse(readFileSync(0, "utf8"));
const schema = require(`@asyncapi/specs/schemas/${document.asyncapi}-without-$id.json`);
const validate = new Ajv({ strict: false, validateFormats: false, allErrors: true }).compile(schema);
const faults = validate(document) ? [] : validate.errors.map(({ instancePath, message }) => `${instancePath} ${message}`);
const check = (value) => {
  if (typeof value?.$ref === "string") {
    const words = value.$ref.slice(2).split("/");
    if (words.reduce((found, word) => found?.[word], document) === undefined) faults.push(`${value.$ref} leads nowhere`);
  } else if (typeof value === "object" && value !== null) Object.values(value).forEach(check);
};
check(document);
for (const [name, channel] of Object.entries(document.channels)) {
  const used = (channel.address.match(/\{[^}]+\}/g) ?? []).map((name) => name.slice(1, -1)).sort().join();
  const declared = Object.keys(channel.parameters ?? {}).sort().join();
  if (used !== declared) faults.push(`${name}: the address has ${used}, the parameters are ${declared}`);
}
console.log(faults.join("\n"));
process.exit(faults.length > 0 ? 1 : 0);
