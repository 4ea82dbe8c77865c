// The page at /docs: the server's own description of its API, made readable.

import { byId, make } from "../common/dom.js";
import { Schemas } from "../common/schema.js";

const METHODS = ["get", "post", "put", "delete"];
const PLACES = { context_id: "ctx_000000000000000000000000", index: "0" };

async function start() {
  const response = await fetch(new URL("openapi.json", document.baseURI));
  if (!response.ok) throw new Error(`openapi.json: status ${response.status}`);
  const described = await response.json();
  const model = await servedModel();
  show(described, new Schemas(described, { model }), { ...PLACES, name: encodeURIComponent(model) });
}

/** The name for examples; it needs no key. */
async function servedModel() {
  const response = await fetch(new URL("health", document.baseURI));
  return response.ok ? (await response.json()).model : "smol";
}

function show(described, schemas, places) {
  const operations = operationsOf(described);
  byId("version").textContent = described.info.version;
  byId("description").textContent = described.info.description ?? "";
  for (const tag of new Set(operations.map((item) => item.tag))) {
    const ours = operations.filter((item) => item.tag === tag);
    const links = ours.map((item) => make("li", {}, make("a", { href: `#${item.id}` }, nameOf(item))));
    byId("index").append(make("h2", {}, tag), make("ul", {}, ...links));
    byId("operations").append(make("h2", {}, tag), ...ours.map((item) => articleOf(item, schemas, places)));
  }
  if (location.hash) byId(location.hash.slice(1))?.scrollIntoView();
}

function operationsOf(described) {
  return Object.entries(described.paths).flatMap(([path, methods]) =>
    METHODS.filter((method) => method in methods).map((method) => {
      const found = methods[method];
      return { path, method, ...found, tag: found.tags?.[0] ?? "other", id: found.operationId };
    }),
  );
}

const nameOf = ({ method, path }) => `${method.toUpperCase()} ${path}`;

function articleOf(operation, schemas, places) {
  const title = make("h3", { id: operation.id }, make("code", {}, nameOf(operation)));
  const parts = (operation.description ?? "").split(/\n\s*\n/).filter(Boolean).map((text) => prose("p", text));
  return make(
    "article",
    { "aria-labelledby": operation.id },
    title,
    ...parts,
    ...parametersOf(operation, schemas),
    ...bodiesOf(operation, schemas),
    ...answersOf(operation, schemas),
    make("h4", {}, "Example"),
    make("pre", { tabindex: "0", "aria-label": "Example with curl" }, make("code", {}, curlOf(operation, schemas, places))),
  );
}

/** Text with code between backticks. */
function prose(tag, text) {
  const pieces = text.split("`").map((piece, place) => (place % 2 ? make("code", {}, piece) : piece));
  return make(tag, {}, ...pieces);
}

function parametersOf({ parameters = [] }, schemas) {
  if (!parameters.length) return [];
  const rows = parameters.map((item) => rowOf(item.name, item.schema, item.required, item.description, schemas));
  return [make("h4", {}, "Parameters"), tableOf(rows)];
}

function bodiesOf({ requestBody }, schemas) {
  return Object.entries(requestBody?.content ?? {}).flatMap(([kind, { schema }]) => [
    prose("h4", `Body, \`${kind}\``),
    ...fieldsOf(schema, schemas),
  ]);
}

function answersOf({ responses }, schemas) {
  return Object.entries(responses)
    .filter(([status]) => status.startsWith("2"))
    .flatMap(([status, { content = {} }]) =>
      Object.entries(content).flatMap(([kind, { schema }]) => [
        prose("h4", `Answer ${status}, \`${kind}\``),
        ...fieldsOf(schema, schemas),
      ]),
    );
}

function fieldsOf(schema, schemas, depth = 0) {
  const found = schemas.fieldsOf(schema);
  if (!found) return [make("p.quiet", {}, schema ? schemas.typeOf(schema) : "Text.")];
  const required = found.required ?? [];
  const rows = Object.entries(found.properties).map(([name, item]) =>
    rowOf(name, item, required.includes(name), item.description, schemas, depth),
  );
  return [tableOf(rows)];
}

function rowOf(name, schema, isRequired, description, schemas, depth = 0) {
  const [mark, text] = /^e2llm: /.test(description ?? "") ? ["e2llm", description.slice(7)] : [null, description];
  const about = make("div", {}, ...(text ? [prose("p", text)] : []));
  const inner = depth < 4 && schemas.fieldsOf(schema);
  if (inner) {
    const fold = make("details", {}, make("summary", {}, "Its fields"), ...fieldsOf(schema, schemas, depth + 1));
    about.append(fold);
  }
  const term = make("dt", {}, make("code", {}, name), ...(isRequired ? [make("span.tag", {}, "required")] : []));
  if (mark) term.append(make("span.tag", {}, mark));
  return make("div", {}, term, make("dd", {}, make("p.quiet", {}, schemas.typeOf(schema)), about));
}

const tableOf = (rows) => make("dl.fields", {}, ...rows);

function curlOf({ path, method, parameters = [], requestBody }, schemas, places) {
  const filled = path.replace(/\{(\w+)\}/g, (_, name) => places[name] ?? name.toUpperCase());
  const query = parameters.filter((item) => item.in === "query" && item.required).map((item) => `${item.name}=...`);
  const base = new URL(".", document.baseURI).href.replace(/\/$/, "");
  const verb = method === "get" ? "" : `-X ${method.toUpperCase()} `;
  const asked = query.length ? `?${query.join("&")}` : "";
  const lines = [`curl ${verb}'${base}${filled}${asked}'`];
  const content = requestBody?.content ?? {};
  if (content["multipart/form-data"]) lines.push("-F file=@document.txt");
  else if (content["application/json"]) {
    const body = JSON.stringify(schemas.example(content["application/json"].schema));
    lines.push("-H 'Content-Type: application/json'", `-d '${body.replaceAll("'", "'\\''")}'`);
  }
  return lines.join(" \\\n  ");
}

start().catch((error) => {
  byId("problem").textContent = `The description of the API cannot be shown: ${error.message}`;
});
