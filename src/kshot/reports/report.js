"use strict";
const record = JSON.parse(document.getElementById("record").textContent);
const at = id => document.getElementById(id);
const PER_PAGE = 40;

// Text only ever enters the page as text nodes: nothing of a user's data is read as HTML.
function make(tag, text, kind) {
  const one = document.createElement(tag);
  if (text !== undefined) one.textContent = text;
  if (kind) one.className = kind;
  return one;
}

const isWrong = row => row && row[2] !== null && row[2] < 1;
const byExample = record.rows.map(rows => new Map(rows.map((row, i) => [row[0], i])));
const rowOf = (recipe, example) => record.rows[recipe][byExample[recipe].get(example)];
const opened = record.prompts.map((rows, recipe) => {
  if (!rows) return null;
  const before = [], others = record.more[recipe];
  return rows.map((row, i) => [row, ...(others ? others[i] : [])].map(
    ([same, ...more], context) => (before[context] = (before[context] || []).slice(0, same).concat(more))));
});

// Of tasks where any number of labels can be right: a set as the texts of its labels.
const labelsOf = output => output === record.sets[1] ? [] : output.split(record.sets[0]);

function tableOf(heads, lines) {
  const table = make("table"), head = make("tr"), body = make("tbody"), top = make("thead");
  for (const text of heads) head.append(make("th", text));
  top.append(head);
  body.append(...lines);
  table.append(top, body);
  return table;
}

function eachLabel(rows, gold) {
  const counts = new Map(record.labels.map(label => [label, [0, 0, 0, 0]]));
  for (const row of rows) {
    const right = new Set(labelsOf(gold(row))), given = new Set(labelsOf(row[1]));
    for (const [label, n] of counts) n[right.has(label) ? (given.has(label) ? 0 : 2) : (given.has(label) ? 1 : 3)]++;
  }
  const share = (part, whole) => whole ? (part / whole).toFixed(2) : "";
  return tableOf(["label", "rightly said", "wrongly said", "missed", "rightly not said", "precision", "recall", "F1"],
    [...counts].map(([label, [hit, wrong, missed, none]]) => {
      const line = make("tr"), name = make("th", label);
      name.scope = "row";
      line.append(name);
      for (const n of [hit, wrong, missed, none]) line.append(make("td", n, "cell"));
      for (const text of [share(hit, hit + wrong), share(hit, hit + missed), share(2 * hit, 2 * hit + wrong + missed)]) line.append(make("td", text));
      return line;
    }));
}

function confusion(recipe) {
  const rows = record.rows[recipe].filter(row => row[1] !== null);
  const gold = row => record.examples[row[0]][1];
  if (record.sets) {
    at("confusion").replaceChildren(eachLabel(rows, gold));
    return;
  }
  const labels = record.labels.length ? record.labels : [...new Set(rows.flatMap(row => [gold(row), row[1]]))].sort();
  const place = at("confusion");
  place.replaceChildren();
  if (!rows.length || labels.length > 40) {
    place.append(make("p", rows.length ? `${labels.length} different answers are too many for a table.` : "No answers were written.", "quiet"));
    return;
  }
  const counts = new Map();
  for (const row of rows) counts.set(gold(row) + "\0" + row[1], (counts.get(gold(row) + "\0" + row[1]) || 0) + 1);
  const most = Math.max(...counts.values());
  const table = make("table"), head = make("tr");
  head.append(make("th", "right \\ given"));
  for (const label of labels) head.append(make("th", label));
  const top = make("thead"), body = make("tbody");
  top.append(head);
  for (const right of labels) {
    const line = make("tr"), name = make("th", right);
    name.scope = "row";
    line.append(name);
    for (const given of labels) {
      const n = counts.get(right + "\0" + given) || 0, cell = make("td", n || "", "cell");
      const far = record.ordered ? Math.abs(labels.indexOf(right) - labels.indexOf(given)) / (labels.length - 1) : 1;
      const share = right === given ? 1 : far; // of ordered labels, an answer that is near is a small mistake
      if (n) cell.style.background = `color-mix(in srgb, var(${right === given ? "--good" : "--bad"}) ${Math.round(10 + 50 * share * n / most)}%, var(--paper))`;
      line.append(cell);
    }
    body.append(line);
  }
  table.append(top, body);
  place.append(table);
}

