// The text as a strip of chunks: a canvas that is a slider to keyboards and screen readers.

import { colourOf, scaleOf } from "./colours.js";

const ROW_HEIGHT = 44; // of a single row
const WIDEST = 40;
const LEAST_WIDTH = 8; // of a cell, before there are more rows
const MOST_HEIGHT = 200; // before cells get smaller
const SMALLEST = 4;
const WIDEST_OF_MANY = 14;
const ASPECT = 1.5; // height by width, of a cell in several rows

/**
 * Where cells lie.
 *
 * @param {number} count Cells, 1 or more.
 * @param {number} width Room in pixels.
 * @returns {{perRow: number, rows: number, width: number, height: number}} Width and height of a cell.
 */
export function layOut(count, width) {
  if (count * LEAST_WIDTH <= width) {
    return { perRow: count, rows: 1, width: Math.min(WIDEST, width / count), height: ROW_HEIGHT };
  }
  const fits = (size) => Math.ceil(count / Math.floor(width / size)) * size * ASPECT <= MOST_HEIGHT;
  let size = WIDEST_OF_MANY;
  while (size > SMALLEST && !fits(size)) size -= 0.5;
  const perRow = Math.floor(width / size);
  return { perRow, rows: Math.ceil(count / perRow), width: width / perRow, height: size * ASPECT };
}

function roomIn(element) {
  const { paddingLeft, paddingRight } = getComputedStyle(element);
  return element.clientWidth - Number.parseFloat(paddingLeft) - Number.parseFloat(paddingRight);
}

/** A strip of chunks with a cursor. */
export class Strip {
  #canvas;
  #on;
  #cells = { perRow: 1, rows: 1, width: 1, height: 1 };
  #waiting = false;

  count = 0;
  /** Index of the chunk that the keyboard is at. */
  cursor = 0;
  /** Index of the chunk whose text is open, or null. */
  open = null;
  /** Shares 0 to 1 for the colours; null where nothing is known. @type {(number | null)[]} */
  shares = [];
  /** Name of the scale of colours. */
  scale = "relevance";
  /** Chunks to mark. @type {Set<number>} */
  marks = new Set();
  /** First chunks of the second and later documents. @type {Set<number>} */
  breaks = new Set();

  /**
   * @param {HTMLCanvasElement} canvas Where to draw.
   * @param {{open?: (index: number) => void, point?: (index: number | null) => void,
   *     describe?: (index: number) => string}} on What opening and pointing do, and a chunk's description.
   */
  constructor(canvas, on = {}) {
    this.#canvas = canvas;
    this.#on = on;
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    if (on.open) this.#listen();
  }

  /** Draw soon, once for all changes until then. */
  draw() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      if (this.count && this.#canvas.parentElement.clientWidth) this.#paint();
    });
  }

  /** Say where the cursor is; after every change of it, or of what is known of its chunk. */
  describe() {
    const { describe } = this.#on;
    if (!describe || !this.count) return;
    this.#canvas.setAttribute("aria-valuemax", this.count);
    this.#canvas.setAttribute("aria-valuenow", this.cursor + 1);
    this.#canvas.setAttribute("aria-valuetext", describe(this.cursor));
  }

  /** @param {number} index Where the cursor goes; kept within the strip. */
  moveTo(index) {
    this.cursor = Math.min(this.count - 1, Math.max(0, index));
    this.describe();
    this.#on.point?.(this.cursor);
    this.draw();
  }

  #listen() {
    const canvas = this.#canvas;
    canvas.addEventListener("keydown", (event) => this.#onKey(event));
    canvas.addEventListener("click", (event) => {
      const index = this.#indexAt(event);
      if (index === null) return;
      this.moveTo(index);
      this.#on.open(index);
    });
    canvas.addEventListener("pointermove", (event) => this.#on.point?.(this.#indexAt(event)));
    canvas.addEventListener("pointerleave", () => this.#on.point?.(null));
    for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => this.draw());
  }

  #onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const row = this.#cells.rows > 1 ? this.#cells.perRow : 1;
    const page = Math.max(10, this.#cells.perRow);
    const steps = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -row,
      ArrowDown: row,
      PageUp: -page,
      PageDown: page,
      Home: -this.count,
      End: this.count,
    };
    if (event.key === "Enter" || event.key === " ") this.#on.open(this.cursor);
    else if (event.key in steps) this.moveTo(this.cursor + steps[event.key]);
    else return;
    event.preventDefault();
  }

  #indexAt(event) {
    const { perRow, width, height } = this.#cells;
    const column = Math.floor(event.offsetX / width);
    const index = Math.floor(event.offsetY / height) * perRow + column;
    return column >= 0 && column < perRow && index >= 0 && index < this.count ? index : null;
  }

  #paint() {
    const canvas = this.#canvas;
    const cells = (this.#cells = layOut(this.count, roomIn(canvas.parentElement)));
    const size = { width: cells.perRow * cells.width, height: cells.rows * cells.height };
    const density = devicePixelRatio || 1;
    canvas.width = Math.round(size.width * density);
    canvas.height = Math.round(size.height * density);
    canvas.style.width = `${size.width}px`;
    canvas.style.height = `${size.height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(density, density);
    this.#paintCells(pen);
    const ink = colourOf(canvas, "ink");
    const paper = colourOf(canvas, "paper");
    for (const index of this.marks) this.#ring(pen, index, paper, ink, 0);
    if (this.open !== null) this.#ring(pen, this.open, paper, colourOf(canvas, "accent"), -1);
    if (document.activeElement === canvas) this.#ring(pen, this.cursor, paper, colourOf(canvas, "focus"), -1);
  }

  #paintCells(pen) {
    const colour = scaleOf(this.#canvas, this.scale);
    const line = colourOf(this.#canvas, "unknown");
    const ink = colourOf(this.#canvas, "ink");
    const gap = this.#cells.width >= 6 ? 1 : 0.5;
    for (let index = 0; index < this.count; index += 1) {
      const { x, y, width, height } = this.#boxOf(index);
      const isBreak = this.breaks.has(index);
      const left = isBreak ? x + Math.min(4, width / 2) : x;
      const room = width - gap - (left - x);
      if (isBreak) {
        pen.fillStyle = ink;
        pen.fillRect(x, y, Math.min(2, width / 4), height - gap);
      }
      const share = this.shares[index] ?? null;
      if (share === null) {
        pen.strokeStyle = line;
        pen.lineWidth = 1;
        pen.strokeRect(left + 0.5, y + 0.5, room - 1, height - gap - 1);
      } else {
        pen.fillStyle = colour(share);
        pen.fillRect(left, y, room, height - gap);
      }
    }
  }

  #boxOf(index) {
    const { perRow, width, height } = this.#cells;
    return { x: (index % perRow) * width, y: Math.floor(index / perRow) * height, width, height };
  }

  /** A ring within a cell, with another within it that sets it off whatever the cell's colour. */
  #ring(pen, index, paper, colour, inset) {
    const { x, y, width, height } = this.#boxOf(index);
    const thick = width >= 7 ? 2 : 1;
    for (const [ring, place] of [[paper, inset + thick], [colour, inset]]) {
      pen.strokeStyle = ring;
      pen.lineWidth = thick;
      const edge = place + thick / 2;
      pen.strokeRect(x + edge, y + edge, Math.max(1, width - 1 - 2 * edge), Math.max(1, height - 1 - 2 * edge));
    }
  }
}
