
// one head closely: choosing it, its matrix or map, its images
//
// The best head is written out in the page. For another one the script writes texts, which stand ready in the
// page, into the same elements or copies of them. A test holds it to that: choosing another head and then the
// first again changes nothing.

const told = document.getElementById("answers");
const answers = told ? JSON.parse(told.textContent) : null;
const byId = (id) => document.getElementById(id);
let head = 0;
let cells = []; // of the chosen head: true class, answer, count, shade; wrong ones first, the most frequent first
let rows = []; // for each true class a Map from answer to its cell
let totals = [];

function quadruples(flat) {
  return Array.from({ length: flat.length / 4 }, (_, i) => flat.slice(4 * i, 4 * i + 4));
}

function read() {
  cells = quadruples(answers.heads[head].cells);
  rows = answers.classes.map(() => new Map());
  totals = answers.classes.map(() => 0);
  for (const cell of cells) {
    rows[cell[0]].set(cell[1], cell);
    totals[cell[0]] += cell[2];
  }
}

const countOf = ([t, p]) => rows[t].get(p)?.[2] || 0;
const pairOf = (element) => element.dataset.pair.split("-").map(Number);
const kindOf = ([t, p, , shade]) => `${t === p ? "right" : "wrong"} s${shade}`;
const isWrong = ([t, p]) => t !== p;

function said(pair) {
  const [count, total] = [countOf(pair), totals[pair[0]]];
  const name = answers.classes[pair[0]];
  const what = isWrong(pair) ? `taken for ${answers.classes[pair[1]]}` : "recognised";
  const share = total ? ` (${Math.floor((200 * count + total) / (2 * total))} %)` : "";
  return `${count} of ${total} images of ${name} ${what}${share}`;
}

/** Write texts into the marked places of an element, in their order. */
function write(element, ...texts) {
  element.querySelectorAll("[data-at]").forEach((place, at) => { place.textContent = texts[at]; });
  return element;
}

const copy = (id) => byId(id).content.firstElementChild.cloneNode(true);

/** Let the link in an element (or the element itself) lead to the images of a pair. */
function lead(element, t, p) {
  const link = element.closest("a") || element.querySelector("a");
  const image = document.querySelector(`.gallery .mistake[data-pair="${t}-${p}"]`);
  link.setAttribute("href", `#${image ? image.id : "confusion"}`);
  link.dataset.pair = `${t}-${p}`;
  return element;
}

// images: all that are embedded stand in the page once, and move between the shown, the folded and the others

function captioned(figure, pred, pPred, pTrue) {
  const name = answers.classes[figure.dataset.true];
  const share = (p) => (p < 0 ? "" : ` ${p}\u00a0%`);
  const texts = pred === null ? ["", "", "", ""]
    : [share(pTrue), "taken for ", answers.classes[pred], share(pPred)];
  figure.dataset.pair = pred === null ? "" : `${figure.dataset.true}-${pred}`;
  figure.querySelector("img").alt = [name, texts[1] + texts[2]].filter(Boolean).join(", ");
  return write(figure, name, ...texts);
}

function writeImages(one) {
  if (!byId("shown")) return;
  const figures = new Map([...document.querySelectorAll("main .mistake")].map((each) => [each.id, each]));
  const mine = quadruples(one.images).map(([at, ...taken]) => {
    const figure = captioned(figures.get(`image-${at}`), ...taken);
    figures.delete(figure.id);
    return figure;
  });
  figures.forEach((figure) => captioned(figure, null));
  const others = [...figures.values()].sort((a, b) => a.id.slice(6) - b.id.slice(6));
  const folded = byId("folded");
  byId("shown").replaceChildren(...mine.slice(0, one.shown));
  folded.querySelector(".gallery").replaceChildren(...mine.slice(one.shown));
  folded.hidden = mine.length <= one.shown;
  write(folded.querySelector("summary"), Math.max(0, mine.length - one.shown));
  byId("others").replaceChildren(...others);
  byId("seen").textContent = one.seen;
}

function writeMatrix() {
  const table = byId("matrix");
  if (table) {
    [...table.tBodies[0].rows].forEach((line, t) => {
      [...line.cells].slice(1).forEach((place, p) => {
        const cell = rows[t].get(p);
        if (cell) place.className = kindOf(cell);
        else place.removeAttribute("class");
        place.textContent = cell ? cell[2] : "";
        if (cell && t !== p) {
          const link = lead(copy("a-cell"), t, p);
          link.textContent = cell[2];
          place.replaceChildren(link);
        }
      });
    });
    settle(table);
  } else {
    const outlines = new Map();
    for (const cell of [...cells].sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
      const kind = kindOf(cell);
      outlines.set(kind, `${outlines.get(kind) || ""}M${cell[1]} ${cell[0]}h1v1h-1z`);
    }
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
  const found = cells.filter(isWrong);
  const wanted = only ? found.filter(([t, p]) => t === Number(only) || p === Number(only))
    : found.slice(0, answers.pairs);
  byId("pairs").replaceChildren(...wanted.map(([t, p, count]) =>
    lead(write(copy("a-pair"), count, answers.classes[t], answers.classes[p]), t, p)));
  const more = only ? 0 : found.length - wanted.length;
  write(byId("more-pairs"), more).hidden = !more;
  byId("no-pairs").hidden = !only || wanted.length > 0;
  byId("confused").hidden = !found.length;
}

function writeClasses(one) {
  byId("by-class").tBodies[0].replaceChildren(...one.classes.map(([t, accuracy]) => {
    const worst = cells.find((cell) => isWrong(cell) && cell[0] === t); // the most frequent come first
    const numbers = [totals[t], countOf([t, t]), accuracy];
    if (!worst) return write(copy("a-clear-class"), answers.classes[t], ...numbers);
    const line = write(copy("a-class"), answers.classes[t], answers.classes[worst[1]], worst[2], ...numbers);
    return lead(line, t, worst[1]);
  }));
}

function writeHead(one) {
  write(byId("said"), one.named, one.said);
  byId("head-figures").replaceChildren(...one.figures.map((texts) => write(copy("a-figure"), ...texts)));
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
  writeHead(answers.heads[head]);
  writeImages(answers.heads[head]); // links lead to images, so they come first
  writeMatrix();
  writePairs();
  writeClasses(answers.heads[head]);
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
    for (const [t, p] of cells) {
      const far = (p + 0.5 - x) ** 2 + (t + 0.5 - y) ** 2;
      if (far < least) [best, least] = [[t, p], far];
    }
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
    if (pair && isWrong(pair)) openPair(pair);
  });
  map.addEventListener("blur", hideTip);
  map.addEventListener("keydown", (event) => {
    const wrong = cells.filter(isWrong).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
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