function calibration(recipe) {
  const bins = Array.from({length: 10}, () => [0, 0, 0]), place = at("calibration");
  place.replaceChildren();
  for (const row of record.rows[recipe]) {
    if (record.sets) {
      const right = new Set(labelsOf(record.examples[row[0]][1]));
      for (let i = 0; i < row[4].length; i += 2) {
        const sure = row[4][i + 1], bin = bins[Math.min(9, Math.floor(10 * sure))];
        bin[0]++; bin[1] += sure; bin[2] += right.has(row[4][i]);
      }
      continue;
    }
    if (row[2] === null || row[4].length < 4) continue;
    const sure = row[4][1], bin = bins[Math.min(9, Math.floor(10 * sure))];
    const right = record.ordered ? row[4][0] === record.examples[row[0]][1] : row[2]; // a score of ordered labels is none of being right
    bin[0]++; bin[1] += sure; bin[2] += right;
  }
  const n = bins.reduce((sum, bin) => sum + bin[0], 0);
  if (!n) { place.append(make("p", "Only answers out of a closed set have probabilities to compare.", "quiet")); return; }
  const off = bins.reduce((sum, [m, p, s]) => sum + (m ? Math.abs(p - s) : 0), 0) / n;
  place.append(make("p", `Expected calibration error ${off.toFixed(3)} over ${n} ${record.sets ? "labels: the most probable of each input, and those that are right" : "answers"}.`));
  const table = make("table"), head = make("tr"), body = make("tbody"), top = make("thead");
  for (const text of ["said", "was right", "", "n"]) head.append(make("th", text));
  top.append(head);
  for (const [m, p, s] of bins) {
    if (!m) continue;
    const line = make("tr"), cell = make("td"), bar = make("span", undefined, "bar");
    bar.style.width = `${8 * s / m}rem`;
    cell.append(bar);
    cell.style.textAlign = "left";
    line.append(make("td", (p / m).toFixed(2)), make("td", (s / m).toFixed(2)), cell, make("td", m));
    body.append(line);
  }
  table.append(top, body);
  place.append(table);
}

function promptOf(recipe, example) {
  const sent = opened[recipe] && opened[recipe][byExample[recipe].get(example)], all = make("div");
  if (!sent || !sent[0].length) return make("p", "This recipe sends no prompt.", "quiet");
  sent.forEach((ids, context) => {
    const box = make("pre");
    if (sent.length > 1) all.append(make("h4", `Context ${context + 1} of ${sent.length}`));
    for (const id of ids) {
      const [role, text] = record.segments[id];
      box.append(role === "answer" ? make("mark", text) : document.createTextNode(text));
    }
    all.append(box);
  });
  return all;
}

// Words that an answer rests on, darker the more it follows them.
function weighed(pieces) {
  const box = make("pre");
  for (const [text, value] of pieces) {
    const word = value ? make("span", text) : document.createTextNode(text);
    if (value) {
      word.style.background = `color-mix(in srgb, var(--mark) ${Math.round(60 * value)}%, transparent)`;
      word.title = value.toFixed(2);
    }
    box.append(word);
  }
  return box;
}

