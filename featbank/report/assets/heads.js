
// one head closely: choosing it, its matrix or map, its images
//
// The best head is written out in the page; for another one the script writes the same elements anew from the
// answers in the page. A test holds it to that: choosing another head and then the first again changes nothing.

const told = document.getElementById("answers");
const answers = told ? JSON.parse(told.textContent) : null;
const byId = (id) => document.getElementById(id);
let head = 0;
let rows = []; // of the chosen head: for each true class a Map from answer to count
let totals = [];

function read() {
  rows = answers.heads[head].cells.map((flat) => {
    const row = new Map();
    for (let i = 0; i < flat.length; i += 2) row.set(flat[i], flat[i + 1]);
    return row;
  });
  totals = rows.map((row) => [...row.values()].reduce((a, b) => a + b, 0));
}

const spelt = (number) => number.toLocaleString("en-US");
const countOf = (pair) => rows[pair[0]].get(pair[1]) || 0;
const pairOf = (element) => element.dataset.pair.split("-").map(Number);

function kindOf(pair) {
  const count = countOf(pair);
  const shade = Math.min(9, 1 + Math.floor((1000 * count) / (112 * totals[pair[0]])));
  return `${pair[0] === pair[1] ? "right" : "wrong"} s${shade}`;
}

function shareText(count, total) {
  if (!total) return "–";
  const tenths = Math.floor((2000 * count + total) / (2 * total));
  return `${Math.floor(tenths / 10)}.${tenths % 10} %`;
}

function said(pair) {
  const [count, total] = [countOf(pair), totals[pair[0]]];
  const name = answers.classes[pair[0]];
  const what = pair[0] === pair[1] ? "recognised" : `taken for ${answers.classes[pair[1]]}`;
  const share = total ? ` (${Math.floor((200 * count + total) / (2 * total))} %)` : "";
  return `${count} of ${total} images of ${name} ${what}${share}`;
}

