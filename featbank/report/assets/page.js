// What moves on the page: reading points of a chart, lighting up a line, opening the images behind a cell.
// Without it the page still says everything: points carry labels, charts have tables, cells link to images.
"use strict";

const tip = document.getElementById("tip");
const live = document.getElementById("live");

function showTip(lines, x, y) {
  tip.replaceChildren(...lines.filter(([, text]) => text).map(([kind, text]) => {
    const line = document.createElement(kind === "value" ? "b" : "span");
    line.className = kind;
    line.textContent = text;
    return line;
  }));
  tip.hidden = false;
  tip.style.left = tip.style.top = "0";
  const box = tip.getBoundingClientRect();
  const width = document.documentElement.clientWidth;
  const left = Math.max(6, Math.min(x + 14, width - box.width - 6));
  const top = y - box.height - 14 > 4 ? y - box.height - 14 : y + 18;
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${top + window.scrollY}px`;
}

function hideTip() {
  tip.hidden = true;
  document.querySelectorAll(".on").forEach((one) => one.classList.remove("on"));
}

// A pointer that rests somewhere must not take away what the keyboard reads.
function leave(event) {
  const reading = document.activeElement;
  if (!(event.currentTarget.contains(reading) && reading.matches(":focus-visible"))) hideTip();
}

function light(figure, series) {
  figure.querySelectorAll(".chart").forEach((chart) => {
    chart.classList.toggle("dim", series.length > 0);
    chart.querySelectorAll("[data-series]").forEach((one) => {
      one.classList.toggle("lit", series.includes(one.dataset.series));
    });
  });
}

// a point that is an element of its own

function showPoint(point) {
  hideTip();
  point.classList.add("on");
  const box = point.getBoundingClientRect();
  const { name, value, more } = point.dataset;
  showTip([["name", name], ["value", value], ...more.split("; ").map((one) => ["more", one])],
    box.left + box.width / 2, box.top + box.height / 2);
}

function nearest(points, x, y) {
  let best = null;
  let least = 40 * 40;
  for (const point of points) {
    const box = point.getBoundingClientRect();
    const far = (box.left + box.width / 2 - x) ** 2 + (box.top + box.height / 2 - y) ** 2;
    if (far < least) [best, least] = [point, far];
  }
  return best;
}

function neighbour(points, point, key) {
  const of = (one) => Number(one.dataset.series);
  const place = (one) => one.getBoundingClientRect();
  const line = points.filter((one) => of(one) === of(point));
  if (key === "ArrowLeft") return line[line.indexOf(point) - 1];
  if (key === "ArrowRight") return line[line.indexOf(point) + 1];
  const here = place(point);
  const up = key === "ArrowUp";
  return points
    .filter((one) => of(one) !== of(point) && Math.abs(place(one).left - here.left) < 12)
    .filter((one) => (up ? place(one).top <= here.top : place(one).top >= here.top))
    .sort((a, b) => Math.abs(place(a).top - here.top) - Math.abs(place(b).top - here.top))[0];
}

document.querySelectorAll(".chart:not(.rows)").forEach((chart) => {
  const points = [...chart.querySelectorAll(".point")];
  chart.addEventListener("pointermove", (event) => {
    const point = nearest(points, event.clientX, event.clientY);
    if (point) showPoint(point);
    else hideTip();
  });
  chart.addEventListener("pointerleave", leave);
  points.forEach((point, number) => { point.tabIndex = number ? -1 : 0; }); // one stop of the tab key
  for (const point of points) {
    point.addEventListener("focus", () => {
      points.forEach((one) => { one.tabIndex = one === point ? 0 : -1; });
      showPoint(point);
    });
    point.addEventListener("blur", hideTip);
    point.addEventListener("keydown", (event) => {
      if (event.key === "Home" || event.key === "End") {
        const line = points.filter((one) => one.dataset.series === point.dataset.series);
        line[event.key === "Home" ? 0 : line.length - 1].focus();
      } else if (event.key.startsWith("Arrow")) neighbour(points, point, event.key)?.focus();
      else return;
      event.preventDefault();
    });
  }
});

// a chart whose points stand in the rows of its table

document.querySelectorAll(".chart.rows").forEach((chart) => {
  const table = chart.closest(".figure").querySelector("table");
  const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  const rows = [...table.tBodies[0].rows];
  const epochs = rows.map((row) => Number(row.cells[0].textContent));
  const [first, last] = [Number(chart.dataset.first), Number(chart.dataset.last)];
  const span = epochs[epochs.length - 1] - epochs[0] || 1;
  const hair = chart.querySelector(".hair");
  let at = 0;
  // a screen reader hands the arrow keys to a slider, and reads its value text
  chart.setAttribute("role", "slider");
  chart.tabIndex = 0;
  const show = (index) => {
    at = Math.max(0, Math.min(rows.length - 1, index));
    const x = first + ((epochs[at] - epochs[0]) / span) * (last - first);
    const box = chart.getBoundingClientRect();
    hideTip();
    hair.setAttribute("x1", x);
    hair.setAttribute("x2", x);
    hair.classList.add("on");
    const cells = [...rows[at].cells].map((cell) => cell.textContent);
    const lines = names.slice(1).map((name, i) => ["more", `${name}: ${cells[i + 1]}`]);
    showTip([["value", `Epoch ${cells[0]}`], ...lines],
      box.left + (x * box.width) / chart.viewBox.baseVal.width, box.top + box.height * 0.3);
    say();
  };
  const say = () => {
    const cells = [...rows[at].cells].map((cell) => cell.textContent);
    chart.setAttribute("aria-valuenow", epochs[at]);
    chart.setAttribute("aria-valuetext",
      `Epoch ${cells[0]}. ${names.slice(1).map((name, i) => `${name}: ${cells[i + 1]}`).join(", ")}`);
  };
  chart.setAttribute("aria-valuemin", epochs[0]);
  chart.setAttribute("aria-valuemax", epochs[epochs.length - 1]);
  say();
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) * chart.viewBox.baseVal.width) / box.width;
    const epoch = epochs[0] + ((x - first) / (last - first || 1)) * span;
    const far = epochs.map((one) => Math.abs(one - epoch));
    show(far.indexOf(Math.min(...far)));
  });
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("blur", hideTip);
  chart.addEventListener("focus", () => { if (chart.matches(":focus-visible")) show(at); });
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -rows.length, End: rows.length }[event.key];
    if (!step) return;
    event.preventDefault();
    show(at + step);
  });
});

document.querySelectorAll(".legend [data-series]").forEach((entry) => {
  const figure = entry.closest(".figure");
  entry.addEventListener("pointerenter", () => light(figure, entry.dataset.series.split(" ")));
  entry.addEventListener("pointerleave", () => light(figure, []));
});

document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

// On a telephone each line of a wide table is a block, in which the numbers say what they are.
document.querySelectorAll("table.data").forEach((table) => {
  const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  if (names.length < 5) return;
  table.classList.add("stack");
  for (const line of table.tBodies[0].rows) {
    [...line.cells].forEach((cell, at) => { if (at) cell.dataset.label = names[at]; });
  }
});