function detail(example) {
  const [input, right, context, odd] = record.examples[example], box = make("div"), seen = record.saliency[example];
  if (context) box.append(make("h3", "Context"), seen ? weighed(seen[2]) : make("pre", context));
  if (odd) box.append(make("p", "Nearly every recipe is surprised by this label.", "wrong"));
  const table = make("table"), head = make("tr"), body = make("tbody"), top = make("thead"), shown = make("div");
  for (const text of ["recipe", "answer", "bits", "probabilities", ""]) head.append(make("th", text));
  top.append(head);
  record.recipes.forEach((name, recipe) => {
    const row = rowOf(recipe, example);
    if (!row) return;
    const line = make("tr"), see = make("button", "prompt"), cell = make("td");
    see.type = "button";
    see.setAttribute("aria-label", `Prompt of ${name}`);
    see.onclick = () => shown.replaceChildren(make("h3", `Prompt of ${name}, as sent; what stands after it is the answer`), promptOf(recipe, example));
    const pairs = [];
    for (let i = 0; i < row[4].length; i += 2) pairs.push(`${row[4][i]} ${row[4][i + 1]}`);
    cell.append(see);
    const answer = make("td", row[1] === null ? "not written" : row[1], row[2] === null ? "quiet" : isWrong(row) ? "wrong" : "right");
    if (row[5]) answer.append(make("small", ` (${row[5] === "neither" ? "neither from the passage nor from memory" : `from ${row[5] === "passage" ? "the passage" : "memory"}`})`));
    line.append(make("td", name), answer, make("td", row[3].toFixed(2)), make("td", pairs.join(" · ")), cell);
    body.append(line);
  });
  table.append(top, body);
  const wide = make("div", undefined, "wide");
  wide.append(table);
  box.append(make("h3", "Input"), seen ? weighed(seen[1]) : make("pre", input));
  if (seen) box.append(make("p", `The darker a word, the more the answer "${seen[0]}" rests on it, of the model that was handed over, which has learnt the examples.`, "quiet"));
  box.append(wide, shown);
  return box;
}

let first = 0;
function matching() {
  const which = at("which").value, find = at("find").value.toLowerCase(), recipe = at("recipe").selectedIndex;
  return record.examples.map((_, i) => i).filter(i => {
    const [input, right, , odd] = record.examples[i];
    if (find && !`${input}\n${right}`.toLowerCase().includes(find)) return false;
    if (which === "all") return true;
    if (which === "odd") return odd;
    if (which === "wrong") return isWrong(rowOf(recipe, i));
    const rows = record.recipes.map((_, r) => rowOf(r, i)).filter(row => row && row[1] !== null);
    if (which === "all-wrong") return rows.length && rows.every(isWrong);
    return new Set(rows.map(row => row[1])).size > 1;
  });
}

function list() {
  const found = matching(), place = at("list"), recipe = at("recipe").selectedIndex;
  first = Math.max(0, Math.min(first, found.length - 1));
  first -= first % PER_PAGE;
  at("count").textContent = found.length ? `${first + 1} to ${Math.min(first + PER_PAGE, found.length)} of ${found.length}` : "none";
  at("back").disabled = !first;
  at("on").disabled = first + PER_PAGE >= found.length;
  place.replaceChildren(...found.slice(first, first + PER_PAGE).map(i => {
    const one = make("details"), line = make("summary"), row = rowOf(recipe, i), [input, right] = record.examples[i];
    line.append(document.createTextNode(input.length > 160 ? `${input.slice(0, 160)}…` : input), make("b", right));
    if (row && row[1] !== null) line.append(make("span", isWrong(row) ? `✗ ${row[1]}` : "✓", isWrong(row) ? "wrong" : "right"));
    one.append(line);
    one.ontoggle = () => { if (one.open && one.childElementCount === 1) one.append(detail(i)); };
    return one;
  }));
}

for (const name of record.recipes) at("recipe").append(make("option", name));
function choose() {
  if (!record.recipes.length) return;
  confusion(at("recipe").selectedIndex);
  calibration(at("recipe").selectedIndex);
  list();
}
at("recipe").onchange = choose;
for (const id of ["which", "find"]) at(id).oninput = () => { first = 0; list(); };
at("back").onclick = () => { first -= PER_PAGE; list(); };
at("on").onclick = () => { first += PER_PAGE; list(); };
at("filter").onsubmit = event => event.preventDefault();
choose();
