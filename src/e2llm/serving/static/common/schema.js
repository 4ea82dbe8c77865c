// Reading JSON schemas: what a field takes, and an example of it.

const EXAMPLES = {
  content: "Who is Anne?",
  prompt: "Once upon a time",
  question: "Who is Anne?",
  text: "A text of any length.",
};

/** Looks up what a description refers to. */
export class Schemas {
  #document;
  #examples;

  /**
   * @param {object} document The OpenAPI description.
   * @param {Record<string, string>} examples Texts for fields, by name.
   */
  constructor(document, examples = {}) {
    this.#document = document;
    this.#examples = { ...EXAMPLES, ...examples };
  }

  /** @returns {object} A schema, with a reference followed. */
  resolve(schema) {
    if (!schema?.$ref) return schema ?? {};
    const path = schema.$ref.replace(/^#\//, "").split("/");
    return this.resolve(path.reduce((place, name) => place[name], this.#document));
  }

  /** @returns {object[]} What a value may be, null left out. */
  choices(schema) {
    const found = this.resolve(schema);
    const several = found.anyOf ?? found.oneOf;
    return several ? several.flatMap((item) => this.choices(item)) : found.type === "null" ? [] : [found];
  }

  /** @returns {boolean} Whether null is taken. */
  takesNull(schema) {
    const found = this.resolve(schema);
    return (found.anyOf ?? []).some((item) => this.resolve(item).type === "null") || found.type === "null";
  }

  /** @returns {string} What a value may be, in a few words. */
  typeOf(schema) {
    const names = this.choices(schema).map((item) => this.#name(item));
    return [...new Set(names), ...(this.takesNull(schema) ? ["null"] : [])].join(" or ") || "any";
  }

  #name(item) {
    if (item.const !== undefined) return JSON.stringify(item.const);
    if (item.enum) return item.enum.map((value) => JSON.stringify(value)).join(" or ");
    if (item.type === "array") return `list of ${this.typeOf(item.items)}`;
    if (item.type === "object") return item.title ?? "object";
    if (item.format === "binary") return "file";
    return `${item.type ?? "any"}${limitsOf(item)}`;
  }

  /** @returns {object | null} The fields of an object, or of the objects in a list; null if there are none. */
  fieldsOf(schema) {
    for (const item of this.choices(schema)) {
      if (item.properties) return item;
      const inner = item.type === "array" && this.fieldsOf(item.items);
      if (inner) return inner;
    }
    return null;
  }

  /** @returns {unknown} A value that fits, with what is required only. */
  example(schema, name = "") {
    if (name === "stream") return false;
    const [item] = this.choices(schema);
    if (!item) return null;
    if (item.default !== undefined && item.default !== null) return item.default;
    if (item.const !== undefined) return item.const;
    if (item.enum) return item.enum.includes("user") ? "user" : item.enum[0];
    if (item.type === "array") return [this.example(item.items, name)];
    if (item.type === "object") {
      const required = item.required ?? [];
      return Object.fromEntries(required.map((key) => [key, this.example(item.properties[key], key)]));
    }
    if (item.type === "integer" || item.type === "number") return item.minimum ?? 0;
    if (item.type === "boolean") return true;
    return this.#examples[name] ?? "text";
  }
}

function limitsOf(item) {
  const parts = [];
  if (item.minimum > -(2 ** 31)) parts.push(`from ${item.minimum}`);
  if (item.exclusiveMinimum !== undefined) parts.push(`above ${item.exclusiveMinimum}`);
  if (item.maximum < 2 ** 31) parts.push(`to ${item.maximum}`);
  return parts.length ? ` ${parts.join(" ")}` : "";
}