function make(name, properties, ...children) {
  const element = document.createElement(name);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

const bold = (text) => make("b", {}, make("bdi", {}, text));

function link(pair, ...children) {
  const image = document.querySelector(`.gallery .mistake[data-pair="${pair.join("-")}"]`);
  const made = make("a", {}, ...children);
  made.setAttribute("href", `#${image ? image.id : "confusion"}`);
  made.dataset.pair = pair.join("-");
  return made;
}

function wrongPairs() {
  const found = [];
  rows.forEach((row, t) => row.forEach((count, p) => { if (t !== p) found.push([t, p]); }));
  return found;
}

// images: all that are embedded stand in the page once, and move between the shown, the folded and the others

function captioned(figure, pred, pPred, pTrue) {
  const name = answers.classes[figure.dataset.true];
  figure.dataset.pair = pred === null ? "" : `${figure.dataset.true}-${pred}`;
  figure.querySelector("img").alt = pred === null ? name : `${name}, taken for ${answers.classes[pred]}`;
  const share = (p) => (p === null || p < 0 ? "" : ` ${p}\u00a0%`);
  figure.querySelector(".was").replaceChildren(bold(name), share(pred === null ? null : pTrue));
  figure.querySelector(".taken").replaceChildren(
    ...(pred === null ? [] : ["taken for ", bold(answers.classes[pred]), share(pPred)]));
}

function writeImages() {
  if (!byId("shown")) return;
  const flat = answers.heads[head].images;
  const figures = new Map([...document.querySelectorAll("main .mistake")].map((one) => [one.id, one]));
  const mine = [];
  for (let i = 0; i < flat.length; i += 4) {
    const figure = figures.get(`image-${flat[i]}`);
    captioned(figure, flat[i + 1], flat[i + 2], flat[i + 3]);
    mine.push(figure);
    figures.delete(figure.id);
  }
  figures.forEach((figure) => captioned(figure, null));
  const others = [...figures.values()].sort((a, b) => a.id.slice(6) - b.id.slice(6));
  const n = mine.length > answers.few ? answers.shown : answers.few;
  byId("shown").replaceChildren(...mine.slice(0, n));
  const folded = byId("folded");
  folded.querySelector(".gallery").replaceChildren(...mine.slice(n));
  folded.querySelector("summary").textContent = `${Math.max(0, mine.length - n)} more`;
  folded.hidden = mine.length <= n;
  byId("others").replaceChildren(...others);
  const wrong = wrongPairs().reduce((sum, pair) => sum + countOf(pair), 0);
  const sure = mine.length && flat[2] >= 0
    ? ", worst first. Beside each class, the probability the head gave it" : "";
  byId("seen").textContent = `${mine.length} of ${spelt(wrong)} are in this page${sure}.`;
}

function writeMatrix() {
  const table = byId("matrix");
  if (table) {
    [...table.tBodies[0].rows].forEach((line, t) => {
      [...line.cells].slice(1).forEach((cell, p) => {
        const count = countOf([t, p]);
        if (count) cell.className = kindOf([t, p]);
        else cell.removeAttribute("class");
        cell.replaceChildren(count && t !== p ? link([t, p], count) : count || "");
      });
    });
    settle(table);
  } else {
    const outlines = new Map();
    rows.forEach((row, t) => row.forEach((count, p) => {
      const kind = kindOf([t, p]);
      outlines.set(kind, `${outlines.get(kind) || ""}M${p} ${t}h1v1h-1z`);
    }));
    byId("map").querySelector("g").replaceChildren(...[...outlines.keys()].sort().map((kind) => {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("class", kind);
      path.setAttribute("d", outlines.get(kind));
      return path;
    }));
  }
}

function writePairs() {
  const only = document.querySelector("#of-class select")?.value || "";
  const found = wrongPairs().sort((a, b) => countOf(b) - countOf(a) || a[0] - b[0] || a[1] - b[1]);
  const wanted = only ? found.filter((pair) => pair.includes(Number(only))) : found.slice(0, answers.pairs);
  byId("pairs").replaceChildren(...wanted.map((pair) => make("li", {}, link(pair,
    make("b", {}, `${countOf(pair)} ×`), " ", make("bdi", {}, answers.classes[pair[0]]), " ",
    arrow(), make("span", { className: "unseen" }, " taken for "), " ",
    make("bdi", {}, answers.classes[pair[1]])))));
  const more = only ? 0 : found.length - wanted.length;
  byId("more-pairs").textContent = only && !wanted.length ? "None."
    : more > 0 ? `${more} more pairs of classes were confused.` : "";
  byId("confused").hidden = !found.length;
}

function arrow() {
  const made = make("span", {}, "→");
  made.setAttribute("aria-hidden", "true");
  return made;
}

function writeClasses() {
  const lines = rows.map((row, t) => {
    let worst = null;
    row.forEach((count, p) => { if (p !== t && (worst === null || count > row.get(worst))) worst = p; });
    return { t, worst, right: countOf([t, t]), total: totals[t] };
  });
  const share = (one) => (one.total ? one.right / one.total : 2);
  lines.sort((a, b) => share(a) - share(b));
  byId("by-class").tBodies[0].replaceChildren(...lines.map(({ t, worst, right, total }) => {
    const name = make("th", {}, make("bdi", {}, answers.classes[t]));
    name.setAttribute("scope", "row");
    return make("tr", {}, name,
      make("td", {}, worst === null ? "–"
        : link([t, worst], make("bdi", {}, answers.classes[worst]), ` (${countOf([t, worst])})`)),
      ...[total, right, shareText(right, total)].map((text) => make("td", { className: "num" }, text)));
  }));
}

function writeHead() {
  const one = answers.heads[head];
  const rowsOf = totals.reduce((a, b) => a + b, 0);
  const right = rows.reduce((sum, row, t) => sum + (row.get(t) || 0), 0);
  byId("said").replaceChildren(make("b", {}, one.named),
    `: ${spelt(right)} of ${spelt(rowsOf)} ${one.split} images right, ${spelt(rowsOf - right)} wrong.`);
  byId("head-figures").replaceChildren(...one.figures.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function writeHistory() {
  const numbers = new Set(answers.heads.map((one) => String(one.at)));
  const mine = String(answers.heads[head].at);
  let found = false;
  document.querySelectorAll("details.history").forEach((one) => {
    const chosen = one.dataset.head === mine;
    one.hidden = numbers.has(one.dataset.head) && !chosen;
    one.open = chosen;
    found = found || chosen;
  });
  const none = byId("no-history");
  if (none) none.hidden = found;
}

function mark() {
  document.querySelectorAll("#kept tr[data-head]").forEach((line) => {
    const chosen = line.dataset.head === String(answers.heads[head].at);
    if (chosen) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
  });
  document.querySelectorAll("[data-facet]").forEach((select) => {
    select.value = answers.heads[head].facets[select.dataset.facet];
  });
  if (byId("choose-place")) byId("choose-place").textContent = `${head + 1} of ${answers.heads.length}`;
}

function choose(number) {
  head = number;
  hideTip();
  read();
  writeHead();
  writeImages(); // links lead to images, so they come first
  writeMatrix();
  writePairs();
  writeClasses();
  writeHistory();
  mark();
  live.textContent = byId("said").textContent;
}

/** The head that has this value of a facet, and otherwise most in common with the one chosen now. */
function alike(facet, value) {
  const now = answers.heads[head].facets;
  let [best, most] = [head, -1];
  answers.heads.forEach((one, number) => {
    if (one.facets[facet] !== value) return;
    const common = one.facets.filter((have, at) => have === now[at]).length;
    if (common > most) [best, most] = [number, common];
  });
  return best;
}

// the images behind a cell

const viewer = byId("viewer");

function openPair(pair) {
  const images = [...document.querySelectorAll(`main .mistake[data-pair="${pair.join("-")}"]`)];
  const count = countOf(pair);
  byId("viewer-title").textContent = said(pair);
  let note = "";
  if (images.length === 0) note = "Their images are not in this page: it has room for some, or the notes say why.";
  else if (images.length < count) note = `${images.length} of the ${count} images are in this page.`;
  byId("viewer-note").textContent = note;
  byId("viewer-images").replaceChildren(...images.map((one) => {
    const copy = one.cloneNode(true);
    copy.removeAttribute("id");
    return copy;
  }));
  hideTip();
  viewer.showModal();
}

byId("viewer-close").addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });

function tipOver(text, box) {
  showTip([["name", text]], box.left + box.width / 2, box.top + box.height / 2);
}

// a table: one stop of the tab key, arrows go from cell to cell

function settle(table) {
  const cells = [...table.tBodies[0].rows].flatMap((line) => [...line.cells].slice(1));
  cells.forEach((cell) => {
    const inner = cell.querySelector("a");
    cell.tabIndex = -1;
    if (inner) inner.tabIndex = -1;
    if (inner) cell.removeAttribute("tabindex");
  });
  const first = cells.map((cell) => cell.querySelector("a")).find(Boolean) || cells[0];
  if (first) first.tabIndex = 0;
}

function enliven(table) {
  table.setAttribute("role", "grid");
  settle(table);
  const lines = [...table.tBodies[0].rows];
  const place = (element) => {
    const cell = element.closest("td");
    return cell && [cell.parentElement.rowIndex - 1, cell.cellIndex - 1];
  };
  table.addEventListener("keydown", (event) => {
    const pair = place(event.target);
    if (!pair) return;
    const last = lines.length - 1;
    let [t, p] = pair;
    if (event.key === "ArrowLeft") p -= 1;
    else if (event.key === "ArrowRight") p += 1;
    else if (event.key === "ArrowUp") t -= 1;
    else if (event.key === "ArrowDown") t += 1;
    else if (event.key === "Home") [t, p] = event.ctrlKey ? [0, 0] : [t, 0];
    else if (event.key === "End") [t, p] = event.ctrlKey ? [last, last] : [t, last];
    else return;
    event.preventDefault();
    if (t < 0 || p < 0 || t > last || p > last) return;
    const cell = lines[t].cells[p + 1];
    table.querySelectorAll('tbody [tabindex="0"]').forEach((one) => { one.tabIndex = -1; });
    const target = cell.querySelector("a") || cell;
    target.tabIndex = 0;
    target.focus();
  });
  const show = (event) => {
    const pair = place(event.target);
    if (pair) tipOver(said(pair), event.target.closest("td").getBoundingClientRect());
    else hideTip();
  };
  table.addEventListener("focusin", show);
  table.addEventListener("focusout", hideTip);
  table.addEventListener("pointerover", show);
  table.addEventListener("pointerleave", hideTip);
}

// a map: the pointer finds the nearest cell, arrows go from one wrong cell to the next

function enlivenMap(map) {
  const n = answers.classes.length;
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("width", "3");
  cursor.setAttribute("height", "3");
  map.append(cursor);
  map.setAttribute("role", "application");
  map.setAttribute("aria-roledescription", "confusion map");
  map.tabIndex = 0;
  let at = null;
  const show = (pair, aloud) => {
    at = pair;
    cursor.setAttribute("x", pair[1] - 1);
    cursor.setAttribute("y", pair[0] - 1);
    cursor.classList.add("on");
    tipOver(said(pair), cursor.getBoundingClientRect());
    cursor.classList.add("on");
    if (aloud) live.textContent = said(pair);
  };
  const under = (event) => {
    const box = map.getBoundingClientRect();
    const [x, y] = [((event.clientX - box.left) * n) / box.width, ((event.clientY - box.top) * n) / box.height];
    let [best, least] = [null, Math.max(2, (12 * n) / box.width) ** 2];
    rows.forEach((row, t) => row.forEach((count, p) => {
      const far = (p + 0.5 - x) ** 2 + (t + 0.5 - y) ** 2;
      if (far < least) [best, least] = [[t, p], far];
    }));
    return best;
  };
  map.addEventListener("pointermove", (event) => {
    const pair = under(event);
    if (pair) show(pair, false);
    else hideTip();
  });
  map.addEventListener("pointerleave", hideTip);
  map.addEventListener("click", (event) => {
    const pair = under(event);
    if (pair && pair[0] !== pair[1]) openPair(pair);
  });
  map.addEventListener("blur", hideTip);
  map.addEventListener("keydown", (event) => {
    const wrong = wrongPairs();
    if (!wrong.length) return;
    let now = at ? wrong.findIndex((one) => one[0] === at[0] && one[1] === at[1]) : -1;
    if (event.key === "Enter" || event.key === " ") {
      if (now >= 0) openPair(wrong[now]);
      event.preventDefault();
      return;
    }
    const of = now < 0 ? -1 : wrong[now][0];
    if (event.key === "ArrowRight") now += 1;
    else if (event.key === "ArrowLeft") now -= 1;
    else if (event.key === "ArrowDown") now = wrong.findIndex((one) => one[0] > of);
    else if (event.key === "ArrowUp") now = wrong.findLastIndex((one) => one[0] < of);
    else if (event.key === "Home") now = 0;
    else if (event.key === "End") now = wrong.length - 1;
    else return;
    event.preventDefault();
    if (wrong[now]) show(wrong[now], true);
  });
}

if (answers) {
  read();
  if (byId("matrix")) enliven(byId("matrix"));
  if (byId("map")) enlivenMap(byId("map"));
  writeHistory();
  if (byId("chooser")) byId("chooser").hidden = false;
  mark();
  document.querySelectorAll("[data-facet]").forEach((select) => {
    select.addEventListener("change", () => choose(alike(Number(select.dataset.facet), Number(select.value))));
  });
  const n = answers.heads.length;
  byId("choose-before")?.addEventListener("click", () => choose((head + n - 1) % n));
  byId("choose-next")?.addEventListener("click", () => choose((head + 1) % n));
  const ofClass = byId("of-class");
  if (ofClass) {
    ofClass.hidden = false;
    ofClass.addEventListener("change", writePairs);
  }
  document.addEventListener("click", (event) => {
    const pair = event.target.closest("a[data-pair]");
    const wanted = event.target.closest("a[data-choose]");
    if (pair) {
      event.preventDefault();
      openPair(pairOf(pair));
    } else if (wanted) {
      event.preventDefault();
      choose(answers.heads.findIndex((one) => String(one.at) === wanted.dataset.choose));
      byId("h-closely").focus();
    }
  });
}
