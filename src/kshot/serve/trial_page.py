"""The page to try a model in a browser: labels with bars, and the examples shown. It loads nothing from elsewhere."""

PAGE = r"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>kshot</title>
<style>
  :root { color-scheme: light dark; --bar: #3b6fb6; --soft: #8886; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.3rem; margin: 0; }
  p.about { margin: .2rem 0 1rem; opacity: .75; }
  textarea, input { font: inherit; width: 100%; box-sizing: border-box; padding: .5rem; }
  textarea, input { border: 1px solid var(--soft); border-radius: .3rem; }
  button { font: inherit; padding: .4rem 1.2rem; margin: .6rem 0; border: 0; border-radius: .3rem; }
  button { background: var(--bar); color: #fff; cursor: pointer; }
  button:disabled { opacity: .5; cursor: default; }
  .row { display: grid; grid-template-columns: minmax(6rem, 30%) 1fr 4.5rem; gap: .6rem; }
  .row { align-items: center; margin: .15rem 0; }
  .row span { overflow-wrap: anywhere; }
  .row.best { font-weight: 600; }
  .track { background: var(--soft); border-radius: .2rem; height: 1rem; }
  .bar { background: var(--bar); border-radius: .2rem; height: 100%; }
  .number { text-align: right; font-variant-numeric: tabular-nums; }
  .answer { font-size: 1.15rem; margin: .5rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
  .error { color: #c0392b; }
  details { margin: .6rem 0; }
  td { padding: .1rem .8rem .1rem 0; vertical-align: top; overflow-wrap: anywhere; }
  td:last-child { font-weight: 600; white-space: nowrap; }
  label { display: block; margin-top: .6rem; opacity: .75; }
</style>
<h1 id="name">kshot</h1>
<p class="about" id="about"></p>
<form id="form">
  <div id="keyed" hidden><label for="key">Key</label><input id="key" type="password" autocomplete="off"></div>
  <label for="input">Input</label>
  <textarea id="input" rows="3" required autofocus></textarea>
  <div id="chosen" hidden>
    <label for="choices">Choices, one a line</label><textarea id="choices" rows="4"></textarea>
  </div>
  <button id="ask">Ask</button>
</form>
<section id="result" aria-live="polite"></section>
<script>
  const at = id => document.getElementById(id);
  const made = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  async function call(path, body) {
    const headers = {};
    if (at("key").value) headers.Authorization = "Bearer " + at("key").value;
    if (body) headers["Content-Type"] = "application/json";
    const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
    const said = await answer.json();
    if (answer.ok) return said;
    if (answer.status === 401) at("keyed").hidden = false;
    throw new Error(said.error ? said.error.message : "The server answers " + answer.status);
  }
  let known = null;
  async function learn() {
    known = await call("about");
    at("name").textContent = known.model;
    document.title = known.model + " - kshot";
    const how = known.kind.replace("_", " ") + ", by " + known.recipe;
    at("about").textContent = [known.instruction, how].filter(Boolean).join(" - ");
    at("chosen").hidden = known.kind !== "multiple_choice";
  }
  function show(said, ms) {
    const out = [];
    const right = Array.isArray(said.answer) ? said.answer : [said.answer];
    out.push(made("p", "answer", said.unsure ? "unsure" : right.join(", ") || "(none)"));
    const rows = Object.entries(said.probabilities).sort((a, b) => b[1] - a[1]);
    for (const [label, p] of rows) {
      const row = made("div", right.includes(label) ? "row best" : "row");
      const track = made("div", "track"), bar = made("div", "bar");
      bar.style.width = 100 * p + "%";
      track.append(bar);
      row.append(made("span", "", label), track, made("span", "number", (100 * p).toFixed(1) + " %"));
      out.push(row);
    }
    const contexts = said.contexts || [];
    contexts.forEach((context, i) => {
      const many = contexts.length > 1 ? " in context " + (i + 1) : "";
      const box = made("details"), table = made("table");
      box.open = i === 0;
      box.append(made("summary", "", context.length + " examples shown" + many));
      for (const e of context) {
        const row = made("tr");
        row.append(made("td", "", e.input), made("td", "", [].concat(e.output).join(", ") || "(none)"));
        table.append(row);
      }
      box.append(table);
      out.push(box);
    });
    out.push(made("p", "about", said.prompt_tokens + " tokens of prompt, " + Math.round(ms) + " ms"));
    at("result").replaceChildren(...out);
  }
  at("form").addEventListener("submit", async event => {
    event.preventDefault();
    at("ask").disabled = true;
    try {
      if (!known) await learn();
      const choices = at("choices").value.split("\n").map(s => s.trim()).filter(Boolean);
      const row = known.kind === "multiple_choice" ? { input: at("input").value, choices } : at("input").value;
      const began = performance.now();
      const said = await call("predict", { inputs: [row], show: true });
      show(said.predictions[0], performance.now() - began);
    } catch (error) {
      at("result").replaceChildren(made("p", "error", error.message));
    }
    at("ask").disabled = false;
  });
  const linked = decodeURIComponent(location.hash.slice(1));  // /#an input: never sent but as a question
  learn().then(() => {
    at("input").value = linked;
    if (linked && at("chosen").hidden) at("form").requestSubmit();
  }).catch(error => at("result").replaceChildren(made("p", "error", error.message)));
</script>
</html>
"""
