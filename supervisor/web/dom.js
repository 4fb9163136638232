// Elements made of text alone. Nothing here, or in any other module, turns a string into markup.

export const byId = (id) => document.getElementById(id);

/** Return a new element. `children` that are strings become text. `props`: class, text, on (listeners), attributes. */
export function el(name, props = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") made.className = value;
    else if (key === "on") for (const [event, run] of Object.entries(value)) made.addEventListener(event, run);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(name, props = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(props)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** What people named: isolated, so that letters written from right to left stay where they are, and told apart. */
export function named(text, props = {}) {
  return el("bdi", props, shown(text));
}

/** Return a text with what cannot be seen made visible: controls, and marks that turn the direction around. */
export function shown(text) {
  return String(text).replace(
    /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Put `nodes` into `parent` only where they differ: a reader's place, the focus and a selection stay. */
export function place(parent, nodes) {
  let next = parent.firstChild;
  for (const node of nodes) {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
  while (next !== null) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

// On a narrow screen a table is laid out as blocks; the roles are said, because a browser may take them from the layout.
const role = (name) => ({ role: name });

/** A table's parts: its caption, the titles of its columns, its body. */
export function tableOf(caption, titles, body) {
  const heads = titles.map(([title, cls]) => el("th", { scope: "col", class: cls, ...role("columnheader") }, title));
  body.setAttribute("role", "rowgroup");
  const head = el("thead", role("rowgroup"), el("tr", role("row"), ...heads));
  return el("table", role("table"), caption, head, body);
}

/** A row: the first of its cells names it. `cells`: [title, class, ...children] each. */
export function rowOf(cells) {
  const made = cells.map(([title, cls, ...children], i) =>
    i === 0
      ? el("th", { scope: "row", class: cls, "data-title": title, ...role("rowheader") }, ...children)
      : el("td", { class: cls, "data-title": title, ...role("cell") }, ...children),
  );
  return el("tr", role("row"), ...made);
}

/** A table whose rows live as long as what they show. `columns`: {title, fill(cell, item), class}. */
export class Table {
  constructor(parent, caption, columns, empty) {
    this.columns = columns;
    this.rows = new Map();
    this.body = el("tbody");
    const titles = columns.map((one) => [one.title, one.class]);
    this.table = tableOf(el("caption", {}, el("span", { class: "hidden" }, caption)), titles, this.body);
    this.more = el("p", { class: "quiet" });
    this.empty = el("p", { class: "quiet" }, empty);
    parent.replaceChildren(this.empty, this.table, this.more);
  }

  /** `key(item)` names a row; `more`: a sentence on what is left out. */
  show(items, key, more = "", empty = null) {
    const inside = this.body.contains(document.activeElement);
    const kept = new Map();
    for (const item of items) {
      const id = key(item);
      const row = this.rows.get(id) ?? this.makeRow();
      kept.set(id, row);
      this.columns.forEach((column, i) => column.fill(row.cells[i], item));
    }
    this.rows = kept;
    place(this.body, [...kept.values()]);
    if (empty !== null) setText(this.empty, empty);
    this.empty.hidden = items.length > 0;
    this.table.hidden = items.length === 0;
    setText(this.more, more);
    this.more.hidden = more === "";
    // Whoever had the focus on what is gone goes on here, and not at the top of the page.
    if (inside && !this.body.contains(document.activeElement)) this.table.closest("section")?.querySelector("h2")?.focus();
  }

  makeRow() {
    return rowOf(this.columns.map((column) => [column.title, column.class]));
  }
}

/** Fill a cell with a text, once per change. */
export function fillText(cell, text) {
  if (cell.dataset.text !== text) {
    cell.dataset.text = text;
    cell.replaceChildren(named(text));
  }
}

/** Fill a cell with what `make` returns, anew only when `key` changes: buttons keep the focus. */
export function fillOnce(cell, key, make) {
  if (cell.dataset.key !== key) {
    cell.dataset.key = key;
    const made = make();
    cell.replaceChildren(...(Array.isArray(made) ? made : [made]));
  }
}
